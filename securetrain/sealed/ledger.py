"""Where every record lies and where it will go, in bounded memory.

One row a record, in a file without a name, so that a dataset of any number of records can be put
into the order of a hash, and copies in it be found, with a few megabytes of memory. The rows hold
digests of records, never a record; but a digest of few possible values tells the value, and a label
is data. So they are encrypted with a key that lives as long as this object, and the file vanishes
with this process.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Final, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from securetrain.api.names import Split
from securetrain.sealed.examples import FRAME_BYTES
from securetrain.sealed.sources.base import Record
from securetrain.sealed.splits import Fractions, content_identity, group_identity, place, split_of

CHUNK: Final = 1 << 19
"""Most rows that are in memory at once."""
_SPLITS: Final = tuple(Split)
_PACK: Final = struct.Struct("<QQQQIIIB")
_ROW: Final = np.dtype(
    [
        ("order", "<u8"),
        ("content", "<u8"),
        ("content_low", "<u8"),
        ("where", "<u8"),
        ("span", "<u4"),
        ("size", "<u4"),
        ("label", "<u4"),
        ("split", "u1"),
    ]
)
_PLACE: Final = np.dtype([("where", "<u8"), ("span", "<u4"), ("size", "<u4")])
Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Balance:
    """What lies where.

    Attributes:
        records: number of records of each split.
        classes: for each split, the number of records of each class.
        duplicates: records whose content another one has had before.
        duplicates_across: contents that lie in more than one split; only groups can cause that.
        contradictions: contents that have more than one label.
    """

    records: dict[Split, int]
    classes: dict[Split, tuple[int, ...]]
    duplicates: int
    duplicates_across: int
    contradictions: int


class Ledger:
    """The rows of one source; a context manager.

    Args:
        fractions: sizes of the splits.
        folder: where its files go, which have no names; None for the system's usual place.
    """

    def __init__(self, fractions: Fractions, folder: Path | None = None) -> None:
        self._fractions = fractions
        self._folder = folder
        self._file = _scratch(folder)
        self._key = os.urandom(32)
        self._cipher = self._stream_cipher().encryptor()
        self._count = 0
        self.largest = 0
        """Bytes of the largest record."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(OSError):  # of a full disk, said before: what waits is thrown away anyhow
            self._file.close()

    def add(self, record: Record) -> None:
        """Note a record. Its split follows from its group or else its content, and nothing else."""
        identity = (
            content_identity(record.content)
            if record.group is None
            else group_identity(record.group)
        )
        split = split_of(identity, self._fractions)
        # Random to the data yet the same each time, so that no shard holds one class only.
        order = hashlib.sha256(place(identity) + record.content).digest()
        size = len(record.example)
        row = _PACK.pack(
            int.from_bytes(order[:8], "big"),
            int.from_bytes(record.content[:8], "big"),
            int.from_bytes(record.content[8:16], "big"),
            record.where,
            record.span,
            size,
            record.label,
            _SPLITS.index(split),
        )
        self._file.write(self._cipher.update(row))
        self._count += 1
        self.largest = max(self.largest, size)

    def flush(self) -> None:
        """Put down what is still in a buffer: all rows were added."""
        self._file.flush()

    def __len__(self) -> int:
        return self._count

    def balance(self, classes: int) -> Balance:
        """Count what lies where."""
        counts = np.zeros((len(_SPLITS), classes), dtype=np.int64)
        for rows in self._chunks():
            np.add.at(counts, (rows["split"], rows["label"]), 1)
        twice = across = contradictions = 0
        for rows in self._buckets("content"):
            found = _copies(rows)
            twice, across = twice + found[0], across + found[1]
            contradictions += found[2]
        by_split = {split: counts[number] for number, split in enumerate(_SPLITS)}
        return Balance(
            records={split: int(of.sum()) for split, of in by_split.items()},
            classes={split: tuple(int(n) for n in of) for split, of in by_split.items()},
            duplicates=twice,
            duplicates_across=across,
            contradictions=contradictions,
        )

    def places(self, split: Split) -> Places:
        """A split's records in the order of their shards."""
        scratch = _scratch(self._folder)
        count = 0
        for rows in self._buckets("order"):
            mine = rows[rows["split"] == _SPLITS.index(split)]
            mine = mine[np.argsort(mine["order"], kind="stable")]
            out = np.empty(len(mine), dtype=_PLACE)
            for name in _PLACE.names or ():
                out[name] = mine[name]
            scratch.write(out.tobytes())
            count += len(mine)
        return Places(scratch, count)

    def _chunks(self) -> Iterator[Rows]:
        """All rows, some at a time, in their order."""
        self._file.flush()
        self._file.seek(0)
        cipher = self._stream_cipher().decryptor()
        while data := self._file.read(CHUNK * _ROW.itemsize):
            yield np.frombuffer(cipher.update(data), dtype=_ROW)

    def _stream_cipher(self) -> Cipher[modes.CTR]:
        # The file is written once, from its beginning, under a key of its own: no counter repeats.
        return Cipher(algorithms.AES(self._key), modes.CTR(bytes(16)))

    def _buckets(self, column: str) -> Iterator[Rows]:
        """All rows, grouped by ranges of a hash: equal ones come together, in their order."""
        count = max(1, -(-self._count // CHUNK))
        edges = [(number << 64) // count for number in range(count + 1)]
        for low, high in pairwise(edges):
            parts = []
            for rows in self._chunks():
                inside = rows[(rows[column] >= low) & (rows[column] <= high - 1)]
                if len(inside):
                    parts.append(inside)
            yield np.concatenate(parts) if parts else np.empty(0, dtype=_ROW)


class Places:
    """Where a split's records lie, in the order of its shards."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._rows: Rows = np.empty(0, dtype=_PLACE)
        with file:  # a mapping needs no open file
            file.flush()
            if count:
                self._rows = np.memmap(file, dtype=_PLACE, mode="r", shape=(count,))

    def __len__(self) -> int:
        return len(self._rows)

    def cut(self, limit: int) -> list[tuple[int, int]]:
        """Shards as ranges: at most `limit` bytes each, about even; a larger record stands alone.

        Args:
            limit: most bytes of a shard's frames.
        """
        total = int(self._rows["size"].sum(dtype=np.uint64)) + len(self) * FRAME_BYTES
        largest = int(self._rows["size"].max(initial=0)) + FRAME_BYTES
        even = min(limit, total // max(1, -(-total // limit)) + largest)
        ranges = []
        start = 0
        while start < len(self):
            window = self._rows["size"][start : start + even // FRAME_BYTES + 1]
            ends = np.cumsum(window.astype(np.int64) + FRAME_BYTES)
            end = start + max(1, int(np.searchsorted(ends, even, side="right")))
            ranges.append((start, end))
            start = end
        return ranges

    def of(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Place, span and size of some records."""
        rows: list[tuple[int, int, int]] = self._rows[start:end].tolist()
        return rows


def _copies(rows: Rows) -> tuple[int, int, int]:
    """Later copies, contents in several splits, contents with several labels."""
    ordered = rows[np.lexsort((rows["content_low"], rows["content"]))]
    same = (ordered["content"][1:] == ordered["content"][:-1]) & (
        ordered["content_low"][1:] == ordered["content_low"][:-1]
    )
    group = np.concatenate([[0], np.cumsum(~same)])[: len(ordered)]
    return int(same.sum()), _torn(group, ordered["split"]), _torn(group, ordered["label"])


def _torn(group: NDArray[np.int64], value: NDArray[np.unsignedinteger]) -> int:
    """Number of groups that hold more than one value."""
    pairs = np.unique(np.stack([group, value.astype(np.int64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def _scratch(folder: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder, buffering=1 << 20)
