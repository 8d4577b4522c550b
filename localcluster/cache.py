"""The folder that survives `make clean`: compiled binaries, wheels and images."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """`$XDG_CACHE_HOME/securetrain`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "securetrain"


def key(*parts: str | bytes) -> str:
    """A short digest of what a cached thing was made from."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def tree(folders: Iterable[Path], patterns: tuple[str, ...] = ("*.py",)) -> bytes:
    """A digest of the files below some folders: their paths and their content."""
    digest = hashlib.sha256()
    for folder in folders:
        found = (file for pattern in patterns for file in folder.rglob(pattern))
        files = {file for file in found if file.is_file() and file.suffix != ".pyc"}
        for file in sorted(files):
            digest.update(f"{folder.name}/{file.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


@contextmanager
def lock(file: Path) -> Iterator[None]:
    """Keeps other processes that lock the same file waiting."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Lets one process at a time make `target`: yields an empty folder, or None if it exists.

    The folder becomes `target` by rename when the block ends well: nobody ever sees half of it.
    """
    with lock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            yield None
            return
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield folder
            folder.chmod(0o755)
            folder.replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
