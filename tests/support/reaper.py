"""Kills pods of jobs at a chosen moment of their work, seen on the node by what they log."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

from support.witness import LOGS, pod_processes

EVERY = 0.1


class Reaper:
    """Waits for each of its prey and kills the first pod of it, once, with SIGKILL.

    Args:
        namespace: where the jobs are.
        prey: by name of a child Job, the event in its pod's log at which the pod dies.
    """

    def __init__(self, namespace: str, prey: Mapping[str, str]) -> None:
        self._namespace = namespace
        self._prey = dict(prey)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reaper", daemon=True)
        self.killed: dict[str, str] = {}
        """UID of the pod that was killed, by name of its Job."""

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def stop(self) -> None:
        """Let go of what has not come."""
        self._done.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while self._prey.keys() - self.killed.keys() and not self._done.wait(EVERY):
            for job in self._prey.keys() - self.killed.keys():
                for log in LOGS.glob(f"{self._namespace}_{job}-*/trainer/0.log"):
                    if f'"event":"{self._prey[job]}"' in log.read_text():
                        self._kill(job, log.parents[1].name.rpartition("_")[2])

    def _kill(self, job: str, pod_uid: str) -> None:
        for pid in pod_processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                process = Path(f"/proc/{pid}")
                ours = pod_uid in (process / "cgroup").read_text()
                if ours and b"securetrain_trainer" in (process / "cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    self.killed[job] = pod_uid
                    return
