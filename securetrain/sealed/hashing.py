"""A stream whose digest is taken of the very bytes that its reader gets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

OnBytes = Callable[[int], None]
"""Told the number of bytes that were done since it was told last."""


class HashingReader:
    """Computes the SHA-256 of what is read through it.

    Args:
        stream: what is read.
        on_bytes: called with the number of bytes of each read.
    """

    def __init__(self, stream: BinaryIO, on_bytes: OnBytes = lambda _: None) -> None:
        self.done = 0
        """Bytes read so far."""
        self._stream = stream
        self._on_bytes = on_bytes
        self._sha256 = hashlib.sha256()

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as much as `buffer` holds; 0 at the end."""
        count: int = self._stream.readinto(buffer) or 0  # type: ignore[attr-defined]
        self._took(buffer[:count])
        return count

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        data = self._stream.read(size)
        self._took(data)
        return data

    def hexdigest(self) -> str:
        """Digest of all bytes read so far."""
        return self._sha256.hexdigest()

    def _took(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self.done += len(data)
        self._on_bytes(len(data))
