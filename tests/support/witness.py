"""A witness on the node: it notes what pods show while they run, since much of it goes with them.

Every second it looks at all processes of pods, and keeps their command lines, their environments,
the files in their /tmp, and an open handle to each of their logs, which so outlives its deletion.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

EVERY = 1.0
LARGEST = 4 << 20
LOGS = Path("/var/log/pods")


class Witness:
    """Notes what it sees in a folder, until it is stopped.

    Args:
        folder: gets `processes`, `tmp` and, by `keep_logs`, `pod-logs`; `began` tells when.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[Path, BinaryIO] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self.failure: BaseException | None = None
        self.began = folder / "began"

    def start(self) -> None:
        """Begin to watch."""
        for name in ("processes", "tmp", "pod-logs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self.began.touch()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and let the logs go."""
        self._done.set()
        self._thread.join(60)
        for log in self._logs.values():
            log.close()

    def keep_logs(self) -> Path:
        """Write down all logs of pods, of those that are gone too; the folder."""
        target = self._folder / "pod-logs"
        for path, log in list(self._logs.items()):
            log.seek(0)
            name = "_".join(path.relative_to(LOGS).parts)
            with (target / name).open("wb") as copy:
                shutil.copyfileobj(log, copy)
        return target

    def _watch(self) -> None:
        try:
            while not self._done.wait(EVERY):
                self._open_logs()
                for pid in pod_processes():
                    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                        self._note(pid)
        except BaseException as error:
            self.failure = error
            raise

    def _open_logs(self) -> None:
        for path in found_logs("*/*/*.log"):
            if path not in self._logs:
                with contextlib.suppress(FileNotFoundError):
                    self._logs[path] = path.open("rb")

    def _note(self, pid: int) -> None:
        process = Path(f"/proc/{pid}")
        for what in ("cmdline", "environ"):
            self._keep("processes", what, (process / what).read_bytes())
        if not (process / "root").samefile("/"):  # as before a container enters its own
            for content in _small_files(process / "root/tmp"):
                self._keep("tmp", str(pid), content)

    def _keep(self, kind: str, name: str, content: bytes) -> None:
        """One file per content, however often it is seen."""
        file = self._folder / kind / f"{name}-{sha256(content).hexdigest()[:16]}"
        if not file.exists():
            file.write_bytes(content)


def found_logs(pattern: str) -> Iterator[Path]:
    """Logs of pods; a folder that kubelet removes meanwhile is passed over, unlike by Path.glob."""
    return map(Path, glob.iglob(f"{LOGS}/{pattern}"))


def pod_processes() -> Iterator[int]:
    """PIDs of all processes of pods, their pause containers among them."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if "kubepods" in Path(f"/proc/{entry}/cgroup").read_text():
                    yield int(entry)


def _small_files(folder: Path) -> Iterator[bytes]:
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                    yield path.read_bytes()
