"""Sealed shards in memory, without TensorFlow."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from securetrain.api.names import Split
from securetrain.errors import ShardCorrupt
from securetrain.secret import Secret
from securetrain_trainer.shards import OpenShards, SealedSplit, count_frames, unseal
from support.trainer_kit import dataset_of, seal_dataset


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> SealedSplit:
    root = tmp_path_factory.mktemp("shards")
    deks = seal_dataset(root / "data")
    dataset = dataset_of(root)
    return SealedSplit(
        dataset.folder,
        dataset.manifest.id,
        Split.TRAIN,
        dataset.indexes[Split.TRAIN],
        deks[Split.TRAIN],
    )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_shard_lies_in_memory_and_cannot_be_changed(split: SealedSplit) -> None:
    descriptor = unseal(split, 0)
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
        assert not os.get_inheritable(descriptor)
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 1)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as memory:
            assert count_frames(memory) == split.entries[0].records
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", "0" * 64), ("records", 1), ("bytes", 60)],
)
def test_the_index_is_held_against_the_shard(split: SealedSplit, field: str, value: object) -> None:
    entry = split.entries[1].model_copy(update={field: value})
    changed = replace(split, entries=(split.entries[0], entry, *split.entries[2:]))
    before = open_descriptors()
    with pytest.raises(ShardCorrupt, match=split.entries[1].path):
        unseal(changed, 1)
    assert open_descriptors() == before


def test_a_shard_opens_in_its_own_place_only(split: SealedSplit) -> None:
    with pytest.raises(ShardCorrupt):
        unseal(replace(split, entries=split.entries[:-1]), 0)
    with pytest.raises(ShardCorrupt):
        unseal(replace(split, split=Split.TEST), 0)
    with pytest.raises(ShardCorrupt):
        unseal(replace(split, dek=Secret(bytes(32))), 0)


def test_the_owner_closes_everything(split: SealedSplit) -> None:
    before = open_descriptors()
    with OpenShards(split) as shards:
        walk = shards.walk(range(len(split.entries)))
        first, second = next(walk), next(walk)
        assert Path(first).exists()
        shards.release(first)
        shards.release(first)
        assert second.rsplit("/", 1)[1] in {str(d) for d in shards.open_descriptors()}
    assert open_descriptors() == before
    assert shards.open_descriptors() == frozenset()


def test_a_walk_ends_at_a_bad_shard_and_keeps_the_reason(split: SealedSplit) -> None:
    entry = split.entries[1].model_copy(update={"sha256": "0" * 64})
    changed = replace(split, entries=(split.entries[0], entry, *split.entries[2:]))
    with OpenShards(changed) as shards:
        assert len(list(shards.walk(range(len(split.entries))))) == 1
        assert isinstance(shards.error, ShardCorrupt)


@pytest.mark.parametrize(
    "data",
    [
        b"short",
        struct.pack("<Q", 2**63) + bytes(8),
        struct.pack("<Q", 5) + bytes(4 + 4 + 4),
        struct.pack("<Q", 1) + bytes(4 + 1 + 4) + b"tail",
    ],
)
def test_frames_must_fill_the_shard(data: bytes) -> None:
    with pytest.raises(ShardCorrupt):
        count_frames(data)
