"""Folders of PNG and JPEG files, one folder a class; the files' bytes stay as they are."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from securetrain.errors import InvalidInput
from securetrain.sealed import parallel
from securetrain.sealed.examples import MAX_RECORD_BYTES, encode_example
from securetrain.sealed.features import IMAGE_CHANNELS, Feature, Task
from securetrain.sealed.sources.arrays import image_record
from securetrain.sealed.sources.base import LABEL_FEATURE, Record, Wishes, classification, feature
from securetrain.sealed.sources.probe import HEAD, Picture, check_whole, probe

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})
SHOWN: Final = 3
Reader = Callable[[Path], bytes]


class ImageFolder:
    """A folder with a folder of images for each class; the headers are read when it is made.

    Args:
        root: the folder.
        wishes: classes in their order, and the size and channels that images are decoded to.
        reader: reads a file whose content is not an image as it is; None to take images only.

    Raises:
        InvalidInput: names the file that does not fit, or the option that is needed.
    """

    def __init__(self, root: Path, wishes: Wishes, reader: Reader | None = None) -> None:
        self._root = root
        self._read = reader
        names = wishes.label_names or tuple(sorted(_folders(root)))
        self._task = classification(names, field="--label-names" if wishes.label_names else "SRC")
        self._check_all_named(names)
        self._files = _Names()
        self._left_out: list[str] = []
        try:
            for label, name in enumerate(names):
                self._add(root / name, label)
        except OSError as error:
            raise InvalidInput(
                "SRC", str(error.filename), "cannot be read", fix="repair it or take it away"
            ) from None
        if not len(self._files):
            raise InvalidInput(
                "SRC", str(root), "holds no images", fix="put PNG or JPEG files into class folders"
            )
        self._workers = parallel.workers_for(self._files.largest)
        self._image = self._survey(wishes)

    @property
    def features(self) -> dict[str, Feature]:
        """An encoded image and its label."""
        return {"image": self._image, "label": LABEL_FEATURE}

    @property
    def task(self) -> Task:
        """One class for each folder."""
        return self._task

    @property
    def notes(self) -> tuple[str, ...]:
        """Files that are no images, and what happens to sizes."""
        found = []
        if self._left_out:
            more = ", …" if len(self._left_out) > SHOWN else ""
            shown = ", ".join(self._left_out[:SHOWN])
            found.append(f"left out, no images: {len(self._left_out)} ({shown}{more})")
        if self._image.resize:
            found.append("images of other sizes are scaled when they are read")
        return tuple(found)

    def __len__(self) -> int:
        return len(self._files)

    def scan(self) -> Iterator[Record]:
        """All files, class by class; each is read whole and checked."""
        return parallel.in_order(self._record, range(len(self)), self._workers)

    def read(self, where: int, span: int) -> bytes:
        """The example of file `where`."""
        return encode_example({"image": self._content(where), "label": self._files.label(where)})

    def _record(self, number: int) -> Record:
        data = self._content(number)
        try:
            probe(data)
            check_whole(data)
        except ValueError as problem:
            raise self._bad(number, str(problem)) from None
        return image_record(data, self._files.label(number), None, where=number)

    def _content(self, number: int) -> bytes:
        path = self._root / self._files.name(number)
        if self._read is not None:
            return self._read(path)
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_RECORD_BYTES + 1)
        except OSError as error:
            problem = f"cannot be read ({os.strerror(error.errno or 0)})"
            raise self._bad(number, problem) from None
        if len(data) > MAX_RECORD_BYTES:
            raise self._bad(number, f"is longer than {MAX_RECORD_BYTES} bytes")
        return data

    def _head(self, number: int) -> Picture:
        """What a file's header says; most are read in part only."""
        if self._read is None:
            try:
                with (self._root / self._files.name(number)).open("rb") as stream:
                    return probe(stream.read(HEAD))
            except (OSError, ValueError):
                pass  # said below, of the whole file
        try:
            return probe(self._content(number))
        except ValueError as problem:
            raise self._bad(number, str(problem)) from None

    def _survey(self, wishes: Wishes) -> Feature:
        pictures = parallel.in_order(self._head, range(len(self)), self._workers)
        first = next(pictures)
        same_size = True
        for number, picture in enumerate(chain([first], pictures)):
            size = (picture.height, picture.width)
            same_size = same_size and size == (wishes.image_size or (first.height, first.width))
            if wishes.image_size is None and not same_size:
                raise InvalidInput(
                    "SRC",
                    self._files.name(number),
                    f"has {size[0]}×{size[1]} pixels, others {first.height}×{first.width}",
                    fix="give --image-size HEIGHTxWIDTH: images are scaled when they are read",
                )
            _check_channels(self._files.name(number), picture, first, wishes)
        height, width = wishes.image_size or (first.height, first.width)
        return feature(
            "image",
            dtype="uint8",
            shape=(height, width, wishes.channels or first.channels),
            encoding="image",
            resize=None if same_size else True,
        )

    def _add(self, folder: Path, label: int) -> None:
        for place, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(place, name)
                if name.startswith(".") or (
                    self._read is None and path.suffix.lower() not in SUFFIXES
                ):
                    self._left_out.append(str(path.relative_to(self._root)))
                else:
                    self._files.add(path.relative_to(self._root), label, path)

    def _check_all_named(self, names: tuple[str, ...]) -> None:
        there = set(_folders(self._root))
        for name in sorted(there - set(names)):
            raise InvalidInput(
                "--label-names", name, "is a folder and not among the names", fix="name each folder"
            )
        for name in sorted(set(names) - there):
            raise InvalidInput(
                "--label-names", name, "is not a folder of the source", fix="name its folders"
            )

    def _bad(self, number: int, problem: str) -> InvalidInput:
        return InvalidInput(
            "SRC", self._files.name(number), problem, fix="repair the file or take it away"
        )


def _check_channels(name: str, picture: Picture, first: Picture, wishes: Wishes) -> None:
    if wishes.channels is not None:
        return
    if picture.channels != first.channels:
        problem = f"has {picture.channels} channels, others {first.channels}"
    elif picture.channels not in IMAGE_CHANNELS:
        problem = "is grey with transparency"
    else:
        return
    raise InvalidInput(
        "SRC", name, problem, fix="give --channels 1 or 3: images are decoded to that"
    )


def _folders(root: Path) -> list[str]:
    return [
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    ]


class _Names:
    """Paths and labels of many files in little memory."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")
        self._labels = array("H")
        self.largest = 0
        """Bytes of the largest file."""

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, name: Path, label: int, path: Path) -> None:
        self._text += os.fsencode(name)
        self._ends.append(len(self._text))
        self._labels.append(label)
        self.largest = max(self.largest, path.stat().st_size)

    def name(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return os.fsdecode(bytes(self._text[start : self._ends[number]]))

    def label(self, number: int) -> int:
        return self._labels[number]
