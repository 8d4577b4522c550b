"""Sealed shards in memory, without TensorFlow."""

from __future__ import annotations

import fcntl
import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest

from securetrain.api.names import Split
from securetrain.errors import ShardCorrupt
from securetrain.sealed.examples import read_frames
from securetrain.sealed.streaming import Buffers
from securetrain.secret import Secret
from securetrain_trainer.shards import OpenShards, SealedSplit, unseal
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
    gc.collect()  # what other tests have left open is closed now, not between two counts
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
        with open(descriptor, "rb", closefd=False) as memory:
            assert sum(1 for _ in read_frames(memory)) == split.entries[0].records
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


def test_buffers_are_used_again_and_hold_no_plaintext_afterwards(split: SealedSplit) -> None:
    buffers = Buffers()
    for index in (0, 1):
        with (
            open(unseal(split, index, buffers), "rb") as reused,
            open(unseal(split, index), "rb") as fresh,
        ):
            assert reused.read() == fresh.read()
        assert not any(buffers.plain)
    entry = split.entries[0].model_copy(update={"records": 1})
    with pytest.raises(ShardCorrupt):
        unseal(replace(split, entries=(entry, *split.entries[1:])), 0, buffers)
    assert not any(buffers.plain)
