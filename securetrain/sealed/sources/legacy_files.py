"""Legacy files as a source: each is decrypted in memory when its turn comes.

A folder of class folders holds images, one a file. A single file holds a whole data file of another
kind; it is decrypted into anonymous memory, which no disk ever sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from securetrain.errors import InvalidInput
from securetrain.sealed import legacy
from securetrain.sealed.examples import MAX_RECORD_BYTES
from securetrain.secret import Secret

MAX_IMAGE_FILE: Final = 2 * MAX_RECORD_BYTES
MAX_WHOLE_FILE: Final = 64 << 20
"""Longest legacy file that holds a whole data file: it is decrypted as one."""


class LegacyReader:
    """Reads legacy files with the one of some keys that opens the first of them.

    Args:
        keys: what the owner's key file may mean.
        sample: a legacy file.
        known: tells whether some content is of a kind that can be sealed.

    Raises:
        InvalidInput: no key opens it.
    """

    def __init__(
        self, keys: Sequence[Secret], sample: Path, known: Callable[[bytes], bool]
    ) -> None:
        self._known = known
        self._key = self._find(keys, sample)

    def read(self, path: Path) -> bytes:
        """A file's content; raises InvalidInput."""
        try:
            return self._content(_bytes_of(path, MAX_IMAGE_FILE), self._key)
        except ValueError as problem:
            raise _bad(path, str(problem)) from None

    def into_memory(self, path: Path) -> Path:
        """A name under which the content can be opened as long as this process lives.

        Raises:
            InvalidInput: as `read`, or it is too long.
        """
        content = self._content(_bytes_of(path, MAX_WHOLE_FILE), self._key)
        descriptor = os.memfd_create("legacy", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(content)
        return Path(f"/proc/self/fd/{descriptor}")

    def _find(self, keys: Sequence[Secret], sample: Path) -> Secret:
        data = _bytes_of(sample, max(MAX_IMAGE_FILE, MAX_WHOLE_FILE))
        problem = "does not open with this key"
        for key in keys:
            try:
                if self._known(self._content(data, key)):
                    return key
                problem = "holds nothing that can be sealed, or does not open with this key"
            except ValueError as error:
                problem = str(error)
        raise _bad(sample, problem)

    def _content(self, data: bytes, key: Secret) -> bytes:
        content = legacy.decrypt(data, key)
        return content if self._known(content) else legacy.inner(content)


def _bytes_of(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError:
        raise InvalidInput("SRC", str(path), "cannot be read", fix="check its rights") from None
    if len(data) > limit:
        raise InvalidInput(
            "SRC", str(path), f"is longer than {limit} bytes", fix="split it and seal a folder"
        )
    return data


def _bad(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(
        "SRC", str(path), problem, fix="check --legacy-key-file, or take the file away"
    )
