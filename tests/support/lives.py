"""Lives of an operator process, one after the other, each of which may end at a chosen effect."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from support.crashing_operator import Order
from support.operator_process import ROOT, OperatorProcess

HOWS: Final = ("before", "after", "gently")
PATH: Final = (ROOT, ROOT / "operator", ROOT / "tests")


@dataclass(frozen=True, slots=True, order=True)
class Death:
    """Where an operator dies, and how: `before`, `after`, or `gently`: before it, by SIGTERM."""

    effect: str
    how: str = "before"

    def __str__(self) -> str:
        return f"{self.how} {self.effect}"


class Life:
    """One running operator."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._handle)

    @property
    def over(self) -> bool:
        """True once the process has ended."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if it has not come."""
        ends = select.poll()  # unlike select, for any number of descriptors
        ends.register(self._handle, select.POLLIN)
        return bool(ends.poll(seconds * 1000))

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)
        assert self.wait(20), "the operator does not end"


class Womb:
    """Forks operators; see `crashing_operator`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = threading.Lock()

    def bear(
        self, operator: OperatorProcess, job: str = "", deaths: Collection[Death] = ()
    ) -> Life:
        """Start an operator that dies at the first of these that it comes to."""
        order = Order(
            folder=str(operator.folder),
            settings=str(operator.settings_file),
            kubeconfig=str(operator.kubeconfig),
            effects=str(operator.folder / "effects"),
            job=job,
            **{how: [d.effect for d in deaths if d.how == how] for how in HOWS},
        )
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
            return Life(json.loads(self._process.stdout.readline())["pid"])


@contextmanager
def womb() -> Iterator[Womb]:
    """A process that forks operators, which all end with it."""
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, PATH))}
    with subprocess.Popen(
        [sys.executable, "-m", "support.crashing_operator"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Womb(process)


class Effects:
    """What the operators of one folder did, from some moment on."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._file = operator.folder / "effects"
        self._start = len(self._lines())

    def _lines(self) -> list[str]:
        return self._file.read_text().splitlines() if self._file.exists() else []

    def _entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines()[self._start :]]

    @property
    def names(self) -> list[str]:
        """Names of the effects, each once, in the order of their first occurrence."""
        return list(dict.fromkeys(e["effect"] for e in self._entries() if "effect" in e))

    @property
    def deaths(self) -> list[Death]:
        """Where operators died of an order."""
        return [Death(e["killed"], e["how"]) for e in self._entries() if "killed" in e]


class Reincarnation:
    """Keeps an operator alive: whenever it dies at an effect, the next one starts at once.

    Each death is died once: what is left of `deaths` is handed on. A context manager.
    """

    def __init__(
        self, womb: Womb, operator: OperatorProcess, job: str, deaths: Iterable[Death] = ()
    ) -> None:
        self._womb, self._operator, self._job = womb, operator, job
        self._left = set(deaths)
        self._over = threading.Event()
        self.effects = Effects(operator)
        self._thread = threading.Thread(target=self._keep, name=f"operator of {job}", daemon=True)

    def __enter__(self) -> Self:
        self.life = self._bear()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self.life.end()
        self._thread.join(20)
        self.life.end()

    @property
    def undied(self) -> set[Death]:
        """Deaths that no operator came to."""
        return self._left - set(self.effects.deaths)

    def _bear(self) -> Life:
        return self._womb.bear(self._operator, self._job, self.undied)

    def _keep(self) -> None:
        while not self._over.is_set():
            if self.life.wait(0.5) and not self._over.is_set():
                self.life = self._bear()
