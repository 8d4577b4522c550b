"""TFRecord files of tf.train.Example, sealed byte for byte as they are.

What a model may see is found by looking at every record: features of the same kind and length in
all of them. The others stay in the records and are not declared, so no reader parses them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import (
    MAX_RECORD_BYTES,
    Value,
    Values,
    encode_example,
    parse_example,
    read_frames,
)
from securetrain.sealed.features import LABEL, MAX_CATEGORIES, MAX_CLASSES, Feature, Task
from securetrain.sealed.sources.base import (
    LABEL_FEATURE,
    Record,
    Wishes,
    changed,
    checked,
    feature,
    numbered,
)
from securetrain.sealed.sources.probe import check_whole, is_image, probe
from securetrain.sealed.sources.tables import matches

BUFFER: Final = 1 << 20
_FILE_SHIFT: Final = 44
MAX_FILES: Final = 1 << (64 - _FILE_SHIFT)
_TEXT: Final = "bytes that are no image"


@dataclass(slots=True)
class _Seen:
    """What a feature has been in all records so far."""

    kind: str
    """`image`, `bytes`, `int64` or `float`."""
    length: int
    """Of bytes their number, else the number of values."""
    records: int = 1
    low: int = 0
    high: int = 0
    sizes: tuple[tuple[int, int, int], ...] = ()
    """Sizes of the images so far: at most two different ones."""
    problem: str = ""
    """Why it can be no input."""


class TfRecordSource:
    """One or more TFRecord files; every record is parsed when it is made.

    Args:
        paths: the files.
        wishes: the label, and what the owner says about the features.

    Raises:
        InvalidInput: a file is not whole, or holds nothing that can be learnt.
    """

    def __init__(self, paths: Sequence[Path], wishes: Wishes) -> None:
        self._paths = tuple(paths)
        self._wishes = wishes
        self._label = wishes.label or LABEL
        self._count = 0
        self._problems: dict[str, str] = {}
        seen = self._look()
        self._task = numbered(
            self._highest(seen), wishes.label_names, field=self._label, label=self._label
        )
        self._inputs = self._choose(seen)
        self._features = checked({**self._inputs, self._label: LABEL_FEATURE}, self._task)

    @property
    def features(self) -> dict[str, Feature]:
        """Those that a model sees, and the label."""
        return self._features

    @property
    def task(self) -> Task:
        """To tell the label's values apart."""
        return self._task

    @property
    def notes(self) -> tuple[str, ...]:
        """Features that no model will see."""
        shown = [f"{name} ({why})" for name, why in sorted(self._problems.items())]
        return (f"not declared: {', '.join(shown)}",) if shown else ()

    def __len__(self) -> int:
        return self._count

    def scan(self) -> Iterator[Record]:
        """All records, in the order of the files."""
        for where, example, features in self._records():
            inputs: dict[str, Value] = {
                name: _value(features.get(name)) for name in sorted(self._inputs)
            }
            whole = len(inputs) == 1 and isinstance(next(iter(inputs.values())), bytes)
            content = next(iter(inputs.values())) if whole else encode_example(inputs)
            label = features.get(self._label)
            number = label[0] if isinstance(label, list) and isinstance(label[0], int) else -1
            digest = sha256(cast(bytes, content)).digest()
            yield Record(example, digest, number, self._group(features), where, len(example))

    def read(self, where: int, span: int) -> bytes:
        """The record that lies there."""
        path = self._paths[where >> _FILE_SHIFT]
        with _opened(path) as stream:
            return os.pread(stream.fileno(), span, where & (1 << _FILE_SHIFT) - 1)

    def _records(self) -> Iterator[tuple[int, bytes, dict[str, Values]]]:
        for number, path in enumerate(self._paths):
            with _opened(path) as raw, io.BufferedReader(cast(io.RawIOBase, raw), BUFFER) as stream:
                for at, example in read_frames(stream):
                    yield number << _FILE_SHIFT | at, example, parse_example(example)

    def _look(self) -> dict[str, _Seen]:
        seen: dict[str, _Seen] = {}
        for _where, _example, features in self._records():
            self._count += 1
            for name, values in features.items():
                found = _kind_of(values, self._wishes)
                if name in seen:
                    _join(seen[name], found)
                elif self._count == 1:
                    seen[name] = found
                else:
                    self._problems[name] = "not in every record"
        if not self._count:
            raise InvalidInput("SRC", str(self._paths[0]), "has no records", fix="seal some")
        for of in seen.values():
            if of.records != self._count:
                of.problem = "not in every record"
        return seen

    def _highest(self, seen: Mapping[str, _Seen]) -> int:
        label = seen.get(self._label)
        if label is None:
            have = ", ".join(sorted(seen))[:200]
            raise InvalidInput(
                "--label", self._label, "is no feature of the records", fix=f"name one of {have}"
            )
        if (label.kind, label.length, label.problem) != ("int64", 1, ""):
            raise InvalidInput(
                "--label", self._label, "is not one int64 in every record", fix="name another"
            )
        if label.low < 0 or label.high >= MAX_CLASSES:
            raise InvalidInput(
                "--label", self._label, "is out of range", fix=f"use 0 to {MAX_CLASSES - 1}"
            )
        return label.high

    def _choose(self, seen: Mapping[str, _Seen]) -> dict[str, Feature]:
        """The features that a model sees: one image, or else all numbers."""
        offered: dict[str, Feature] = {}
        for name, of in seen.items():
            if name in (self._label, self._wishes.group):
                continue
            if matches(name, self._wishes.ignore):
                self._problems[name] = "ignored"
            elif of.problem:
                self._problems[name] = of.problem
            elif (made := self._declare(name, of)) is not None:
                offered[name] = made
        images = {name: of for name, of in offered.items() if of.is_image}
        if not images:
            return offered
        for name in offered.keys() - images.keys():
            self._problems[name] = "a number beside an image"
        return images

    def _declare(self, name: str, of: _Seen) -> Feature | None:
        if of.kind == "image":
            return self._image(name, of)
        if of.kind == "bytes":
            self._problems[name] = _TEXT
            return None
        if of.kind == "raw":
            height, width = self._wishes.image_size or (0, 0)
            sides = (height, width, self._wishes.channels or 1)
            return feature(name, dtype="uint8", shape=sides, encoding="raw")
        shape = () if of.length == 1 else (of.length,)
        if of.kind == "float":
            return feature(name, dtype="float32", shape=shape, encoding="float")
        if not matches(name, self._wishes.categorical):
            return feature(name, dtype="int64", shape=shape, encoding="int64")
        if of.low < 0 or of.high >= MAX_CATEGORIES:
            raise InvalidInput(
                "--categorical", name, "is out of range", fix=f"use 0 to {MAX_CATEGORIES - 1}"
            )
        names = tuple(str(number) for number in range(of.high + 1))
        return feature(name, dtype="int64", shape=shape, encoding="int64", categories=names)

    def _image(self, name: str, of: _Seen) -> Feature:
        height, width, channels = of.sizes[0]
        wishes = self._wishes
        if len({size[:2] for size in of.sizes}) > 1 and wishes.image_size is None:
            raise InvalidInput(
                "SRC",
                name,
                "holds images of different sizes",
                fix="give --image-size HEIGHTxWIDTH: images are scaled when they are read",
            )
        if wishes.channels is None and len({size[2] for size in of.sizes}) > 1:
            raise InvalidInput(
                "SRC",
                name,
                "holds images of different channels",
                fix="give --channels 1 or 3: images are decoded to that",
            )
        size = wishes.image_size or (height, width)
        return feature(
            name,
            dtype="uint8",
            shape=(*size, wishes.channels or channels),
            encoding="image",
            resize=True if {each[:2] for each in of.sizes} != {size} else None,
        )

    def _group(self, features: Mapping[str, Values]) -> str | None:
        name = self._wishes.group
        if name is None:
            return None
        values = features.get(name)
        if not isinstance(values, list) or len(values) != 1:
            raise InvalidInput(
                "--group-key", name, "is not one value in every record", fix="name another feature"
            )
        (value,) = values
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _kind_of(values: Values, wishes: Wishes) -> _Seen:
    if isinstance(values, np.ndarray):
        problem = "" if np.isfinite(values[~np.isnan(values)]).all() else "not finite"
        return _Seen("float", len(values), problem=problem)
    first = values[0]
    if isinstance(first, int):
        numbers = cast(list[int], values)
        return _Seen("int64", len(values), low=min(numbers), high=max(numbers))
    if len(values) != 1 or not isinstance(first, bytes):
        return _Seen("bytes", len(values))
    if is_image(first):
        try:
            picture = probe(first)
            check_whole(first)
        except ValueError as problem:
            return _Seen("image", 1, problem=f"an image that {problem}")
        return _Seen("image", 1, sizes=((picture.height, picture.width, picture.channels),))
    if wishes.image_size and len(first) == np.prod(wishes.image_size) * (wishes.channels or 1):
        return _Seen("raw", len(first))
    return _Seen("bytes", len(first))


def _join(seen: _Seen, found: _Seen) -> None:
    """Take in what one more record holds."""
    seen.records += 1
    if seen.kind != found.kind:
        seen.problem = "of different kinds"
    elif seen.kind != "bytes" and seen.length != found.length:
        seen.problem = "of different lengths"
    seen.problem = seen.problem or found.problem
    seen.low, seen.high = min(seen.low, found.low), max(seen.high, found.high)
    if len(seen.sizes) < 2 and found.sizes and found.sizes[0] not in seen.sizes:
        seen.sizes += found.sizes


def _value(values: Values | None) -> Value:
    if values is None:
        raise changed("a record")
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values[0], bytes):
        return values[0]
    return np.asarray(values, dtype=np.int64).tobytes()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb", buffering=0) as stream:
            yield cast(BinaryIO, stream)
    except ValueError as problem:
        raise InvalidInput(
            "SRC",
            path.name,
            f"is not a whole TFRecord file of tf.train.Example: {problem}",
            fix="write it again; compressed files must be uncompressed first",
        ) from None
    except OSError:
        raise InvalidInput("SRC", path.name, "cannot be read", fix="check its rights") from None


__all__ = ["MAX_FILES", "MAX_RECORD_BYTES", "TfRecordSource"]
