"""Bounded, link-free reads of a sealed folder."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from securetrain.errors import BadConfiguration, ManifestInvalid, ModelCorrupt
from securetrain.sealed import files


def descriptors() -> list[str]:
    """Those of this process; what other tests have left open is closed first."""
    gc.collect()
    return os.listdir("/proc/self/fd")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_and_leaves_no_descriptor_open(
    tmp_path: Path, kind: str
) -> None:
    make = os.mkdir if kind == "folder" else os.mkfifo
    make(tmp_path / "model.json")
    before = descriptors()
    with pytest.raises(ModelCorrupt, match=r"model\.json is not a regular file"):
        files.read(tmp_path, "model.json", 100, ModelCorrupt)
    assert descriptors() == before


def test_a_file_as_long_as_its_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(b"12345")
    assert files.read(tmp_path, "keys.json", 5) == b"12345"
    before = descriptors()
    with pytest.raises(ManifestInvalid, match="5 bytes, more than 4"):
        files.read(tmp_path, "keys.json", 4)
    assert descriptors() == before


def test_opened_weights_are_their_owners_alone_and_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    files.write_private(path, b"plain")
    assert path.stat().st_mode & 0o777 == 0o600
    for place in (path, tmp_path / "gone" / "weights"):
        with pytest.raises(BadConfiguration, match=f"{place} cannot be written"):
            files.write_private(place, b"other")
    assert path.read_bytes() == b"plain"

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadConfiguration, match="No space left"):
        files.write_private(tmp_path / "other", b"plain")
    assert not (tmp_path / "other").exists()
    with files.private_folder(path) as private:
        assert private.stat().st_mode & 0o777 == 0o700
        (private / "made").write_bytes(b"new")
        with pytest.raises(BadConfiguration, match="No space left"):
            files.publish_private(private / "made", path)
    assert path.read_bytes() == b"plain"
