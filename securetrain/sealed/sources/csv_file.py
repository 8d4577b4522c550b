"""Tables as text: CSV in UTF-8 with a header line, fields separated by , ; | or a tab."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from securetrain.errors import InvalidInput
from securetrain.sealed.sources.columns import Kind

MAX_LINE: Final = 1 << 24
"""Most characters of a line."""
SEPARATORS: Final = ",;\t|"


class CsvRows:
    """The rows of one or more CSV files with the same header.

    Raises:
        InvalidInput: a file cannot be read, or its header is not the first one's.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        first, *others = (_header(path) for path in self._paths)
        self.names: tuple[str, ...] = tuple(name.strip() for name in first[1])
        self._separator = first[0]
        for path, other in zip(self._paths[1:], others, strict=True):
            if other != first:
                raise _bad(path, "does not begin with the same header as the first file")

    def kinds(self) -> Sequence[Kind | None]:
        """A CSV file does not say."""
        return [None] * len(self.names)

    def rows(self, wanted: Sequence[int]) -> Iterator[Sequence[str]]:
        """The cells of some columns, row by row."""
        for path in self._paths:
            yield from self._rows_of(path, wanted)

    def _rows_of(self, path: Path, wanted: Sequence[int]) -> Iterator[Sequence[str]]:
        width = len(self.names)
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(_lines(stream), delimiter=self._separator, strict=True)
                next(reader)
                for row in reader:
                    if len(row) != width:
                        if not row:
                            continue
                        raise _bad(path, f"has {len(row)} fields in line {reader.line_num}")
                    yield [row[place] for place in wanted]
        except (csv.Error, StopIteration):
            raise _bad(path, f"is not CSV at line {reader.line_num}") from None
        except UnicodeDecodeError:
            raise _bad(path, "is not text in UTF-8") from None
        except OSError:
            raise _bad(path, "cannot be read") from None


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error("a line is too long")
        yield line


def _header(path: Path) -> tuple[str, list[str]]:
    """A file's separator, the commonest in its first line, and the names of its columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline(MAX_LINE)
            separator = max(SEPARATORS, key=first.count)
            names = next(csv.reader([first], delimiter=separator, strict=True), [])
    except (csv.Error, UnicodeDecodeError):
        raise _bad(path, "does not begin with a header line in UTF-8") from None
    except OSError:
        raise _bad(path, "cannot be read") from None
    if len(names) < 2:
        raise _bad(path, "does not begin with the names of two columns or more")
    return separator, names


def _bad(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(
        "SRC",
        path.name,
        problem,
        fix="give CSV in UTF-8 with a header line and as many fields in every line",
    )
