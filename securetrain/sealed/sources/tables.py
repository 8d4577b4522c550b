"""Tables, whatever file they stand in: columns become features, rows become records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Protocol

from securetrain.errors import InvalidInput, UsageError
from securetrain.sealed.examples import encode_entry, join_entries
from securetrain.sealed.features import MAX_CLASSES, Feature, Task
from securetrain.sealed.sources.base import (
    LABEL_FEATURE,
    Record,
    Wishes,
    checked,
    classification,
    feature,
)
from securetrain.sealed.sources.columns import (
    Cell,
    Column,
    Kind,
    Seen,
    classes,
    settle,
    text_of,
)


class Rows(Protocol):
    """A table as a file gives it."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def kinds(self) -> Sequence[Kind | None]:
        """What the file itself says the columns are; raises InvalidInput for useless ones."""
        ...

    def rows(self, wanted: Sequence[int]) -> Iterator[Sequence[Cell]]:
        """The cells of some columns, row by row; may be asked again."""
        ...


@dataclass(frozen=True, slots=True)
class Roles:
    """Which column is what: places in `Rows.names`."""

    inputs: tuple[int, ...]
    label: int
    group: int | None
    ignored: tuple[str, ...]


def roles(names: Sequence[str], wishes: Wishes) -> Roles:
    """Find the columns that the owner named; raises UsageError or InvalidInput."""
    repeated = {name for name in names if list(names).count(name) > 1}
    if repeated or "" in names:
        raise InvalidInput(
            "SRC", (sorted(repeated) or [""])[0], "names two columns, or none", fix="name each once"
        )
    if wishes.label is None:
        raise UsageError(
            "a table needs --label, the column that is to be predicted.",
            fix=f"name one of {', '.join(names)[:200]}",
        )
    label = _place(names, "--label", wishes.label)
    group = None if wishes.group is None else _place(names, "--group-key", wishes.group)
    for option, patterns in (
        ("--ignore", wishes.ignore),
        ("--numeric", wishes.numeric),
        ("--categorical", wishes.categorical),
    ):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise _no_column(names, option, pattern)
    ignored = tuple(
        name
        for place, name in enumerate(names)
        if matches(name, wishes.ignore) and place not in (label, group)
    )
    inputs = tuple(
        place
        for place, name in enumerate(names)
        if place not in (label, group) and name not in ignored
    )
    if not inputs:
        raise InvalidInput("SRC", ", ".join(names), "leaves no column to learn from", fix="add one")
    return Roles(inputs, label, group, ignored)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """True if a name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def wanted_kind(name: str, wishes: Wishes, said: Kind | None) -> Kind | None:
    """What a column is to be: by the owner, else by the file; raises UsageError."""
    numeric, categorical = matches(name, wishes.numeric), matches(name, wishes.categorical)
    if numeric and categorical:
        raise UsageError(
            f"column {name} is both --numeric and --categorical.", fix="name it with one of them"
        )
    if numeric:
        return Kind.NUMERIC
    return Kind.CATEGORICAL if categorical else said


class TableSource:
    """A table; its rows are looked through once when it is made.

    Args:
        rows: the table.
        wishes: what the owner says about it.

    Raises:
        InvalidInput: names the column that does not fit.
    """

    def __init__(self, rows: Rows, wishes: Wishes) -> None:
        self._rows = rows
        self._roles = roles(rows.names, wishes)
        self._count, seen = self._look()
        names = classes(seen.pop(self._roles.label), wishes.label_names)
        said = rows.kinds()
        self._columns = [
            settle(seen[place], wanted_kind(rows.names[place], wishes, said[place]))
            for place in self._roles.inputs
        ]
        label = rows.names[self._roles.label]
        self._task = classification(names, field="--label", label=label)
        self._features = checked(
            {**{column.name: _feature(column) for column in self._columns}, label: LABEL_FEATURE},
            self._task,
        )

    @property
    def features(self) -> dict[str, Feature]:
        """One for each column that is learnt from, and the label."""
        return self._features

    @property
    def columns(self) -> Sequence[Column]:
        """What the columns were found to be."""
        return self._columns

    @property
    def task(self) -> Task:
        """To tell the label's values apart."""
        return self._task

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out or missing."""
        gaps = [f"{c.name} ({c.missing})" for c in self._columns if c.missing]
        found = []
        if self._roles.ignored:
            found.append(f"left out: {', '.join(self._roles.ignored)}")
        if gaps:
            found.append(f"missing values, taken as the mean: {', '.join(gaps)}")
        return tuple(found)

    def __len__(self) -> int:
        return self._count

    def scan(self) -> Iterator[Record]:
        """All rows, in their order."""
        label, group = self._roles.label, self._roles.group
        places = {name: number for number, name in enumerate(self._task.labels)}
        columns = sorted(
            zip(self._columns, self._roles.inputs, strict=True), key=lambda pair: pair[0].name
        )
        encoders = [(column.name, column.encoder()) for column, _ in columns]
        wanted = [place for _, place in columns]
        wanted += [label] if group is None else [label, group]
        name, size = self._task.label_name, len(columns)
        # Entries stand in the order of their names, the label's among them.
        before = sum(1 for column, _ in columns if column.name < name)
        for cells in self._rows.rows(wanted):
            entries = [
                encode_entry(key, encode(cell))
                for (key, encode), cell in zip(encoders, cells, strict=False)
            ]
            content = sha256(join_entries(entries)).digest()
            number = places.get(text_of(cells[size]), -1)
            key = text_of(cells[size + 1]) if group is not None else None
            entries.insert(before, encode_entry(name, number))
            yield Record(join_entries(entries), content, number, key)

    def _look(self) -> tuple[int, dict[int, Seen]]:
        names, label = self._rows.names, self._roles.label
        wanted = [*self._roles.inputs, label]
        seen = {place: Seen(names[place]) for place in wanted}
        seen[label].most = MAX_CLASSES
        adds = [seen[place].add for place in wanted]
        count = 0
        for cells in self._rows.rows(wanted):
            count += 1
            for add, cell in zip(adds, cells, strict=True):
                add(cell)
        if not count:
            raise InvalidInput("SRC", ", ".join(names), "has no rows", fix="seal some records")
        return count, seen


def _feature(column: Column) -> Feature:
    if column.kind is Kind.CATEGORICAL:
        return feature(
            column.name, dtype="int64", shape=(), encoding="int64", categories=column.categories
        )
    shape = () if column.length is None else (column.length,)
    return feature(column.name, dtype="float32", shape=shape, encoding="float")


def _place(names: Sequence[str], option: str, name: str) -> int:
    if name not in names:
        raise _no_column(names, option, name)
    return list(names).index(name)


def _no_column(names: Sequence[str], option: str, name: str) -> InvalidInput:
    return InvalidInput(option, name, "is no column", fix=f"name one of {', '.join(names)[:200]}")
