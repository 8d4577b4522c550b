"""The trainer on sealed shards against TensorFlow on the same records in plaintext."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from bench import reading
from bench.compare import Contest
from bench.datasets import (
    BATCH,
    CLASSES,
    SEED,
    Twins,
    encrypted_one_by_one,
    jpeg_folder,
    raw_images,
    twins,
)
from securetrain.api.types import ModelSpec, TrainingSpec
from securetrain_trainer import models
from securetrain_trainer.phase import shape_of
from securetrain_trainer.train import optimizer_of, seed_everything, step_function

RAW_BYTES: Final = 860
JPEG_BYTES: Final = 19_500
PIPELINE_TARGET: Final = 0.93
TRAINING_TARGET: Final = 0.97
SPEC: Final = TrainingSpec(seed=SEED, batch_size=BATCH)
MLP: Final = ModelSpec(architecture="mlp")
CNN: Final = ModelSpec(architecture="cnn")
SMALL_CNN: Final = ModelSpec(architecture="cnn", parameters={"filters": "8", "dense": "32"})
"""For images of 224×224: with the default parameters an epoch takes minutes on two cores."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Records of the datasets, of which four fifths are read."""

    raw: int = 40_000
    raw_few: int = 5_000
    """For the large model, and for the recipe."""
    jpeg: int = 1_200


def contests(root: Path, sizes: Sizes) -> Generator[tuple[Contest, int], None, None]:
    """The contests, and how many times the rounds each has.

    Args:
        root: a folder; holds plaintext while the contests last.
        sizes: of the datasets.
    """
    with twins(root / "raw", raw_images(sizes.raw), RAW_BYTES) as raw:
        reading.check_same(raw, reading.plain_raw)
        plain = reading.plain_raw(raw)
        yield _pipeline("pipeline-28x28", raw, plain, "parse_example", PIPELINE_TARGET), 3
        same = reading.plain_by_our_parser(raw)
        yield _pipeline("pipeline-28x28-own-parser", raw, same, "with our parser", None), 3
        yield _epoch("train-28x28-mlp", MLP, raw, plain), 3
    with twins(root / "jpeg", jpeg_folder(root / "images", sizes.jpeg), JPEG_BYTES) as jpeg:
        reading.check_same(jpeg, reading.plain_jpeg)
        plain = reading.plain_jpeg(jpeg)
        yield _pipeline("pipeline-224x224-jpeg", jpeg, plain, "decode_jpeg", PIPELINE_TARGET), 1
        yield _epoch("train-224x224-jpeg", SMALL_CNN, jpeg, plain), 1
    with twins(root / "few", raw_images(sizes.raw_few), RAW_BYTES) as few:
        plain = reading.plain_raw(few)
        yield _epoch("train-28x28-cnn", CNN, few, plain), 1
        yield _recipe(few, plain, root / "recipe"), 1


def _pipeline(name: str, read: Twins, plain: Any, described: str, target: float | None) -> Contest:
    return Contest(
        name,
        lambda: reading.drain(reading.sealed(read)),
        lambda: reading.drain(plain),
        f"batches of sealed shards / of TFRecordDataset, {described}",
        read.records,
        "examples",
        target,
    )


def _recipe(read: Twins, plain: Any, path: Path) -> Contest:
    key = os.urandom(32)
    encrypted_one_by_one(read, key, path)
    return Contest(
        "recipe-28x28",
        lambda: reading.drain(reading.recipe(path, key)),
        lambda: reading.drain(plain),
        "batches of base64(AES-CBC(base64(image))) / of TFRecordDataset",
        read.records,
        "examples",
    )


def _epoch(name: str, spec: ModelSpec, read: Twins, plain: Any) -> Contest:
    """A contest of training epochs; each side has a model of its own, from the same weights."""
    ours, theirs = (_trainer(spec, read) for _side in range(2))
    return Contest(
        name,
        lambda: ours(reading.sealed(read)),
        lambda: theirs(plain),
        f"training epoch of {spec.architecture}, sealed / plaintext",
        read.records,
        "examples",
        TRAINING_TARGET,
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
