"""What sealing needs of a source, whatever its kind.

A source is read twice. When it is opened, it is looked through for what its records hold: features,
classes, their number. Then `scan` gives every record once. Sources that can also give a record
again by its place (`Seekable`) are sealed from where they lie; of the others, `Spill` keeps the
records sealed on the disk until their shards are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from securetrain.errors import InvalidInput
from securetrain.sealed import features as content
from securetrain.sealed.features import MAX_CLASSES, Feature, Features, Task

MAX_SHOWN: Final = 64
_FEATURES: Final = TypeAdapter(Features)
LABEL_FEATURE: Final = Feature(dtype="int64", shape=(), encoding="int64")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source."""

    example: bytes
    """Its tf.train.Example."""
    content: bytes
    """SHA-256 of what a model sees; the label is left out, so that a relabelled copy is a copy."""
    label: int
    group: str | None = None
    """Records of one group stay in one split."""
    where: int = 0
    """Where it lies, below 2**64: the source's own business."""
    span: int = 0
    """How long it is there, below 2**32: the source's own business."""


class Source(Protocol):
    """Records, and what is known of all of them."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """The features, the label among them."""
        ...

    @property
    def task(self) -> Task:
        """What is to be learnt."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the owner should know: what was left out, and why."""
        ...

    def __len__(self) -> int:
        """Number of records."""
        ...

    def scan(self) -> Iterator[Record]:
        """All records, in an order of the source's own; raises InvalidInput."""
        ...


@runtime_checkable
class Seekable(Protocol):
    """A source that gives a record again."""

    def read(self, where: int, span: int) -> bytes:
        """The tf.train.Example of a record that `scan` gave; called from several threads."""
        ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the owner says about the source; what is left empty is found out."""

    label: str | None = None
    """Column, feature or array of the label."""
    group: str | None = None
    """Column, feature or array of the group."""
    label_names: tuple[str, ...] = ()
    """Classes in their order."""
    numeric: tuple[str, ...] = ()
    """Columns that are quantities, as patterns such as `size_*`; so the next two."""
    categorical: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    """Height and width that images are scaled to."""
    channels: int | None = None
    """Channels that images are decoded to."""
    images_key: str = "images"
    """Array of the images."""


def classification(
    names: Sequence[str], *, field: str = "--label-names", label: str | None = None
) -> Task:
    """A task with these classes.

    Args:
        names: names of the classes, in their order.
        field: where they come from, for messages.
        label: name of the label's feature, if it is not the usual one.

    Raises:
        InvalidInput: fewer than two, too many, or a name that cannot be shown.
    """
    shown = ",".join(names)
    if len(set(names)) != len(names):
        raise InvalidInput(field, shown, "repeats a name", fix="use each once")
    if len(names) > MAX_CLASSES:
        raise InvalidInput(
            field,
            f"{names[0]}, …",
            f"has {len(names)} different values, more than {MAX_CLASSES}",
            fix="name a label that says which class a record is of: numbers are not predicted",
        )
    other = label if label != content.LABEL else None
    try:
        return Task(kind="classification", classes=len(names), labels=tuple(names), label=other)
    except ValidationError:
        raise InvalidInput(
            field,
            shown,
            "is not two or more names of 1 to 128 printable characters",
            fix="name every class",
        ) from None


def numbered(highest: int, names: Sequence[str], *, field: str, label: str | None = None) -> Task:
    """A task for labels that count from 0 to `highest`, with `names` or else their numbers."""
    shown = tuple(names) or tuple(str(number) for number in range(max(highest, 1) + 1))
    if highest >= len(shown):
        raise InvalidInput(
            "--label-names",
            ",".join(shown),
            f"has no name for label {highest} of {field}",
            fix="name every class, in the order of their numbers",
        )
    return classification(shown, label=label)


def checked(features: Mapping[str, Feature], task: Task) -> dict[str, Feature]:
    """The features, if dataset.json may hold them; raises InvalidInput."""
    names = ", ".join(features)
    try:
        _FEATURES.validate_python(features)
        content.check(features, task)
    except ValidationError as error:
        raise unfit("SRC", names, f"do not fit: {error.errors()[0]['msg']}") from None
    except ValueError as problem:
        raise unfit("SRC", names, f"do not fit: {problem}") from None
    return dict(features)


def feature(name: str, **fields: Any) -> Feature:
    """A feature of a source; raises InvalidInput that names it."""
    try:
        return Feature(**fields)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise unfit("SRC", name, f"cannot be a feature: {problem}") from None


def pattern(name: str) -> str:
    """What names a column to an option such as --ignore: its name, or a beginning and a star."""
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}*")


def unfit(field: str, value: object, problem: str) -> InvalidInput:
    """Something that a model cannot be trained on."""
    return InvalidInput(
        field, value, problem, fix="leave what does not belong to it out with --ignore NAME"
    )


def changed(name: object) -> InvalidInput:
    """A source that is not what it was when it was opened."""
    return InvalidInput(
        "SRC", str(name), "changed while it was read", fix="let nobody write to it; seal again"
    )
