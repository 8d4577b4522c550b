"""Opens sources as tests look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securetrain.sealed.examples import Values, parse_example
from securetrain.sealed.sources.base import Record, Source, Wishes
from securetrain.sealed.sources.opening import open_source


def source_of(path: Path, **wishes: Any) -> Source:
    """The source, found by its content."""
    return open_source(path, Wishes(**wishes))[0]


def records_of(source: Source) -> list[Record]:
    """All records."""
    return list(source.scan())


def values_of(source: Source) -> list[dict[str, Values]]:
    """All records, parsed."""
    return [parse_example(record.example) for record in source.scan()]


def text_file(path: Path, text: str) -> Path:
    """A file with this text."""
    path.write_text(text, encoding="utf-8", newline="")
    return path
