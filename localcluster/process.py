"""Child processes that outlive the command that started them, found again by pid file.

A pid alone is not enough: after a crash or a reboot the number may belong to a stranger. The pid
file therefore holds the start time from /proc too, and nothing is signalled unless both fit.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from localcluster.errors import ClusterError

_DROPPED_ENVIRONMENT = ("VAULT_", "BAO_", "KUBE", "ETCD_")
"""Variables of the person's shell that would change what a server does."""


def start_time(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot, or None if there is no such process.

    A zombie counts as gone: it runs no code and holds no port.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float = 180,
    every: float = 0.1,
    processes: Sequence[Process] = (),
) -> None:
    """Waits for a condition, and gives up at once when a process it depends on has died.

    Raises:
        ClusterError: time is up or a process is gone; the message ends with its log's last lines.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        dead = [process for process in processes if not process.running]
        if dead:
            raise ClusterError(f"{dead[0].name} stopped while waiting for {what}.{dead[0].tail()}")
        if time.monotonic() > deadline:
            tails = "".join(process.tail() for process in processes)
            raise ClusterError(f"{what}: not there after {seconds:g} s.{tails}")
        time.sleep(every)


class Process:
    """One named child of a state folder: `<name>.pid` and `logs/<name>.log` in it.

    Args:
        name: names the files and the messages.
        state: the state folder.
        die_with_parent: the kernel kills it when the starting process dies; for tests.
    """

    def __init__(self, name: str, state: Path, *, die_with_parent: bool = False) -> None:
        self.name = name
        self.log = state / "logs" / f"{name}.log"
        self._pid_file = state / f"{name}.pid"
        self._die_with_parent = die_with_parent
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid if the process is alive and still ours, else None."""
        pid, started, _ = self._recorded()
        return int(pid) if pid and start_time(int(pid)) == started else None

    @property
    def running(self) -> bool:
        """Whether the process is alive and still ours."""
        return self.pid is not None

    def start(self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
        """Starts it in a session of its own, output to the log.

        It is left alone when it runs already, and restarted when it runs with other arguments.
        """
        command = hashlib.sha256("\0".join(map(str, argv)).encode()).hexdigest()
        if self.running and self._recorded()[2] == command:
            return
        self.stop()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if self._die_with_parent else []
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*guard, *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_clean_environment() | dict(env or {}),
                start_new_session=True,
            )
        self._record(self._popen.pid, command)

    def stop(self, *, seconds: float = 10) -> None:
        """Asks it to end, kills it when time is up, and removes the pid file; harmless if gone."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            pid = self.pid
            if pid is None:
                break
            os.kill(pid, number)
            self._wait_gone(patience)
        if self._popen is not None:
            self._popen.wait(timeout=5)
            self._popen = None
        self._pid_file.unlink(missing_ok=True)

    def tail(self, lines: int = 8) -> str:
        """The last lines of the log, ready to be appended to a message."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "".join(f"\n  {self.name}: {line}" for line in text)

    def _recorded(self) -> tuple[str, str, str]:
        """Pid, start time and digest of the arguments; empty when nothing was recorded."""
        try:
            pid, started, command = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return "", "", ""
        return pid, started, command

    def _record(self, pid: int, command: str) -> None:
        started = start_time(pid)
        if started is None:
            raise ClusterError(f"{self.name} ended at once.{self.tail()}")
        temporary = self._pid_file.with_suffix(".tmp")
        temporary.write_text(f"{pid} {started} {command}\n")
        temporary.replace(self._pid_file)

    def _wait_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.02)


def _clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED_ENVIRONMENT)}
