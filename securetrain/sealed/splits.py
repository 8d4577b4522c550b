"""Which record goes into which split: by a hash, so that it is stable and leaks nothing across.

A record's place follows from its identity alone: its group key if the owner names one (all images
of one patient), else its content. Sealing again, with more records or in another order, moves no
record from one split to another, and duplicates always lie on the same side.
"""

from __future__ import annotations

import hashlib
import re
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
