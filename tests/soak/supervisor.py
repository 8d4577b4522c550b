"""Keeps an operator process running, as Kubernetes does, kills it, and measures it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from support.operator_process import OperatorProcess

Sample = tuple[float, int, int]
"""Seconds, resident bytes, open files."""
PAGE = 4096
SLOW = 4
CUT = "ended: ClientPayloadError"


class Supervisor:
    """A context manager around one operator."""

    def __init__(self, operator: OperatorProcess) -> None:
        self.deaths = 0
        """How often it was killed."""
        self.restarts = 0
        """How often it ended because a watch could not go on, to be started again."""
        self.wrong: list[str] = []
        """Ends for any other reason."""
        self.samples: list[Sample] = []
        self._operator = operator
        self._period: float | None = None
        self._ready: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def killing(self, seconds: float) -> Iterator[None]:
        """SIGKILL each life some seconds after it was ready, wherever it is."""
        self._period = seconds
        try:
            yield
        finally:
            self._period = None

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._operator.running() as process:
                born, self._ready = time.monotonic(), None
                while not self._stop.wait(1.0):
                    if process.poll() is not None:
                        self._ended(process.returncode)
                        break
                    if self._due(time.monotonic() - born):
                        process.kill()
                        self.deaths += 1
                        break
                    self.samples.append(_measure(process.pid, time.monotonic() - born))

    def _ended(self, code: int) -> None:
        """At its start kopf asks once what the server serves: a cut answer ends the process."""
        last = self._operator.log.splitlines()[-1:]
        if code == 1 and any(CUT in line for line in last):
            self.restarts += 1
        else:
            self.wrong.append(f"the operator ended by itself: {code}")

    def _due(self, age: float) -> bool:
        """Time to die: some seconds after it was ready, or long after its start."""
        if self._period is None:
            return False
        if self._ready is None and self._operator.probe("/readyz")[0] == 200:
            self._ready = age
        ready = self._ready if self._ready is not None else SLOW * self._period
        return age > ready + self._period


def say(text: str) -> None:
    """Tell whoever waits; standard output belongs to the pods."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _measure(pid: int, age: float) -> Sample:
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * PAGE
    return round(age, 1), resident, len(list((process / "fd").iterdir()))
