"""NumPy archives of images and labels, read without trusting them and without loading them.

The arrays' headers are read and their sizes compared with the archive before anything is
allocated, and array data is taken as numbers only: no object is ever unpickled. Arrays are read
side by side, a few records at a time.
"""

from __future__ import annotations

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from securetrain.errors import InvalidInput
from securetrain.sealed.features import MAX_CLASSES, MAX_RECORD_VALUES, Feature, Task
from securetrain.sealed.sources.arrays import image_record, pixels
from securetrain.sealed.sources.base import LABEL_FEATURE, MAX_SHOWN, Record, Wishes, numbered

CHUNK_BYTES: Final = 16 << 20
MAX_FORTRAN_BYTES: Final = 128 << 20
"""Largest array that may lie in the order of its last axis: it must be turned as a whole."""
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
class _Array:
    """An array of the archive by its header."""

    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def records(self) -> int:
        return self.shape[0]

    @property
    def record_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class NpzSource:
    """A .npz file with uint8 images, (records, height, width) or with channels last, and labels.

    Args:
        path: the file.
        wishes: names of the arrays and of the classes.

    Raises:
        InvalidInput: the file is not what it should be, naming the array.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, wishes: Wishes) -> None:
        self._path = path
        with _archive(path) as archive:
            self._images = _header(archive, wishes.images_key, _IMAGES)
            self._shape = _image_shape(self._images)
            records = self._images.records
            label = wishes.label or "labels"
            self._labels = _column(_header(archive, label, _LABELS), records)
            self._groups = None
            if wishes.group is not None:
                self._groups = _column(_header(archive, wishes.group, _GROUPS), records)
            highest = _highest(archive, self._labels)
        self._task = numbered(highest, wishes.label_names, field=label)

    @property
    def features(self) -> dict[str, Feature]:
        """An image and its label."""
        return {"image": pixels(self._shape), "label": LABEL_FEATURE}

    @property
    def task(self) -> Task:
        """To tell the labels apart."""
        return self._task

    def __len__(self) -> int:
        return self._images.records

    def scan(self) -> Iterator[Record]:
        """All images, in their order."""
        rows = max(1, CHUNK_BYTES // self._images.record_bytes)
        with _archive(self._path) as archive:
            images = _chunks(archive, self._images, rows)
            labels = _chunks(archive, self._labels, rows)
            groups = _chunks(archive, self._groups, rows) if self._groups else None
            for some in images:
                of = next(labels).tolist()
                keys = _texts(next(groups)) if groups else [None] * len(of)
                for image, label, key in zip(some, of, keys, strict=True):
                    yield image_record(image.tobytes(), label, key)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except PermissionError:
        raise InvalidInput("SRC", str(path), "may not be read", fix="check its rights") from None
    except _MALFORMED:
        raise InvalidInput("SRC", str(path), "is not a .npz archive", fix=_FIX) from None
    with archive:
        yield archive


@contextmanager
def _member(archive: zipfile.ZipFile, key: str) -> Iterator[IO[bytes]]:
    try:
        with archive.open(f"{key}.npy") as stream:
            yield stream
    except _MALFORMED:
        raise InvalidInput("SRC", key, "is not an array that can be read", fix=_FIX) from None


def _header(archive: zipfile.ZipFile, key: str, wanted: _Wanted) -> _Array:
    """An array's header, held against its type and the archive's directory."""
    name = f"{key}.npy"
    if name not in archive.namelist():
        have = ", ".join(entry.removesuffix(".npy")[:64] for entry in archive.namelist()[:8])
        problem = f"is not an array of the archive, which has: {have or 'none'}"
        raise InvalidInput("SRC", key, problem, fix=_FIX)
    with _member(archive, key) as stream:
        array = _Array(key, *_read_header(stream))
        if array.dtype.kind not in wanted.kinds or wanted.itemsize not in (0, array.dtype.itemsize):
            raise InvalidInput("SRC", key, f"has the type {array.dtype.name[:32]}", fix=wanted.fix)
        there = archive.getinfo(name).file_size - stream.tell()
        if array.size != there or min(array.shape, default=0) < 0:
            raise ValueError("the header does not fit the data")
        if array.fortran and len(array.shape) > 1 and array.size > MAX_FORTRAN_BYTES:
            raise InvalidInput(
                "SRC", key, "is large and in Fortran order", fix="numpy.ascontiguousarray it first"
            )
    return array


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    with warnings.catch_warnings(action="ignore"):
        if version == (1, 0):
            return npy.read_array_header_1_0(stream)
        if version == (2, 0):
            return npy.read_array_header_2_0(stream)
    raise ValueError("unknown version")


def _chunks(archive: zipfile.ZipFile, array: _Array, rows: int) -> Iterator[NDArray[Any]]:
    """The array's records, some at a time."""
    with _member(archive, array.key) as stream:
        _read_header(stream)
        if array.fortran and len(array.shape) > 1:
            whole = _read(stream, array, array.records).reshape(array.shape[::-1]).T
            for start in range(0, array.records, rows):
                yield np.ascontiguousarray(whole[start : start + rows])
            return
        for start in range(0, array.records, rows):
            count = min(rows, array.records - start)
            yield _read(stream, array, count).reshape(count, *array.shape[1:])


def _read(stream: IO[bytes], array: _Array, records: int) -> NDArray[Any]:
    size = records * array.record_bytes
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return np.frombuffer(data, dtype=array.dtype)


def _image_shape(images: _Array) -> tuple[int, ...]:
    shape = images.shape
    sides = (*shape[1:], 1) if len(shape) == 3 else shape[1:]
    if len(sides) != 3 or min(shape, default=0) < 1 or max(sides) > 65_536:
        raise InvalidInput(
            "SRC",
            images.key,
            f"has the shape {_shown(shape)}",
            fix="give records, height, width[, channels]",
        )
    if prod(sides) > MAX_RECORD_VALUES:
        raise InvalidInput(
            "SRC", images.key, f"has images of {prod(sides)} values", fix="make them smaller"
        )
    return sides


def _shown(shape: tuple[int, ...]) -> str:
    """A shape in an error; a header may name thousands of dimensions."""
    return str(shape)[:MAX_SHOWN]


def _column(array: _Array, records: int) -> _Array:
    if array.shape != (records,):
        raise InvalidInput(
            "SRC",
            array.key,
            f"has the shape {_shown(array.shape)} for {records} images",
            fix="give one per image",
        )
    return array


def _highest(archive: zipfile.ZipFile, labels: _Array) -> int:
    highest = 0
    for some in _chunks(archive, labels, CHUNK_BYTES // labels.dtype.itemsize):
        if int(some.min()) < 0 or int(some.max()) >= MAX_CLASSES:
            raise InvalidInput(
                "SRC", labels.key, "holds a label out of range", fix=f"use 0 to {MAX_CLASSES - 1}"
            )
        highest = max(highest, int(some.max()))
    return highest


def _texts(groups: NDArray[Any]) -> list[str]:
    return [
        entry.decode("utf-8", "backslashreplace") if isinstance(entry, bytes) else str(entry)
        for entry in groups.tolist()
    ]
