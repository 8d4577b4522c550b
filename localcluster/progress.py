"""Progress lines for long work: which step of how many, and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Prints one line as each step begins and, for slow ones, one as it ends.

    Args:
        total: the number of steps.
        quiet: print nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._total = total
        self._done = 0
        self._quiet = quiet
        self._began = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Marks one step."""
        self._done += 1
        began = time.monotonic()
        self._say(f"[{self._done}/{self._total}] {what}")
        yield
        seconds = time.monotonic() - began
        if seconds >= 5:
            self._say(f"[{self._done}/{self._total}] {what}: done in {seconds:.0f} s")

    def finish(self, what: str) -> None:
        """The closing line, with the time since the beginning."""
        self._say(f"{what} ({time.monotonic() - self._began:.1f} s)")

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)
