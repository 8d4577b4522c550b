"""What a record holds and what is to be learnt from it: the part of dataset.json about content.

A dataset is either of images, one in a record, or a table: any number of numbers and categories
in a record. Besides them there is the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from securetrain.api.types import Model

LABEL: Final = "label"
"""Name of the label's feature unless the task says another."""
MAX_RECORD_VALUES: Final = 1 << 24
MAX_CLASSES: Final = 10_000
MAX_FEATURES: Final = 4096
MAX_CATEGORIES: Final = 1000
"""Most categories of one feature."""
MAX_WIDTH: Final = 65_536
"""Most numbers that a table's record makes."""
IMAGE_CHANNELS: Final = (1, 3, 4)
"""Channels that an encoded image can be decoded to."""

Dimension = Annotated[int, Field(ge=1, le=65_536)]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,128}$")]
"""No control characters: names are shown on terminals and in reports."""


class Feature(Model):
    """One feature of a record: how its values stand in the tf.train.Example."""

    dtype: Literal["uint8", "int64", "float32"]
    shape: Annotated[tuple[Dimension, ...], Field(max_length=8)]
    """Dimensions without the batch; empty for a scalar. Of an image: height, width, channels."""
    encoding: Literal["raw", "int64", "float", "image"]
    """`raw`: bytes_list with one entry, C order. `image`: the same, but a PNG or JPEG file.
    `int64`: int64_list. `float`: float_list, where NaN stands for a missing value."""
    resize: bool | None = None
    """True if images of another height and width than `shape` are scaled to it when read."""
    categories: (
        Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_CATEGORIES)] | None
    ) = None
    """Names of the categories that an int64 counts from 0; absent if it is a quantity."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dtype, self.encoding) not in _ENCODINGS:
            raise ValueError(f"{self.dtype} has no encoding {self.encoding}")
        if self.resize is not None and self.encoding != "image":
            raise ValueError("only encoded images are resized")
        if self.categories is not None:
            if (self.encoding, self.shape) != ("int64", ()):
                raise ValueError("categories are for one int64")
            if len(set(self.categories)) != len(self.categories):
                raise ValueError("a category is named twice")
        return self

    @property
    def values(self) -> int:
        """Number of values in one record."""
        return prod(self.shape)

    @property
    def width(self) -> int:
        """Numbers that a model gets of it: one for each value, or one for each category."""
        return len(self.categories) if self.categories else self.values

    @property
    def is_image(self) -> bool:
        """True for pixels, encoded or not."""
        return self.dtype == "uint8"


_ENCODINGS: Final = {
    ("uint8", "raw"),
    ("uint8", "image"),
    ("int64", "int64"),
    ("float32", "float"),
}

Features = Annotated[dict[Text, Feature], Field(min_length=2, max_length=MAX_FEATURES)]


class Task(Model):
    """What a model is to learn."""

    kind: Literal["classification"]
    classes: Annotated[int, Field(ge=2, le=MAX_CLASSES)]
    labels: Annotated[tuple[Text, ...], Field(max_length=MAX_CLASSES)]
    """Names of the classes, in their order."""
    label: Text | None = None
    """Name of the label's feature; absent if it is `label`."""

    @model_validator(mode="after")
    def _one_name_per_class(self) -> Self:
        if len(self.labels) != self.classes:
            raise ValueError(f"there are {len(self.labels)} names for {self.classes} classes")
        return self

    @property
    def label_name(self) -> str:
        """Name of the label's feature."""
        return self.label or LABEL


def inputs(features: Mapping[str, Feature], task: Task) -> dict[str, Feature]:
    """The features that a model sees, in the order of their names."""
    return {name: features[name] for name in sorted(features) if name != task.label_name}


def image_name(features: Mapping[str, Feature], task: Task) -> str | None:
    """Name of the image's feature; None for a table."""
    return next((name for name, f in inputs(features, task).items() if f.is_image), None)


def input_shape(features: Mapping[str, Feature], task: Task) -> tuple[int, ...]:
    """Shape of a model's input without the batch.

    Height, width and channels of the image; or for a table the number of numbers: the inputs in the
    order of their names, a category as one number for each of its values, of which one is 1.
    """
    name = image_name(features, task)
    if name is not None:
        return features[name].shape
    return (sum(feature.width for feature in inputs(features, task).values()),)


def check(features: Mapping[str, Feature], task: Task) -> None:
    """Raise ValueError unless the features are one image, or a table, and a label."""
    label = features.get(task.label_name)
    if label is None or (label.encoding, label.shape, label.categories) != ("int64", (), None):
        raise ValueError(f"the label {task.label_name} must be one int64")
    seen = inputs(features, task)
    if any(feature.is_image for feature in seen.values()):
        _check_image(seen)
    elif (width := input_shape(features, task)[0]) > MAX_WIDTH:
        raise ValueError(f"a record makes {width} numbers, more than {MAX_WIDTH}")


def _check_image(seen: Mapping[str, Feature]) -> None:
    if len(seen) > 1:
        raise ValueError("an image must be the only input")
    (image,) = seen.values()
    if len(image.shape) != 3:
        raise ValueError("an image must have height, width and channels")
    if image.encoding == "image" and image.shape[2] not in IMAGE_CHANNELS:
        raise ValueError("an encoded image has 1, 3 or 4 channels")
    if image.values > MAX_RECORD_VALUES:
        raise ValueError(f"an image has more than {MAX_RECORD_VALUES} values")
