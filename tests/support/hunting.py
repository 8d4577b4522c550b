"""A search of whole folders for many secrets at once, fast enough for image layers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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


def lines_with(secrets: Mapping[str, bytes], files: Sequence[Path]) -> list[bytes]:
    """Lines of text files that hold any of the secrets, in any spelling."""
    pieces = {searchable(form) for secret in secrets.values() for form in spellings(secret)}
    names = b"".join(os.fsencode(file) + b"\0" for file in files)
    return _grep(["-ah"], list(pieces), names).splitlines()


def _files(roots: list[str], since: Path | None) -> bytes:
    """All regular files, each name ended by a zero byte."""
    for root in roots:
        assert Path(root).exists(), f"{root} is not there to be searched"
    newer = ["-cnewer", str(since)] if since else []
    tests = ["-name", "rootfs", "-prune", "-o", "-type", "f", *newer, "-print0"]
    return _run(["find", *roots, *tests], b"")


def _matches(pieces: list[bytes], files: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and piece of every match."""
    for line in _grep(["-oaH", "--null"], pieces, files).split(b"\n")[:-1]:
        path, _, piece = line.partition(b"\0")
        yield os.fsdecode(path), piece


def _grep(flags: list[str], pieces: list[bytes], files: bytes) -> bytes:
    """What grep prints; the pieces lie in memory, never in a file."""
    patterns = os.memfd_create("pieces")
    try:
        os.write(patterns, b"\n".join(pieces))
        given = f"--file=/proc/{os.getpid()}/fd/{patterns}"
        grep = ["grep", "--fixed-strings", *flags, given, "--"]
        return _run(["xargs", "--null", "--no-run-if-empty", *grep], files)
    finally:
        os.close(patterns)


def _run(command: list[str], given: bytes) -> bytes:
    done = subprocess.run(
        command, input=given, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    problems = [line for line in done.stderr.splitlines() if not line.endswith(_GONE)]
    assert not problems, problems[:5]
    return done.stdout


def _place_of(path: str, roots: Mapping[str, str]) -> str:
    inside = [root for root in roots if path == root or path.startswith(f"{root}/")]
    return roots[max(inside, key=len)]
