"""What a folder on a claim holds, as the receiver tells it, and files in it that are not whole yet.

A file grows under a name of its own, so that of two receivers in one folder neither touches what
the other is at work on. What a killed one left is told by its age.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Final

MAX_NAME: Final = 280
"""Longer than the name of any file of a sealed folder."""
ABANDONED_SECONDS: Final = 3600.0
"""A receiver that gets no byte for a quarter of this is ended; clocks may differ by the rest."""
_PARTIAL: Final = re.compile(r"\..+\.[0-9a-f]{16}\.partial")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def partial_name(name: str) -> str:
    """A name, never given before, under which the file `name` grows."""
    return f".{name}.{secrets.token_hex(8)}.partial"


def listed(at: int, above: str = "") -> Iterator[tuple[str, int]]:
    """Names and sizes of all that lies in an open folder, in order, at most one folder deep.

    What is no file, or is named as no file of a sealed folder, is listed too, by a name that none
    of those has: where it lies is not free. Left out are files that still grow; abandoned ones are
    removed on the way.
    """
    with os.scandir(at) as entries:
        found = sorted(entries, key=lambda entry: (entry.name.startswith("."), entry.name))
    for entry in found:
        if _PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            _remove_abandoned(entry, at)
        elif entry.is_dir(follow_symlinks=False) and not above and entry.name[0] != ".":
            yield from _inside(entry.name, at)
        else:
            yield from _itself(entry, above)


def _inside(name: str, at: int) -> Iterator[tuple[str, int]]:
    try:
        inner = os.open(name, _FOLDER, dir_fd=at)
    except FileNotFoundError:
        return
    try:
        empty = True
        for entry in listed(inner, f"{name}/"):
            empty = False
            yield entry
        if empty:
            yield _shown(f"{name}/"), 0
    finally:
        os.close(inner)


def _itself(entry: os.DirEntry[str], above: str) -> Iterator[tuple[str, int]]:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # it has gone since
    name = above + entry.name
    if stat.S_ISREG(status.st_mode):
        yield _shown(name), status.st_size
    else:
        yield _shown(f"{name}/" if stat.S_ISDIR(status.st_mode) else f"{name} (not a file)"), 0


def _remove_abandoned(entry: os.DirEntry[str], at: int) -> None:
    try:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS:
            os.unlink(entry.name, dir_fd=at)
    except FileNotFoundError:
        return


def _shown(name: str) -> str:
    """A name in printable ASCII; one that is altered has a backslash, or is very long."""
    return "".join(char if " " <= char <= "~" else ascii(char)[1:-1] for char in name)[:MAX_NAME]
