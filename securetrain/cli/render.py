"""How commands speak: text for people, JSON for programs, progress bars on terminals only.

Results go to standard output, progress and errors to standard error. What comes from files that
others wrote is shown with control characters escaped, so that it cannot drive a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from securetrain.errors import SecuretrainError
from securetrain.errors import printable as printable

PLAIN_WIDTH: Final = 10_000
"""Width of output that is not a terminal: lines are never wrapped."""


class Output(StrEnum):
    """Forms of a command's result."""

    TEXT = "text"
    JSON = "json"


class Advance(Protocol):
    """Sets how much is done, a note, such as a throughput, and perhaps of how much."""

    def __call__(self, done: int, note: str, of: int | None = None) -> None:
        """Move the bar."""
        ...


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="text for people, json for programs")
]


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error, plain if that is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def emit(output: Output, value: Mapping[str, Any], *shown: RenderableType) -> None:
    """Print a result: `value` as JSON, or what is `shown` to people."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
        return
    out = console()
    for renderable in shown:
        out.print(renderable)


def fields(rows: Iterable[tuple[str, str]]) -> Table:
    """Rows of a name and its value, aligned."""
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(printable(name), style="bold"), Text(printable(value)))
    return grid


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table with a header line and without frames."""
    grid = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    return grid


@contextmanager
def progress_bar(label: str, total: int, output: Output) -> Iterator[Advance]:
    """A progress bar on standard error while the block runs; nothing where that is no terminal.

    Yields:
        What tells how far it has come.
    """
    shown = output is Output.TEXT and sys.stderr.isatty()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not shown,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda done, note, of=None: bar.update(task, completed=done, note=note, total=of)


def error(problem: SecuretrainError) -> None:
    """Print an error: one line that says what is wrong, one that says what to do."""
    lines(f"error: {problem.message}", f"fix: {problem.fix}" if problem.fix else "")


def lines(*texts: str) -> None:
    """Print lines to standard error; empty ones are left out."""
    for text in texts:
        if text:
            sys.stderr.write(printable(text) + "\n")
