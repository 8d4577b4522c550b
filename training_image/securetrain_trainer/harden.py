"""What the process does to itself before it holds a key.

A pod cannot ask Kubernetes for an ulimit, and a core dump, a debugger of the same user or a
library's crash report would carry keys and plaintext out of memory. So the entrypoint closes
these doors first and states what it found.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securetrain.errors import BadConfiguration
from securetrain_trainer.log import log

PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
DUMPING_PREFIXES: Final = ("TF_DUMP", "TF_PROFILER", "XLA_", "TF_XLA", "MLIR_", "TF_DEBUG")
"""Environment variables with which TensorFlow writes graphs, traces or tensors to files."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the process found about its own surroundings."""

    core_limit: int
    dumpable: int
    tmp_in_memory: bool
    root_read_only: bool


def harden() -> Facts:
    """Forbid core dumps and attachment, silence crash reports, and tame TensorFlow's environment.

    Must run before TensorFlow is imported and before any key is asked for.

    Raises:
        BadConfiguration: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_DUMPABLE, 0)
    facts = inspect()
    if facts.core_limit != 0 or facts.dumpable != 0:
        raise BadConfiguration(
            "the process cannot protect its memory: core dumps or attachment stay possible",
            fix="run the pod with the RuntimeDefault seccomp profile",
        )
    _tame_libraries()
    _silence_crash_reports()
    return facts


def inspect() -> Facts:
    """The facts as they are now."""
    return Facts(
        core_limit=resource.getrlimit(resource.RLIMIT_CORE)[1],
        dumpable=_prctl(PR_GET_DUMPABLE),
        tmp_in_memory=filesystem_of("/tmp", _mounts()) in MEMORY_FILESYSTEMS,  # noqa: S108
        root_read_only=bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    )


def filesystem_of(path: str, mounts: str) -> str:
    """Type of the file system that holds `path`, from the text of /proc/self/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        point, filesystem = line.split(" ")[1:3]
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, filesystem
    return kind


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def _prctl(option: int, value: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.prctl(option, value, 0, 0, 0))
    if result < 0:
        raise BadConfiguration(f"prctl({option}) failed with errno {ctypes.get_errno()}")
    return result


def _tame_libraries() -> None:
    for name in list(os.environ):
        if name.startswith(DUMPING_PREFIXES):
            del os.environ[name]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = "/tmp/keras"  # noqa: S108 memory-backed; Keras writes its settings there


def _silence_crash_reports() -> None:
    """An uncaught exception shows its type only: its text and its frames may hold plaintext.

    Libraries log nothing: their lines may quote what they handle, a request's headers among it.
    """
    logging.disable(logging.CRITICAL)

    def report(kind: type[BaseException]) -> None:
        log("crash", stream=sys.stderr, type=kind.__name__)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        report(args.exc_type)

    def unraisable_hook(args: Any) -> None:
        report(args.exc_type)

    sys.excepthook = lambda kind, _value, _trace: report(kind)
    threading.excepthook = thread_hook
    sys.unraisablehook = unraisable_hook
