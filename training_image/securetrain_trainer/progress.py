"""Progress reports from a thread of their own, so that a slow gateway never slows training.

Only the newest report counts: one that waits to be sent is replaced by the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Self

from securetrain.api.gateway import ProgressReport
from securetrain.errors import SecuretrainError
from securetrain_trainer.log import log

LAST_REPORT: Final = 15.0
"""Seconds that the end of a phase waits for the last report to be sent."""


class ProgressPoster:
    """Numbers reports and sends the newest; a context manager.

    Args:
        post: sends one report; what it raises is logged, and the next report goes out all the same.
    """

    def __init__(self, post: Callable[[ProgressReport], None]) -> None:
        self._post = post
        self._sequence = 0
        self._waiting: ProgressReport | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(LAST_REPORT)

    def report(self, summary: str, **fields: Any) -> None:
        """Report `ProgressReport(sequence=…, summary=summary, **fields)` soon."""
        with self._changed:
            self._waiting = ProgressReport(sequence=self._sequence, summary=summary, **fields)
            self._sequence += 1
            self._changed.notify()

    def _run(self) -> None:
        while (report := self._next()) is not None:
            try:
                self._post(report)
            except SecuretrainError as error:
                log("progress.lost", reason=error.reason, message=error.message)

    def _next(self) -> ProgressReport | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._ended)
            report, self._waiting = self._waiting, None
            return report
