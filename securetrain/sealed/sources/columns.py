"""What a column of a table is, found from its cells. Pure.

A column is numeric if all its cells are numbers, else it is categorical, and then it must repeat
itself: names, free texts and identifiers are not for training. Text counts as a number if it is
written as one; `007` is not, since codes are written that way. In a numeric column, an empty cell,
`NA`, `NaN` or `null` is a missing value; in a categorical one an empty cell is the category
`(missing)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import Value
from securetrain.sealed.features import MAX_CATEGORIES, MAX_CLASSES
from securetrain.sealed.sources.base import changed, pattern

Cell = str | int | float | bool | NDArray[np.float64] | None
"""A cell as a file gives it; None where there is nothing."""

_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?"
)
_NOTHING: Final = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL"})
_MAX: Final = float(np.finfo(np.float32).max)
MISSING: Final = "(missing)"


class Kind(StrEnum):
    """Kinds of columns."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


def number(cell: Cell) -> float | None:
    """A cell as a number, NaN if it says that there is none; None if it is something else."""
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        text = cell.strip()
        if text in _NOTHING:
            return math.nan
        if not _NUMBER.fullmatch(text):
            return None
        value = float(text)
    elif isinstance(cell, np.ndarray):
        return None
    else:
        value = float(cell)
        if math.isnan(value):
            return value
    return value if abs(value) <= _MAX else None


def text_of(cell: Cell) -> str:
    """A cell as the name of a category or class."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    text = "" if cell is None else str(cell).strip()
    return text or MISSING


@dataclass(slots=True)
class Seen:
    """What the cells of one column have been so far."""

    name: str
    most: int = MAX_CATEGORIES
    """Different texts that are remembered; of more, only that there are."""
    texts: set[str] | None = field(default_factory=set)
    numeric: bool = True
    integers: bool = True
    missing: int = 0
    length: int | None = None
    """Numbers in a cell that holds several; -1 if that varies."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, cell: Cell) -> None:
        """Look at one more cell."""
        if isinstance(cell, np.ndarray):
            fits = bool(np.all(np.isnan(cell) | (np.abs(cell) <= _MAX)))
            found = len(cell) if fits else -1
            self.length = found if self.length in (None, found) else -1
            return
        if self.texts is not None:
            self.texts.add(text_of(cell))
            if len(self.texts) > self.most:
                self.texts = None
        value = number(cell) if self.numeric else None
        if value is None:
            self.numeric = False
        elif math.isnan(value):
            self.missing += 1
        else:
            self.low, self.high = min(self.low, value), max(self.high, value)
            self.integers = self.integers and value == int(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a model sees: how its cells become values."""

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    length: int | None = None
    """Numbers in a cell; None for one number that is not in a list."""
    missing: int = 0
    low: float = 0
    high: float = 0

    def encoder(self) -> Callable[[Cell], Value]:
        """From a cell to its value in a record; raises InvalidInput where it does not fit."""
        if self.kind is Kind.CATEGORICAL:
            return self._index(dict(zip(self.categories, range(len(self.categories)), strict=True)))
        return self._vector if self.length is not None else self._number

    def _index(self, places: dict[str, int]) -> Callable[[Cell], int]:
        def index(cell: Cell) -> int:
            place = places.get(text_of(cell))
            if place is None:
                raise changed(f"column {self.name}")
            return place

        return index

    def _number(self, cell: Cell) -> float:
        value = number(cell)
        if value is None:
            raise changed(f"column {self.name}")
        return value

    def _vector(self, cell: Cell) -> NDArray[np.float32]:
        if not isinstance(cell, np.ndarray) or len(cell) != self.length:
            raise changed(f"column {self.name}")
        return cell.astype(np.float32)


def settle(seen: Seen, wanted: Kind | None, *, categories: Sequence[str] | None = None) -> Column:
    """Decide what a column is.

    Args:
        seen: all its cells.
        wanted: what the owner or the file says it is; None to find out.
        categories: those that the file itself names, in their order.

    Raises:
        InvalidInput: it is not what is wanted, holds nothing, or too many different texts.
    """
    if seen.length is not None:
        return _vector(seen, wanted)
    numeric = seen.numeric if wanted is None else wanted is Kind.NUMERIC
    if not numeric:
        return Column(seen.name, Kind.CATEGORICAL, tuple(categories or _categories(seen)))
    if not seen.numeric:
        raise _refuse(seen, "holds something else than numbers")
    if seen.low > seen.high:
        raise _refuse(seen, "holds no value at all")
    return Column(seen.name, Kind.NUMERIC, missing=seen.missing, low=seen.low, high=seen.high)


def classes(seen: Seen, names: Sequence[str]) -> tuple[str, ...]:
    """Classes of the label's column, in their order.

    Raises:
        InvalidInput: a cell is empty, there are too many, or one is not among `names`.
    """
    if seen.length is not None or seen.texts is None:
        raise InvalidInput(
            "--label",
            seen.name,
            f"has more than {MAX_CLASSES} different values",
            fix="name a column that says which class a record is of: numbers are not predicted",
        )
    if MISSING in seen.texts:
        raise InvalidInput(
            "--label", seen.name, "is empty in some records", fix="leave those records out"
        )
    if not names:
        return tuple(ordered(seen.texts))
    unknown = sorted(seen.texts - set(names))
    if unknown:
        raise InvalidInput(
            "--label-names",
            unknown[0],
            f"is a value of {seen.name} and not among the names",
            fix="name every class as the column does",
        )
    return tuple(names)


def ordered(texts: Iterable[str]) -> list[str]:
    """Texts in a stable order: numbers by their size, then the rest by their letters."""

    def key(text: str) -> tuple[bool, float, str]:
        value = number(text)
        plain = value is not None and not math.isnan(value)
        return (not plain, value if plain and value is not None else 0.0, text)

    return sorted(texts, key=key)


def _vector(seen: Seen, wanted: Kind | None) -> Column:
    if wanted is Kind.CATEGORICAL or seen.length == -1 or not seen.length:
        raise _refuse(seen, "does not hold the same number of numbers in every record")
    if seen.texts or seen.missing:
        raise _refuse(seen, "is empty in some records")
    return Column(seen.name, Kind.NUMERIC, length=seen.length)


def _categories(seen: Seen) -> list[str]:
    if seen.texts is None:
        raise _refuse(seen, f"holds text, more than {seen.most} different ones")
    return ordered(seen.texts)


def _refuse(seen: Seen, problem: str) -> InvalidInput:
    return InvalidInput(
        "SRC",
        seen.name,
        f"{problem}",
        fix=f"leave the column out with --ignore {pattern(seen.name)}, or change the data",
    )
