"""Facts of the machine and of the code that a figure is worth nothing without."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.backends.openssl import backend

PACKAGES: Final = {"cryptography", "keras", "numpy", "tensorflow", "tensorflow-cpu", "tink"}


def facts() -> dict[str, Any]:
    """Processor, memory, versions and load, ready for JSON."""
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memoryKib": int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl": backend.openssl_version_text(),
        "packages": _versions(),
        "load": load(),
    }


def load() -> list[float]:
    """The load averages of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> dict[str, Any]:
    """The git commit of the working tree, and whether files differ from it; empty without git."""
    if not Path(".git").exists():
        return {}
    return {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))}


def _versions() -> dict[str, str]:
    installed = {each.name.replace("_", "-"): each.version for each in distributions()}
    return {name: installed[name] for name in sorted(PACKAGES & installed.keys())}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _field(path: Path, name: str) -> str | None:
    """Value of the first line `name: value`."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
