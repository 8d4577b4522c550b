"""What can be sealed: NumPy archives of images and labels, read without trusting them.

The arrays' headers are read and their sizes compared with the archive before anything is
allocated, and array data is taken as numbers only: no object is ever unpickled.
"""

from __future__ import annotations

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import ValidationError

from securetrain.errors import InvalidInput
from securetrain.sealed.dataset import MAX_CLASSES, MAX_RECORD_VALUES, Feature, Task

MAX_ARRAY_BYTES: Final = 1 << 35
_MALFORMED: Final = (
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_FIX: Final = "write it with numpy.savez(FILE, images=…, labels=…)"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The type of an array: kinds of numpy.dtype and the size of an item, 0 for any size."""

    kinds: str
    itemsize: int
    fix: str


_IMAGES: Final = _Wanted("u", 1, "give images as uint8, 0 to 255")
_LABELS: Final = _Wanted("ui", 0, "give labels as integers from 0")
_GROUPS: Final = _Wanted("uiSU", 0, "give group keys as integers or text")


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

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> dict[str, Feature]:
        """The records' features as they go into dataset.json."""
        return {
            "image": Feature(dtype="uint8", shape=self.images.shape[1:], encoding="raw"),
            "label": Feature(dtype="int64", shape=(), encoding="int64"),
        }

    def record(self, number: int) -> dict[str, bytes | int]:
        """Record `number` as feature values."""
        return {"image": self.images[number].tobytes(), "label": int(self.labels[number])}

    def contents(self) -> Iterator[bytes]:
        """SHA-256 of each image; the label is left out, so that a relabelled copy is a copy."""
        return (sha256(image.tobytes()).digest() for image in self.images)


def read_npz(
    path: Path,
    *,
    images_key: str = "images",
    labels_key: str = "labels",
    group_key: str | None = None,
    label_names: tuple[str, ...] = (),
) -> ImageSource:
    """Read a .npz file.

    Args:
        path: the file.
        images_key: array of uint8 images: (records, height, width) or with channels last.
        labels_key: array of integers from 0.
        group_key: array of integers or text; records of one group stay together.
        label_names: names of the classes; their numbers if empty.

    Raises:
        InvalidInput: the file is not what it should be, naming the array.
    """
    with _archive(path) as archive:
        images = _images(_read(archive, images_key, _IMAGES), images_key)
        labels = _labels(_read(archive, labels_key, _LABELS), labels_key, len(images))
        groups = None
        if group_key is not None:
            groups = _groups(_read(archive, group_key, _GROUPS), group_key, len(images))
    return ImageSource(images, labels, groups, _task(labels, labels_key, label_names))


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise InvalidInput("SRC", str(path), "is not a file", fix="name a .npz file")
    try:
        archive = zipfile.ZipFile(path)
    except PermissionError:
        raise InvalidInput("SRC", str(path), "may not be read", fix="check its rights") from None
    except _MALFORMED:
        raise InvalidInput("SRC", str(path), "is not a .npz archive", fix=_FIX) from None
    with archive:
        yield archive


def _read(archive: zipfile.ZipFile, key: str, wanted: _Wanted) -> NDArray[Any]:
    """One array of the archive."""
    name = f"{key}.npy"
    if name not in archive.namelist():
        have = ", ".join(entry.removesuffix(".npy")[:64] for entry in archive.namelist()[:8])
        problem = f"is not an array of the archive, which has: {have or 'none'}"
        raise InvalidInput("SRC", key, problem, fix=_FIX)
    try:
        with archive.open(name) as stream:
            shape, fortran, dtype = _header(stream)
            _check_type(key, dtype, wanted)
            size = _check_size(shape, dtype, archive.getinfo(name).file_size - stream.tell())
            array = np.frombuffer(stream.read(size), dtype=dtype)
        return np.ascontiguousarray(array.reshape(shape, order="F" if fortran else "C"))
    except _MALFORMED:
        raise InvalidInput("SRC", key, "is not an array that can be read", fix=_FIX) from None


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    with warnings.catch_warnings(action="ignore"):
        if version == (1, 0):
            return npy.read_array_header_1_0(stream)
        if version == (2, 0):
            return npy.read_array_header_2_0(stream)
    raise ValueError("unknown version")


def _check_type(key: str, dtype: np.dtype[Any], wanted: _Wanted) -> None:
    if dtype.kind not in wanted.kinds or (wanted.itemsize and dtype.itemsize != wanted.itemsize):
        raise InvalidInput("SRC", key, f"has the type {dtype.name[:32]}", fix=wanted.fix)


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> int:
    """Bytes of the array's data: what the header says must be what the archive has."""
    size = prod(shape) * dtype.itemsize
    if size != there or size > MAX_ARRAY_BYTES:
        raise ValueError("the header does not fit the data")
    return size


def _images(array: NDArray[Any], key: str) -> NDArray[np.uint8]:
    if array.ndim == 3:
        array = array[..., np.newaxis]
    sides = array.shape[1:]
    if array.ndim != 4 or min(array.shape) < 1 or max(sides) > 65_536:
        raise InvalidInput(
            "SRC",
            key,
            f"has the shape {array.shape}",
            fix="give records, height, width[, channels]",
        )
    if prod(sides) > MAX_RECORD_VALUES:
        raise InvalidInput(
            "SRC", key, f"has images of {prod(sides)} values", fix="make them smaller"
        )
    return array


def _labels(array: NDArray[Any], key: str, records: int) -> NDArray[np.int64]:
    _check_length(array, key, records)
    if int(array.min()) < 0 or int(array.max()) >= MAX_CLASSES:
        raise InvalidInput(
            "SRC", key, "holds a label out of range", fix=f"use 0 to {MAX_CLASSES - 1}"
        )
    return array.astype(np.int64)


def _groups(array: NDArray[Any], key: str, records: int) -> tuple[str, ...]:
    _check_length(array, key, records)
    return tuple(
        entry.decode("utf-8", "backslashreplace") if isinstance(entry, bytes) else str(entry)
        for entry in array.tolist()
    )


def _check_length(array: NDArray[Any], key: str, records: int) -> None:
    if array.shape != (records,):
        raise InvalidInput(
            "SRC",
            key,
            f"has the shape {array.shape} for {records} images",
            fix="give one per image",
        )


def _task(labels: NDArray[np.int64], key: str, names: tuple[str, ...]) -> Task:
    highest = int(labels.max())
    shown = names or tuple(str(number) for number in range(max(highest, 1) + 1))
    if highest >= len(shown):
        raise InvalidInput(
            "--label-names",
            ",".join(shown),
            f"has no name for label {highest} of {key}",
            fix="name every class, in the order of their numbers",
        )
    if len(set(shown)) != len(shown):
        raise InvalidInput("--label-names", ",".join(shown), "repeats a name", fix="use each once")
    try:
        return Task(kind="classification", classes=len(shown), labels=shown)
    except ValidationError:
        raise InvalidInput(
            "--label-names",
            ",".join(shown),
            "is not two or more names of 1 to 128 printable characters",
            fix="name every class",
        ) from None
