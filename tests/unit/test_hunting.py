"""The search for secrets finds each spelling of each of them, and nothing else."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest

from support.hunting import Find, hunt, lines_with
from support.spellings import searchable

KEY = bytes(range(230, 256)) + b"\n\0\"'/+"
OTHER = bytes(range(32))
ENCODINGS = {"base64": base64.b64encode, "URL-safe base64": base64.urlsafe_b64encode}
SPELLED = {
    "raw": KEY,
    "hex": KEY.hex().encode(),
    "upper hex": KEY.hex().upper().encode(),
    "in a JSON text": json.dumps({"k": KEY.decode("latin-1")}).encode(),
    "in a UTF-8 text": json.dumps(KEY.decode("latin-1"), ensure_ascii=False).encode(),
    "as Python shows it": repr(KEY).encode(),
    "as numbers": json.dumps(list(KEY)).encode(),
    "as pixels": np.frombuffer(KEY, np.uint8).astype(np.float32).tobytes(),
    "as scaled pixels": (np.frombuffer(KEY, np.uint8) / np.float32(255)).tobytes(),
    **{
        f"{name} after {before} and before {after} bytes": encode(
            b"s" * before + KEY + b"t" * after
        )
        for before in range(4)
        for after in range(3)
        for name, encode in ENCODINGS.items()
    },
}


@pytest.mark.parametrize("how", SPELLED)
def test_every_spelling_is_found(tmp_path: Path, how: str) -> None:
    file = tmp_path / "deep" / "file"
    file.parent.mkdir()
    file.write_bytes(b"\0xx\n" + SPELLED[how] + b"\0\n")
    (tmp_path / "innocent").write_bytes(OTHER[:31] + SPELLED[how][:7])
    assert hunt({"key": KEY, "other": OTHER}, {"here": tmp_path}) == [Find("key", "here", file)]


def test_each_secret_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(KEY + b"-" + OTHER.hex().encode())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(OTHER)
    found = hunt({"key": KEY, "other": OTHER}, {"all": tmp_path, "inner": tmp_path / "b"})
    assert {(find.secret, find.place) for find in found} == {
        ("key", "all"),
        ("other", "all"),
        ("other", "inner"),
    }


def test_what_has_not_changed_since_may_be_left_out(tmp_path: Path) -> None:
    """By the time of the change, which nobody can set, unlike that of the content."""
    (tmp_path / "old").write_bytes(KEY)
    since = tmp_path / "since"
    while not since.exists() or since.stat().st_ctime <= (tmp_path / "old").stat().st_ctime:
        since.write_text("now")
    new = tmp_path / "new"
    while not new.exists() or new.stat().st_ctime <= since.stat().st_ctime:
        new.write_bytes(KEY)
    os.utime(new, (0, 0))
    assert hunt({"key": KEY}, {"here": tmp_path}, since=since) == [Find("key", "here", new)]


def test_lines_that_hold_a_secret_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\nsecond " + KEY.hex().encode() + b" end\nthird\n")
    assert lines_with({"key": KEY}, [log]) == [b"second " + KEY.hex().encode() + b" end"]


def test_a_place_that_is_not_there_is_no_clean_place(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not there"):
        hunt({"key": KEY}, {"gone": tmp_path / "gone"})


def test_a_secret_of_line_breaks_is_refused() -> None:
    with pytest.raises(ValueError, match="line breaks"):
        searchable(b"1234567\n7654321\n")
