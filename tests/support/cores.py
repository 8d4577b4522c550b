"""Crashes on purpose, and a collector of the core dumps that the kernel makes of them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATTERN = Path("/proc/sys/kernel/core_pattern")
TRAP = b"\xcc" if platform.machine() == "x86_64" else b"\0"
"""An instruction that faults: `int3`, elsewhere `udf`."""
TRAPPED = ("python", "libc.so")


@contextmanager
def collected(folder: Path) -> Iterator[Path]:
    """Have the kernel pipe every core dump of this machine into `folder`, as <host name>.<pid>.

    A pipe is the harder case: the kernel writes to it in spite of RLIMIT_CORE 0, past a read-only
    root, and with root's rights. Needs root on the machine itself; what was set comes back.
    """
    before = PATTERN.read_text()
    pattern = f"|/bin/dd of={folder}/%h.%P status=none"
    assert len(pattern) < 128, "the kernel cuts a longer pattern"
    PATTERN.write_text(pattern)
    try:
        yield folder
    finally:
        PATTERN.write_text(before)


def crash(pid: int) -> None:
    """Let a process run into a fault, as a broken library would.

    SIGABRT from the node does not do: the kernel ignores it for process 1 of a container, unless
    that asked for it.
    """
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for start, end in _code(pid):
            memory.seek(start)
            memory.write(TRAP * (end - start))


def _code(pid: int) -> Iterator[tuple[int, int]]:
    """Where the interpreter's and the C library's instructions lie."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_, path = line.split()
        if rights.startswith("r-x") and any(name in Path(path).name for name in TRAPPED):
            start, end = (int(part, 16) for part in span.split("-"))
            yield start, end
