"""A folder on a claim with others at work in it: each file whole, and nothing there overlooked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.errors import OutputExists
from securetrain.storage import frames, listing
from securetrain.storage.claim import ClaimDepot
from securetrain.storage.frames import Answer, Request
from securetrain.storage.parcel import pack
from securetrain.storage.upload import require_free, upload
from support.claims import claim
from support.sealed_folders import sealed_model

FILE = "keys.json"
HALF = 150_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder on an empty claim."""
    folder = tmp_path / "mount/team/noise"
    folder.mkdir(parents=True)
    return folder


def mount_of(folder: Path) -> Path:
    return folder.parents[1]


def begin(depot: ClaimDepot, data: bytes) -> None:
    header = Request(op="write", name=FILE, size=len(data), sha256=sha256_hex(data))
    depot.pipe.write(frames.pack(header) + data[:HALF])


def end(depot: ClaimDepot, data: bytes) -> Answer | None:
    depot.pipe.write(data[HALF:])
    return frames.unpack(Answer, depot.pipe.read)


def wait_for_growing(folder: Path, seen: set[int], count: int) -> None:
    """Wait until so many files in all have been seen to grow."""
    until = time.monotonic() + 60
    while len(seen) < count:
        assert time.monotonic() < until
        for path in folder.glob(".*"):
            status = path.stat()
            if status.st_size:
                seen.add(status.st_ino)


def test_of_two_receivers_that_write_one_file_each_makes_it_whole(folder: Path) -> None:
    first, second = b"1" * 2 * HALF, b"2" * 2 * HALF
    growing: set[int] = set()
    with claim(mount_of(folder)) as one, claim(mount_of(folder)) as other:
        begin(one, first)
        wait_for_growing(folder, growing, 1)
        begin(other, second)
        wait_for_growing(folder, growing, 2)
        assert end(one, first) == Answer()
        assert (folder / FILE).read_bytes() == first
        assert end(other, second) == Answer()
        assert (folder / FILE).read_bytes() == second
    assert os.listdir(folder) == [FILE]


def test_what_a_killed_receiver_left_is_removed_and_what_grows_is_not(folder: Path) -> None:
    abandoned, growing = (folder / listing.partial_name(FILE) for _ in range(2))
    for path in (abandoned, growing):
        path.write_bytes(b"half")
    old = time.time() - listing.ABANDONED_SECONDS - 60
    os.utime(abandoned, (old, old))
    with claim(mount_of(folder)) as depot:
        assert depot.list(10) == {}
    assert os.listdir(folder) == [growing.name]


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (".hidden", ".hidden"),
        (".keys.json.partial", ".keys.json.partial"),
        ("caf\u00e9", "caf\\xe9"),
        ("a\nb", "a\\nb"),
        ("empty/", "empty/"),
        ("shards/deep/", "shards/deep/"),
        (".git/", ".git/"),
        ("link@", "link (not a file)"),
    ],
)
def test_whatever_is_there_makes_the_place_another_s(
    folder: Path, tmp_path: Path, entry: str, shown: str
) -> None:
    path = folder / entry.rstrip("@/")
    path.parent.mkdir(exist_ok=True)
    if entry.endswith("/"):
        path.mkdir()
    elif entry.endswith("@"):
        path.symlink_to("/nowhere")
    else:
        path.write_bytes(b"mine")
    before = sorted(folder.rglob("*"))
    with claim(mount_of(folder)) as depot:
        assert set(depot.list(10)) == {shown}
        with pytest.raises(OutputExists) as caught:
            require_free(depot, "choose another")
        assert shown in caught.value.message
        with pytest.raises(OutputExists, match="no part of this upload"):
            upload(pack(sealed_model(tmp_path / "model")), depot)
    assert sorted(folder.rglob("*")) == before


def test_a_name_is_cut_and_never_taken_for_another(folder: Path) -> None:
    (folder / ("\u00e9" * 120)).write_bytes(b"mine")
    with claim(mount_of(folder)) as depot:
        (name,) = depot.list(10)
    assert len(name) == listing.MAX_NAME
    assert "\\" in name
