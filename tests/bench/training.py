"""The trainer on sealed shards against TensorFlow on the same shards in plaintext.

The plaintext side is what one writes without securetrain: TFRecordDataset over files, the same
interleaving, shuffle, batch and parser. The batches of both sides are compared before they race.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf

from bench.compare import Contest
from securetrain.api.names import Split
from securetrain.api.types import ModelSpec, TrainingSpec
from securetrain.sealed.dataset import Manifest, Task, load_dataset
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.writer import SealOptions, seal
from securetrain_trainer import models
from securetrain_trainer.parse import parser
from securetrain_trainer.phase import shape_of
from securetrain_trainer.pipeline import (
    BLOCK,
    CYCLE,
    Batches,
    record_seed,
    shard_order,
)
from securetrain_trainer.shards import SealedSplit, unseal
from securetrain_trainer.train import optimizer_of, seed_everything, step_function
from support.trainer_kit import Wrapper, policy

SIDE: Final = 28
CLASSES: Final = 10
RECORD_BYTES: Final = 850
"""A little more than an image of that size takes in a shard."""
SEED: Final = 5
EPOCH: Final = 1
SPEC: Final = TrainingSpec(seed=SEED)
Epoch = Callable[[], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Twins:
    """One train split, sealed and in plaintext: each gives the batches of one epoch."""

    sealed: Epoch
    plain: Epoch
    records: int
    manifest: Manifest


def contests(root: Path, large: int, small: int) -> Generator[Contest, None, None]:
    """The contests on datasets that are made below `root`.

    Args:
        root: a folder; holds plaintext of random images while the contests last.
        large: records of the dataset that is read, and that the small model trains on.
        small: records of the dataset that the large model trains on.
    """
    with twins(root / "large", large) as read:
        yield Contest(
            "pipeline",
            lambda: _drain(read.sealed()),
            lambda: _drain(read.plain()),
            "batches of sealed shards / of TFRecordDataset",
            read.records,
            "examples",
        )
        yield _epoch("epoch-mlp", ModelSpec(architecture="mlp"), read)
    with twins(root / "small", small) as read:
        yield _epoch("epoch-cnn", ModelSpec(architecture="cnn"), read)


@contextmanager
def twins(root: Path, records: int) -> Iterator[Twins]:
    """Seal a dataset of random images and lay its train split beside it in plaintext.

    The train split is four fifths of `records`, in about eight shards.
    """
    wrapper = Wrapper()
    shard_bytes = records * RECORD_BYTES // 10
    options = SealOptions(kek="bench", policy=policy(), shard_bytes=shard_bytes)
    seal(_source(records), root / "sealed", options, wrapper)
    dataset = load_dataset(root / "sealed")
    split = SealedSplit(
        dataset.folder,
        dataset.manifest.id,
        Split.TRAIN,
        dataset.indexes[Split.TRAIN],
        wrapper.deks[Split.TRAIN],
    )
    paths = _in_plaintext(split, root / "plain")
    with ExitStack() as stack:
        batches = stack.enter_context(Batches(split, dataset.manifest, SPEC.batch_size))
        made = Twins(
            lambda: batches.shuffled(SEED, EPOCH),
            lambda: _plain(paths, split.records, dataset.manifest),
            split.records,
            dataset.manifest,
        )
        _check_same(made)
        yield made


def _source(records: int) -> ImageSource:
    random = np.random.default_rng(SEED)
    images = random.integers(0, 256, (records, SIDE, SIDE, 1), dtype=np.uint8)
    labels = random.integers(0, CLASSES, records)
    names = tuple(str(number) for number in range(CLASSES))
    return ImageSource(
        images, labels, None, Task(kind="classification", classes=CLASSES, labels=names)
    )


def _in_plaintext(split: SealedSplit, folder: Path) -> list[str]:
    folder.mkdir()
    paths = []
    for index in range(len(split.entries)):
        with open(unseal(split, index), "rb") as shard:
            path = folder / f"{index:05}.tfrecord"
            path.write_bytes(shard.read())
        paths.append(str(path))
    return paths


def _plain(paths: list[str], records: int, manifest: Manifest) -> Any:
    """One epoch from plaintext files, in the very order of the sealed one."""
    order = shard_order(len(paths), SEED, EPOCH)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return (
        tf.data.Dataset.from_tensor_slices([paths[index] for index in order])
        .interleave(
            tf.data.TFRecordDataset, cycle_length=min(CYCLE, len(paths)), block_length=BLOCK
        )
        .shuffle(records, seed=record_seed(SEED, EPOCH), reshuffle_each_iteration=False)
        .batch(SPEC.batch_size)
        .map(parser(manifest))
        .prefetch(2)
        .with_options(options)
    )


def _check_same(read: Twins) -> None:
    for ours, theirs in zip(read.sealed(), read.plain(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if not np.array_equal(one, other):
                raise AssertionError("the sealed and the plaintext batches differ")


def _drain(epoch: Iterable[Any]) -> None:
    for _batch in epoch:
        pass


def _epoch(name: str, spec: ModelSpec, read: Twins) -> Contest:
    """A contest of training epochs; each side has a model of its own, from the same weights."""
    sealed, plain = (_trainer(spec, read) for _side in range(2))
    return Contest(
        name,
        lambda: sealed(read.sealed()),
        lambda: plain(read.plain()),
        f"training epoch of {spec.architecture}, sealed / plaintext",
        read.records,
        "examples",
    )


def _trainer(spec: ModelSpec, read: Twins) -> Callable[[Iterable[Any]], float]:
    seed_everything(SEED)
    model = models.build(spec, shape_of(read.manifest), CLASSES)
    step = step_function(model, optimizer_of(SPEC, SPEC.epochs * read.records))

    def train(epoch: Iterable[Any]) -> float:
        total = tf.constant(0.0)
        for images, labels in epoch:
            total += step(images, labels) * int(labels.shape[0])
        return float(total)

    return train
