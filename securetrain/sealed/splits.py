"""Which record goes into which split: by a hash, so that it is stable and leaks nothing across.

A record's place follows from its identity alone: its group key if the owner names one (all images
of one patient), else its content. Sealing again, with more records or in another order, moves no
record from one split to another, and duplicates always lie on the same side.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from securetrain.api.names import Split
from securetrain.errors import InvalidInput

_PERCENTAGES: Final = re.compile(r"([1-9][0-9]?)/([1-9][0-9]?)/([1-9][0-9]?)")
_SPACE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Fractions:
    """Percentages of the three splits; they add up to 100."""

    train: int = 80
    validation: int = 10
    test: int = 10

    @classmethod
    def parse(cls, text: str) -> Fractions:
        """Fractions from text such as `80/10/10`; raises InvalidInput."""
        match = _PERCENTAGES.fullmatch(text)
        parts = [int(part) for part in match.groups()] if match else []
        if sum(parts) != 100:
            raise InvalidInput(
                "--split",
                text,
                "is not three percentages that add up to 100",
                fix="write TRAIN/VALIDATION/TEST, such as 80/10/10",
            )
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Record numbers of each split, and how many contents lie in more than one of them."""

    records: dict[Split, tuple[int, ...]]
    duplicates_across: int


def content_identity(content_sha256: bytes) -> bytes:
    """Identity of a record that has no group key."""
    return b"content|" + content_sha256


def group_identity(group: str) -> bytes:
    """Identity of all records of a group."""
    return b"group|" + group.encode()


def place(identity: bytes) -> bytes:
    """Where an identity lies in the hash's space, 32 bytes."""
    return hashlib.sha256(b"securetrain/split/v1|" + identity).digest()


def split_of(identity: bytes, fractions: Fractions) -> Split:
    """The split of an identity, a pure function of both."""
    percent = int.from_bytes(place(identity)[:8], "big") * 100 // _SPACE
    if percent < fractions.train:
        return Split.TRAIN
    if percent < fractions.train + fractions.validation:
        return Split.VALIDATION
    return Split.TEST


def assign(
    identities: Sequence[bytes], contents: Iterable[bytes], fractions: Fractions
) -> Assignment:
    """Split a source's records.

    Args:
        identities: one per record.
        contents: digest of each record's content, to count what lies on both sides.
        fractions: sizes of the splits.

    Returns:
        The splits; inside one, records are in an order that is random to the data yet the same each
        time, so that no shard holds one class only.
    """
    records: dict[Split, list[tuple[bytes, int]]] = {split: [] for split in Split}
    seen: dict[bytes, Split] = {}
    across: set[bytes] = set()
    for number, (identity, content) in enumerate(zip(identities, contents, strict=True)):
        split = split_of(identity, fractions)
        records[split].append((hashlib.sha256(place(identity) + content).digest(), number))
        if seen.setdefault(content, split) != split:
            across.add(content)
    ordered = {split: tuple(number for _, number in sorted(of)) for split, of in records.items()}
    return Assignment(records=ordered, duplicates_across=len(across))
