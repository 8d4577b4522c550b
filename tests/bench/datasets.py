"""The datasets of the contests: sealed, and the same records in plaintext beside them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from securetrain.api.names import Split
from securetrain.sealed.dataset import Manifest, Task, load_dataset
from securetrain.sealed.examples import parse_example, read_frames
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.sources.base import Source, Wishes
from securetrain.sealed.sources.image_folder import ImageFolder
from securetrain.sealed.writer import SealOptions, seal
from securetrain_trainer.pipeline import Batches
from securetrain_trainer.shards import SealedSplit, unseal
from support.real_sources import legacy
from support.trainer_kit import Wrapper, policy

SMALL_SIDE: Final = 28
LARGE_SIDE: Final = 224
CLASSES: Final = 10
SHARDS: Final = 8
SEED: Final = 5
BATCH: Final = 64
DIGITS: Final = Path(__file__).resolve().parents[2] / "examples" / "digits" / "digits.npz"
NOISE: Final = 20.0
QUALITY: Final = 85
"""With that noise a JPEG has about 19 kB."""
OWN_SPLIT: Final = 0.8
"""Share of a dataset that is its train split."""


@dataclass(frozen=True, slots=True)
class Twins:
    """One train split twice."""

    sealed: Batches
    plain: tuple[str, ...]
    """Plaintext TFRecord files, a file a shard, in the order of the shards."""
    records: int
    manifest: Manifest


@contextmanager
def twins(root: Path, source: Source, record_bytes: int) -> Iterator[Twins]:
    """Seal a source and lay its train split beside it in plaintext.

    Args:
        root: a folder that does not exist; holds plaintext while the twins are in use.
        source: what is sealed.
        record_bytes: mean length of a record, of which the size of a shard follows.
    """
    wrapper = Wrapper()
    shard_bytes = int(len(source) * OWN_SPLIT * record_bytes / SHARDS)
    seal(source, root / "sealed", SealOptions("bench", policy(), shard_bytes=shard_bytes), wrapper)
    dataset = load_dataset(root / "sealed")
    split = SealedSplit(
        dataset.folder,
        dataset.manifest.id,
        Split.TRAIN,
        dataset.indexes[Split.TRAIN],
        wrapper.deks[Split.TRAIN],
    )
    plain = _in_plaintext(split, root / "plain")
    with Batches(split, dataset.manifest, BATCH) as batches:
        yield Twins(batches, plain, split.records, dataset.manifest)


def raw_images(records: int) -> ImageSource:
    """Random images of 28×28 as raw pixels."""
    random = np.random.default_rng(SEED)
    images = random.integers(0, 256, (records, SMALL_SIDE, SMALL_SIDE, 1), dtype=np.uint8)
    labels = random.integers(0, CLASSES, records)
    names = tuple(str(number) for number in range(CLASSES))
    return ImageSource(
        images, labels, None, Task(kind="classification", classes=CLASSES, labels=names)
    )


def jpeg_folder(root: Path, records: int) -> ImageFolder:
    """A folder of JPEG files of 224×224 in colour: handwritten digits, enlarged, with noise."""
    random = np.random.default_rng(SEED)
    with np.load(DIGITS) as digits:
        images, labels = digits["images"][:records], digits["labels"][:records]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}.jpg").write_bytes(_jpeg(image, random))
    return ImageFolder(root, Wishes())


def encrypted_one_by_one(twin: Twins, key: bytes, path: Path) -> None:
    """Write the twin's raw images as base64(IV + AES-CBC(base64(pixels))), a line each."""
    with path.open("wb") as lines:
        for file in twin.plain:
            with open(file, "rb") as stream:
                for _, record in read_frames(stream):
                    values: dict[str, Any] = parse_example(record)
                    token = legacy(values["image"][0], key=key, twice=True)
                    lines.write(b"%d %s\n" % (values["label"][0], token))


def _jpeg(image: NDArray[np.uint8], random: np.random.Generator) -> bytes:
    size = (LARGE_SIDE, LARGE_SIDE)
    large = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    noisy = 20 + 0.8 * np.asarray(large, np.float32) + random.normal(0, NOISE, (*size, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _in_plaintext(split: SealedSplit, folder: Path) -> tuple[str, ...]:
    folder.mkdir()
    paths = []
    for index in range(len(split.entries)):
        with open(unseal(split, index), "rb") as shard:
            path = folder / f"{index:05}.tfrecord"
            path.write_bytes(shard.read())
        paths.append(str(path))
    return tuple(paths)
