"""What a fuzz target is: a parser, called as its callers call it, and what must hold of it.

Whatever the bytes, a parser gives a value for which `holds` holds, or one of its refusals, which
names what is wrong and says what to do. Any other exception is a bug, and so is a step beyond the
memory or the time that the driver allows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from securetrain.errors import ManifestInvalid, SecuretrainError
from securetrain.sealed import features as content
from securetrain.sealed.examples import MAX_RECORD_BYTES, parse_example
from securetrain.sealed.sources.base import Source

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
IN_MEMORY = Path("/dev/shm")
MAX_MESSAGE = 1000
"""Characters of an error: it must fit a condition, an Event and a line of a terminal."""


def as_it_is(data: bytes) -> Sequence[bytes]:
    """The bytes, and nothing made of them."""
    return (data,)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser."""

    parse: Callable[[bytes], Any]
    refusals: tuple[type[SecuretrainError], ...] = (ManifestInvalid,)
    names: str = ""
    """What every refusal names."""
    holds: Callable[[Any], None] = lambda value: None
    """Raises AssertionError unless a value that was parsed is sound."""
    views: Callable[[bytes], Sequence[bytes]] = as_it_is
    """What is parsed: the bytes, and documents that carry them past a checksum or a cipher."""
    json: bool = False
    """True if it is JSON, which is altered value by value as well."""
    max_len: int = 8192
    """Longest input that is tried, in bytes."""

    def check(self, data: bytes) -> None:
        """Raise unless every view gives a sound value or a refusal that explains itself."""
        for view in self.views(data):
            try:
                value = self.parse(view)
            except self.refusals as error:
                explains_itself(error, self.names)
            else:
                self.holds(value)


def names() -> list[str]:
    """All targets: a module of `fuzz.targets` each."""
    return sorted(path.stem for path in (FOLDER / "targets").glob("[a-z]*.py"))


def load(name: str) -> Target:
    """The target of that name."""
    found = importlib.import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(found, Target)
    return found


def seed(name: str, file: str) -> bytes:
    """A file of a target's corpus."""
    return (CORPUS / name / file).read_bytes()


def explains_itself(error: SecuretrainError, name: str) -> None:
    """The error is of a class that people can act on, and is one line that can be shown."""
    text = str(error)
    assert type(error) is not SecuretrainError, text
    assert error.reason.isidentifier(), error.reason
    assert error.fix, text
    assert name in text, text
    assert text.isprintable(), repr(text)
    assert len(text) <= MAX_MESSAGE, text


@contextmanager
def file_of(data: bytes, name: str) -> Iterator[Path]:
    """A file in a folder of its own, in memory where the system has a place for that."""
    with TemporaryDirectory(
        prefix="fuzz.", dir=IN_MEMORY if IN_MEMORY.is_dir() else None
    ) as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def sound_source(source: Source, limit: int = 200) -> None:
    """The features fit the task, and so do the records; of many only the first are read."""
    content.check(source.features, source.task)
    count = 0
    for record in source.scan():
        count += 1
        assert 0 <= record.label < source.task.classes
        assert len(record.content) == 32
        assert len(record.example) <= MAX_RECORD_BYTES
        assert source.features.keys() <= parse_example(record.example).keys()
        if count == limit:
            return
    assert count == len(source)
