"""Finds out what kind of source something is, by its content first and its name second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

from securetrain.errors import InvalidInput, UsageError
from securetrain.sealed.examples import HEADER_BYTES, frame_length
from securetrain.sealed.legacy import read_keys
from securetrain.sealed.sources.base import Source, Wishes
from securetrain.sealed.sources.csv_file import CsvRows
from securetrain.sealed.sources.image_folder import SUFFIXES, ImageFolder
from securetrain.sealed.sources.legacy_files import LegacyReader
from securetrain.sealed.sources.npz import NpzSource
from securetrain.sealed.sources.parquet import ParquetRows
from securetrain.sealed.sources.probe import is_image
from securetrain.sealed.sources.tables import TableSource
from securetrain.sealed.sources.tfrecord import MAX_FILES, TfRecordSource


class SourceKind(StrEnum):
    """What can be sealed."""

    NPZ = "npz"
    IMAGES = "images"
    CSV = "csv"
    PARQUET = "parquet"
    TFRECORD = "tfrecord"


_SUFFIXES: Final = {
    ".npz": SourceKind.NPZ,
    ".csv": SourceKind.CSV,
    ".tsv": SourceKind.CSV,
    ".parquet": SourceKind.PARQUET,
    ".pq": SourceKind.PARQUET,
    ".tfrecord": SourceKind.TFRECORD,
    ".tfrecords": SourceKind.TFRECORD,
    ".tfrec": SourceKind.TFRECORD,
}
_TABLE: Final = frozenset({"label", "label_names", "group", "ignore", "numeric", "categorical"})
_WISHES: Final = {
    SourceKind.NPZ: frozenset({"images_key", "label", "label_names", "group"}),
    SourceKind.IMAGES: frozenset({"label_names", "image_size", "channels"}),
    SourceKind.CSV: _TABLE,
    SourceKind.PARQUET: _TABLE,
    SourceKind.TFRECORD: _TABLE - {"numeric"} | {"image_size", "channels"},
}
"""What an owner can say about each kind, by the names of `Wishes`."""
_FIX: Final = (
    f"say what it is with --kind, one of {', '.join(SourceKind)}; "
    "of files encrypted with AES-CBC, give --legacy-key-file"
)


def open_source(
    path: Path, wishes: Wishes, *, kind: SourceKind | None = None, legacy_key: Path | None = None
) -> tuple[Source, SourceKind]:
    """A source, looked through for what its records hold.

    Args:
        path: a file, a folder of files of one kind, or a folder of class folders with images.
        wishes: what the owner says about it.
        kind: what it is; None to find out.
        legacy_key: key file of the plain AES-CBC recipe, if its files are what lies there.

    Raises:
        InvalidInput: it is nothing that can be sealed, or does not fit; says what and why.
        UsageError: an option is missing.
    """
    if not path.exists():
        raise InvalidInput("SRC", str(path), "is not a file or folder", fix="check its name")
    if legacy_key is not None:
        return _open_legacy(path, wishes, kind, legacy_key)
    found = kind or kind_of(path)
    _check_wishes(wishes, found)
    if found is SourceKind.IMAGES:
        return ImageFolder(_folder(path), wishes), found
    return _open_files(files_of(path, found), wishes, found), found


def kind_of(path: Path) -> SourceKind:
    """What a file or folder is; raises InvalidInput if it is nothing that can be sealed."""
    if path.is_dir():
        return _kind_of_folder(path)
    try:
        with path.open("rb") as stream:
            found = kind_of_content(stream.read(HEADER_BYTES)) or _SUFFIXES.get(path.suffix.lower())
    except OSError:
        raise InvalidInput("SRC", str(path), "cannot be read", fix="check its rights") from None
    if found is None:
        raise InvalidInput("SRC", str(path), "is of a kind that is not known", fix=_FIX)
    return found


def kind_of_content(data: bytes) -> SourceKind | None:
    """What begins with these bytes; None for text, which begins with anything."""
    if data.startswith(b"PK\x03\x04"):
        return SourceKind.NPZ
    if data.startswith(b"PAR1"):
        return SourceKind.PARQUET
    try:
        frame_length(data[:HEADER_BYTES])
    except ValueError:
        return None
    return SourceKind.TFRECORD


def files_of(path: Path, kind: SourceKind) -> tuple[Path, ...]:
    """The file, or the files of that kind in a folder by name; raises InvalidInput."""
    if not path.is_dir():
        return (path,)
    suffixes = {suffix for suffix, each in _SUFFIXES.items() if each is kind}
    found = sorted(
        each for each in _visible(path) if each.suffix.lower() in suffixes and each.is_file()
    )
    if kind is SourceKind.NPZ or not found or len(found) > MAX_FILES:
        raise InvalidInput(
            "SRC", str(path), f"is not a folder of {kind} files", fix="name one file, or the folder"
        )
    return tuple(found)


def _open_files(paths: Sequence[Path], wishes: Wishes, kind: SourceKind) -> Source:
    if kind is SourceKind.NPZ:
        return NpzSource(paths[0], wishes)
    if kind is SourceKind.TFRECORD:
        return TfRecordSource(paths, wishes)
    rows = CsvRows(paths) if kind is SourceKind.CSV else ParquetRows(paths)
    return TableSource(rows, wishes)


def _open_legacy(
    path: Path, wishes: Wishes, kind: SourceKind | None, key_file: Path
) -> tuple[Source, SourceKind]:
    keys = read_keys(key_file)
    if path.is_dir():
        _check_wishes(wishes, SourceKind.IMAGES)
        reader = LegacyReader(keys, _any_file(path), is_image)
        return ImageFolder(path, wishes, reader.read), SourceKind.IMAGES
    found = kind

    def known(content: bytes) -> bool:
        return (found or kind_of_content(content) or _csv_or_none(content)) is not None

    reader = LegacyReader(keys, path, known)
    inside = reader.into_memory(path)
    with inside.open("rb") as stream:
        found = kind or kind_of_content(stream.read(HEADER_BYTES)) or SourceKind.CSV
    _check_wishes(wishes, found)
    return _open_files((inside,), wishes, found), found


def _check_wishes(wishes: Wishes, kind: SourceKind) -> None:
    """Raise UsageError for what would be passed over: a group that tears, a column that stays."""
    for field in fields(Wishes):
        if field.name not in _WISHES[kind] and getattr(wishes, field.name) != field.default:
            option = "--group-key" if field.name == "group" else f"--{field.name}".replace("_", "-")
            raise UsageError(
                f"{option} means nothing for {kind}.",
                fix="leave it away, or say with --kind what SRC is",
            )


def _csv_or_none(content: bytes) -> SourceKind | None:
    """CSV if it is text whose first line names two columns or more."""
    first = content[:65_536].split(b"\n", 1)[0]
    try:
        text = first.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        return None
    fields = any(separator in text for separator in ",;\t|")
    return SourceKind.CSV if fields and text.replace("\t", " ").isprintable() else None


def _kind_of_folder(path: Path) -> SourceKind:
    entries = list(_visible(path))
    kinds = {_SUFFIXES.get(each.suffix.lower()) for each in entries if each.is_file()} - {None}
    if len(kinds) == 1:
        (found,) = kinds
        return found or SourceKind.CSV
    images = (
        each for folder in entries if folder.is_dir() for each in islice(folder.rglob("*"), 1000)
    )
    if not kinds and any(each.suffix.lower() in SUFFIXES for each in images):
        return SourceKind.IMAGES
    raise InvalidInput(
        "SRC",
        str(path),
        "holds neither files of one kind nor a folder of images for each class",
        fix=_FIX,
    )


def _visible(path: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(path) if not entry.name.startswith(".")]


def _any_file(folder: Path) -> Path:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                return Path(place, name)
    raise InvalidInput("SRC", str(folder), "holds no files", fix="name the folder of class folders")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InvalidInput(
            "SRC", str(path), "is not a folder", fix="name a folder of class folders"
        )
    return path
