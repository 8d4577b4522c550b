"""Where audit lines go besides the launch record.

A line reaches every sink before the launch record is swapped, and the record is swapped before
anything is done. A sink that cannot take a line therefore stops what the line is about:
SinkUnavailable.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from securetrain_operator.errors import SinkUnavailable


class Sink(Protocol):
    """Takes audit lines, in order."""

    async def write(self, lines: Sequence[str]) -> None:
        """Take lines, each without its line feed; raises SinkUnavailable if that is not certain."""
        ...


class StreamSink:
    """Writes JSON lines to a text stream, by default standard output, for a log collector."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    async def write(self, lines: Sequence[str]) -> None:
        """Write and flush."""
        stream = self._stream or sys.stdout
        try:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
        except (OSError, ValueError) as error:
            raise _unavailable("standard output", error) from None


class FileSink:
    """Appends JSON lines to a file and waits until they are on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

    async def write(self, lines: Sequence[str]) -> None:
        """Append and fsync."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._append, "".join(f"{line}\n" for line in lines))
            except OSError as error:
                raise _unavailable(str(self._path), error) from None

    def _append(self, text: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        with open(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _unavailable(where: str, error: Exception) -> SinkUnavailable:
    return SinkUnavailable(
        f"the audit sink {where} takes no records ({type(error).__name__})",
        fix="free or mount its volume; nothing is granted or signed until then",
    )
