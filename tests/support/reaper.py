"""Strikes pods of jobs at a chosen moment of their work, seen on the node by what they log."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from support.witness import found_logs, pod_processes

EVERY = 0.1


@dataclass(frozen=True)
class Struck:
    """The pod that was hit, and its process."""

    pod_uid: str
    pid: int


class Reaper:
    """Waits for each of its prey and sends a signal to the first pod of it, once.

    Args:
        namespace: where the jobs are.
        prey: by name of a child Job, the event in its pod's log at which it is struck, and how.
    """

    def __init__(self, namespace: str, prey: Mapping[str, tuple[str, Signals]]) -> None:
        self._namespace = namespace
        self._prey = dict(prey)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reaper", daemon=True)
        self.struck: dict[str, Struck] = {}
        """By name of the child Job."""

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def stop(self) -> None:
        """Let go of what has not come."""
        self._done.set()
        self._thread.join(60)

    def _watch(self) -> None:
        while self._prey.keys() - self.struck.keys() and not self._done.wait(EVERY):
            for job in self._prey.keys() - self.struck.keys():
                event, signal = self._prey[job]
                for log in found_logs(f"{self._namespace}_{job}-*/trainer/0.log"):
                    with contextlib.suppress(FileNotFoundError):
                        if f'"event":"{event}"'.encode() in log.read_bytes():
                            self._strike(job, log.parents[1].name.rpartition("_")[2], signal)

    def _strike(self, job: str, pod_uid: str, signal: Signals) -> None:
        for pid in pod_processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                process = Path(f"/proc/{pid}")
                ours = pod_uid in (process / "cgroup").read_text()
                if ours and b"securetrain_trainer" in (process / "cmdline").read_bytes():
                    os.kill(pid, signal)
                    self.struck[job] = Struck(pod_uid, pid)
                    return
