"""Records that wait for their shard are nowhere in plaintext, and have no name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from securetrain.errors import BadConfiguration, InvalidInput
from securetrain.sealed.plan import planned
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.npz import NpzSource
from securetrain.sealed.sources.opening import open_source
from securetrain.sealed.sources.spill import Spill
from securetrain.sealed.splits import Fractions
from securetrain.sealed.strict_json import dump
from securetrain.sealed.writer import SealOptions, seal_planned
from support.real_sources import encoded, image_folder, npz_file, picture
from support.sealed_folders import POLICY, KeptKeys
from support.sources import records_of


def test_what_waits_is_sealed_and_nameless(tmp_path: Path) -> None:
    source = NpzSource(npz_file(tmp_path / "a.npz", 30), Wishes())
    folder = tmp_path / "scratch"
    folder.mkdir()
    with Spill(source, folder) as spill:
        records = records_of(spill)
        assert list(folder.iterdir()) == []
        file = spill._file.fileno()
        stored = os.pread(file, os.fstat(file).st_size, 0)
        assert len(stored) == sum(record.span for record in records)
        for record in records:
            assert record.example[20:60] not in stored
            assert spill.read(record.where, record.span) == record.example
        os.pwrite(file, bytes([stored[5] ^ 1]), 5)
        with pytest.raises(InvalidTag):
            spill.read(records[0].where, records[0].span)


def test_two_spills_of_one_source_have_keys_of_their_own(tmp_path: Path) -> None:
    source = NpzSource(npz_file(tmp_path / "a.npz", 3), Wishes())
    with Spill(source, tmp_path) as one, Spill(source, tmp_path) as other:
        first, second = records_of(one)[0], records_of(other)[0]
        files = [each._file.fileno() for each in (one, other)]
        sealed = [os.pread(file, first.span, first.where) for file in files]
        assert first.example == second.example
        assert sealed[0] != sealed[1]


def test_a_source_that_changes_while_it_is_sealed_is_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 60)
    source, _ = open_source(root, Wishes())
    options = SealOptions(kek="k", policy=dump(POLICY))
    with planned(source, Fractions(), tmp_path) as plan:
        (root / "cat" / "0000.png").write_bytes(encoded(picture(0, 0, side=99)))
        with pytest.raises(InvalidInput, match="changed while it was read"):
            seal_planned(plan, tmp_path / "sealed", options, KeptKeys())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def full_disk(**options: Any) -> Any:
    return open("/dev/full", "w+b", buffering=options["buffering"])


@pytest.mark.parametrize("records", [2, 3000])  # told when the buffer is put down, or before
def test_a_full_disk_is_named_while_the_source_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    source = NpzSource(npz_file(tmp_path / "a.npz", records), Wishes())
    monkeypatch.setattr(tempfile, "TemporaryFile", full_disk)
    named = pytest.raises(BadConfiguration, match=f"{tmp_path} cannot be .*No space left")
    with named, planned(source, Fractions(), tmp_path):
        pass


def test_a_place_without_a_right_to_write_is_named(tmp_path: Path) -> None:
    source = NpzSource(npz_file(tmp_path / "a.npz", 2), Wishes())
    with (
        pytest.raises(BadConfiguration, match="gone"),
        planned(source, Fractions(), tmp_path / "gone"),
    ):
        pass
