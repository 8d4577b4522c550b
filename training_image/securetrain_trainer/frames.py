"""Number of TFRecord frames in bytes that come piece by piece.

A frame is length (8 bytes little-endian), its CRC (4 bytes), data, its CRC (4 bytes). The CRCs are
not read: every byte has been authenticated.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from securetrain.errors import ShardCorrupt

_LENGTH: Final = struct.Struct("<Q")
_REST: Final = 8
"""Bytes of a frame besides its length and its data."""


class FrameCounter:
    """Walks from length to length; pieces may end anywhere."""

    def __init__(self) -> None:
        self._count = 0
        self._skip = 0  # bytes of the last frame that are still to come
        self._length = b""  # what has come of the next frame's length

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes."""
        at, end = self._skip, len(piece)
        if self._length:
            at = _LENGTH.size - len(self._length)
            self._length += piece[:at]
            if len(self._length) < _LENGTH.size:
                return
            at += _LENGTH.unpack(self._length)[0] + _REST
            self._count += 1
        if at + _LENGTH.size <= end:
            at += self._alike(piece[at:])
        while at + _LENGTH.size <= end:
            at += _LENGTH.unpack_from(piece, at)[0] + _LENGTH.size + _REST
            self._count += 1
        self._length = bytes(piece[at:])
        self._skip = max(0, at - end)

    def _alike(self, piece: memoryview) -> int:
        """Take all frames that begin in `piece` if they are of one length; returns their bytes."""
        length: int = _LENGTH.unpack_from(piece)[0]
        size = length + _LENGTH.size + _REST
        count = 1 + (len(piece) - _LENGTH.size) // size
        lengths = np.ndarray((count,), "<u8", piece, 0, (size if count > 1 else 0,))
        if not (lengths == length).all():
            return 0
        self._count += count
        return count * size

    def total(self) -> int:
        """Number of frames; raises ShardCorrupt if the last is not whole."""
        if self._skip or self._length:
            raise ShardCorrupt("its last record is cut")
        return self._count
