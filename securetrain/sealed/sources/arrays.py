"""Images and labels that are in memory already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from securetrain.sealed.examples import encode_example
from securetrain.sealed.features import Feature, Task
from securetrain.sealed.sources.base import LABEL_FEATURE, Record


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Images and labels in memory.

    Attributes:
        images: uint8, shape (records, height, width, channels).
        labels: int64, shape (records,).
        groups: None, or one key per record.
        task: what a model is to learn from them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None
    task: Task
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> dict[str, Feature]:
        """The records' features as they go into dataset.json."""
        return {"image": pixels(self.images.shape[1:]), "label": LABEL_FEATURE}

    def record(self, number: int) -> dict[str, bytes | int]:
        """Record `number` as feature values."""
        return {"image": self.images[number].tobytes(), "label": int(self.labels[number])}

    def scan(self) -> Iterator[Record]:
        """All records, in their order."""
        for number, image in enumerate(self.images):
            group = self.groups[number] if self.groups is not None else None
            yield image_record(image.tobytes(), int(self.labels[number]), group, where=number)

    def read(self, where: int, span: int) -> bytes:
        """The example of record `where`."""
        return encode_example(self.record(where))


def pixels(shape: tuple[int, ...]) -> Feature:
    """The feature of raw images of one shape."""
    return Feature(dtype="uint8", shape=shape, encoding="raw")


def image_record(
    image: bytes, label: int, group: str | None, *, where: int = 0, span: int = 0
) -> Record:
    """The record of an image, raw or encoded."""
    example = encode_example({"image": image, "label": label})
    return Record(example, sha256(image).digest(), label, group, where, span)
