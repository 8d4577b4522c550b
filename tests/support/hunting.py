"""A search of whole folders for many secrets at once, fast enough for image layers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.spellings import searchable, spellings

_GONE = b"No such file or directory"
"""Live folders change while they are read."""


@dataclass(frozen=True, order=True)
class Find:
    """A secret that lies somewhere."""

    secret: str
    place: str
    path: Path

    def __str__(self) -> str:
        return f"{self.secret} in {self.place}: {self.path}"


def hunt(
    secrets: Mapping[str, bytes], places: Mapping[str, Path], *, since: Path | None = None
) -> list[Find]:
    """Every secret that lies in a file below one of the places, in any spelling.

    Links are not followed; a container's merged root is left out, since its layers are searched.

    Args:
        secrets: by name.
        places: folders or files, by name.
        since: leave out files that have not changed since this one was made, such as images.
    """
    owners: dict[bytes, set[str]] = {}
    for name, secret in secrets.items():
        for form in spellings(secret):
            owners.setdefault(searchable(form), set()).add(name)
    roots = {str(root): place for place, root in places.items()}
    return sorted(
        {
            Find(name, _place_of(path, roots), Path(path))
            for path, piece in _matches(list(owners), _files(list(roots), since))
            for name in owners[piece]
        }
    )


def _files(roots: list[str], since: Path | None) -> bytes:
    """All regular files, each name ended by a zero byte."""
    for root in roots:
        assert Path(root).exists(), f"{root} is not there to be searched"
    newer = ["-cnewer", str(since)] if since else []
    tests = ["-name", "rootfs", "-prune", "-o", "-type", "f", *newer, "-print0"]
    return _run(["find", *roots, *tests], b"").stdout


def _matches(pieces: list[bytes], files: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and piece of every match; the pieces lie in memory, never in a file."""
    patterns = os.memfd_create("pieces")
    try:
        os.write(patterns, b"\n".join(pieces))
        grep = ["grep", "-oaFH", "--null", f"--file=/proc/{os.getpid()}/fd/{patterns}", "--"]
        done = _run(["xargs", "--null", "--no-run-if-empty", *grep], files)
    finally:
        os.close(patterns)
    for line in done.stdout.split(b"\n")[:-1]:
        path, _, piece = line.partition(b"\0")
        yield os.fsdecode(path), piece


def _run(command: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command, input=given, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    problems = [line for line in done.stderr.splitlines() if not line.endswith(_GONE)]
    assert not problems, problems[:5]
    return done


def _place_of(path: str, roots: Mapping[str, str]) -> str:
    inside = [root for root in roots if path == root or path.startswith(f"{root}/")]
    return roots[max(inside, key=len)]
