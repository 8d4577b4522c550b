"""The trainer's data path: order, shape, open files and tampered shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from securetrain.api.names import Split
from securetrain.errors import ShardCorrupt
from securetrain_trainer import training
from securetrain_trainer.pipeline import CYCLE, Batches, record_seed, shard_order
from securetrain_trainer.shards import OpenShards, SealedSplit
from support.api import eventually
from support.trained import Trained
from support.trainer_kit import (
    CLASSES,
    SIDE,
    FakeOperator,
    GivenKeys,
    dataset_of,
    run_spec,
    seal_dataset,
)

pytestmark = pytest.mark.timeout(600)


def split_of(trained: Trained, root: Path, split: Split = Split.TRAIN) -> SealedSplit:
    keys = trained.keys
    dataset = dataset_of(root)
    return SealedSplit(
        dataset.folder, dataset.manifest.id, split, dataset.indexes[split], keys.deks[split]
    )


def open_files() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return [target for target in found if target.startswith("/memfd:shard")]


def digests(batches: Iterator[tuple[Any, Any]]) -> list[str]:
    return [
        hashlib.sha256(np.asarray(x).tobytes() + np.asarray(y).tobytes()).hexdigest()
        for x, y in batches
    ]


def test_order_is_a_function_of_seed_and_epoch(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    split = split_of(trained, trained.root)
    with Batches(split, manifest, 16) as batches:
        first = digests(batches.shuffled(3, 1))
        assert digests(batches.shuffled(3, 1)) == first
        assert digests(batches.shuffled(3, 2)) != first
        assert digests(batches.shuffled(4, 1)) != first
        labels = [int(n) for _, y in batches.shuffled(3, 1) for n in y]
        in_order = [int(n) for _, y in batches.in_order() for n in y]
    assert sorted(labels) == sorted(in_order)
    assert len(labels) == manifest.splits[Split.TRAIN].records
    assert shard_order(5, 3, 1) == shard_order(5, 3, 1)
    assert record_seed(3, 1) != record_seed(3, 2)


def test_batches_are_made_while_a_step_takes_its_time(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under determinism an operation with state would have them made when they are asked for."""
    done: list[str] = []
    release = OpenShards.release

    def noted(shards: OpenShards, path: str) -> None:
        release(shards, path)
        done.append(path)

    monkeypatch.setattr(OpenShards, "release", noted)
    split, manifest = split_of(trained, trained.root), dataset_of(trained.root).manifest
    config.enable_op_determinism()
    try:
        with Batches(split, manifest, -(-split.records // 3)) as batches:
            walk = batches.in_order()
            next(walk)  # a third; the others are made meanwhile, and then no shard is needed
            eventually(lambda: len(done) == len(split.entries), "the rest is read", seconds=120)
            assert len(list(walk)) == 2
    finally:
        config.disable_op_determinism()


@pytest.mark.parametrize("process", [0, 7])
def test_the_seed_of_the_process_is_not_mixed_into_the_order(
    trained: Trained, process: int
) -> None:
    manifest = dataset_of(trained.root).manifest
    split = split_of(trained, trained.root)
    found = []
    for seed in (process, None):
        tf.random.set_seed(seed)
        with Batches(split, manifest, 16) as batches:
            found.append(digests(batches.shuffled(0, 1)))
    assert found[0] == found[1]


def test_images_are_scaled_and_shaped(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    with Batches(split_of(trained, trained.root), manifest, 16) as batches:
        images, labels = next(iter(batches.in_order()))
    assert images.shape == (16, SIDE, SIDE, 1)
    assert 0.5 < float(np.max(images)) <= 1.0
    assert set(np.asarray(labels).tolist()) <= set(range(CLASSES))


def test_no_decrypted_shard_stays_open(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    split = split_of(trained, trained.root)
    assert len(split.entries) > 4
    with Batches(split, manifest, 16) as batches:
        for _ in batches.in_order():
            # twice (ours and TensorFlow's) the interleaved ones, one more, and one ahead
            assert len(open_files()) <= 2 * (CYCLE + 1) + 1
        assert open_files() == []
        abandoned = batches.in_order()
        next(abandoned)
        assert open_files() != []
    assert open_files() == []


def test_a_walk_begins_when_the_one_before_has_ended(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    with Batches(split_of(trained, trained.root), manifest, 16) as batches:
        abandoned = batches.shuffled(3, 1)
        next(abandoned)
        with pytest.raises(RuntimeError, match="has not ended"):
            next(batches.in_order())
        del abandoned
        assert len(digests(batches.shuffled(3, 1))) == batches.per_epoch


@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "foreign", "missing", "link"])
def test_a_shard_that_was_tampered_with_is_named(
    trained: Trained, tmp_path: Path, harm: str
) -> None:
    trained.copy(tmp_path)
    shards = tmp_path / "data" / "shards"
    victim = shards / sorted(p.name for p in shards.glob("train-*"))[2]
    tamper(harm, victim, tmp_path)
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    named = "shards/train-0000[0-9]" if harm == "swap" else victim.name
    with pytest.raises(ShardCorrupt, match=named) as caught:
        training.run_training(run_spec(tmp_path), keys, FakeOperator(), start=lambda: 1)
    assert caught.value.exit_code == 12
    assert open_files() == []


def tamper(harm: str, victim: Path, root: Path) -> None:
    data = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(data[:90] + bytes([data[90] ^ 1]) + data[91:])
    elif harm == "cut":
        victim.write_bytes(data[:-17])
    elif harm == "swap":
        other = next(p for p in sorted(victim.parent.glob("train-*")) if p != victim)
        victim.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif harm == "foreign":
        seal_dataset(root / "foreign", seed=9)
        victim.write_bytes((root / "foreign" / "shards" / victim.name).read_bytes())
    else:
        victim.unlink()
        if harm == "link":
            aside = root / "aside"
            aside.write_bytes(data)
            victim.symlink_to(aside)
