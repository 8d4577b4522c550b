"""One pod that is only played: how far it came, and how a test ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from securetrain.api.names import Purpose
from securetrain.errors import ExitCode

TOLD_TO_END: Final = "the pod was told to end"


class PodEnds(Exception):
    """Raised by a hook: the container exits here with that code."""

    def __init__(self, exit_code: int, reason: str = "Killed") -> None:
        super().__init__(exit_code, reason)
        self.exit_code, self.reason = exit_code, reason


class Vanished(Exception):
    """Raised by a hook: kubelet says no more about this pod."""


@dataclass
class PlayedPod:
    """One pod of a job and what happened in it."""

    name: str
    namespace: str
    uid: str
    purpose: Purpose
    job: str
    owner: str
    """UID of its batch/v1 Job."""
    number: int
    """1 for the first pod of its job and purpose that was seen."""
    stages: list[str] = field(default_factory=list)
    """Of `started`, `asking`, `keys`, `reporting`, `reported`, as far as it came."""
    exit_code: int | None = None
    message: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the pod was deleted: the container ends at its next step."""

    @property
    def path(self) -> str:
        """Path of the pod at the API server."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def check(self) -> None:
        """Raise PodEnds if the container was told to end, as the trainer does on SIGTERM."""
        if self.stop.is_set():
            raise PodEnds(ExitCode.TRY_AGAIN, "Terminated")


Hook = Callable[[PlayedPod, str], None]
