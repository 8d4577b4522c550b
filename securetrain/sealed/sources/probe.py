"""Size and channels of PNG and JPEG files, and whether they are whole, from their structure alone.

No pixel is decoded here, so that a hostile picture meets no decoder on the owner's machine; the
trainer's decoder meets only what has been authenticated.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

HEAD: Final = 64 << 10
"""Bytes that nearly always hold all that `probe` needs."""
MAX_PIXELS: Final = 1 << 25
"""A larger image would take a trainer's memory when it is decoded, even if it is then scaled."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SOF: Final = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_SOF: Final = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file's header says: height and width in pixels, channels as stored."""

    height: int
    width: int
    channels: int


def is_image(data: bytes) -> bool:
    """True if the first bytes are those of a PNG or JPEG file."""
    return data.startswith((_PNG, _JPEG))


def probe(data: bytes) -> Picture:
    """Size and channels of an image from its first bytes.

    Raises:
        ValueError: it is neither PNG nor JPEG, of a kind that is not decoded, too large, or more
            bytes are needed.
    """
    if data.startswith(_PNG):
        picture = _png(data)
    elif data.startswith(_JPEG):
        picture = _jpeg(memoryview(data))
    else:
        raise ValueError("is neither PNG nor JPEG")
    if min(picture.height, picture.width) < 1:
        raise ValueError("has no pixels")
    if picture.height * picture.width > MAX_PIXELS:
        raise ValueError(f"has {picture.height}×{picture.width} pixels, which is too large")
    return picture


def check_whole(data: bytes) -> None:
    """Raise ValueError unless an image that `probe` knows has all its parts."""
    if data.startswith(_PNG):
        _check_chunks(data)
    elif data.rfind(b"\xff\xd9") < len(data) // 2:
        raise ValueError("is cut: its end marker is missing")


def _png(data: bytes) -> Picture:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("is a PNG without a header")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if depth not in _PNG_DEPTHS.get(colour, ()):
        raise ValueError("is a PNG with an unknown colour type")
    return Picture(height, width, _PNG_CHANNELS[colour])


def _check_chunks(data: bytes) -> None:
    at, kind, pixels = len(_PNG), b"", False
    view = memoryview(data)
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("is cut: its last part is missing")
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            raise ValueError("is cut: its last part is missing")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("is damaged: a checksum does not fit")
        kind, at = data[at + 4 : at + 8], end + 4
        pixels = pixels or kind == b"IDAT"
    if not pixels:
        raise ValueError("is a PNG without pixels")


def _jpeg(data: memoryview) -> Picture:
    at = 2
    while True:
        while at + 1 < len(data) and data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1  # padding
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ValueError("is a JPEG without a frame header")
        marker = data[at + 1]
        if marker in _ALONE:
            at += 2
            continue
        if marker in _OTHER_SOF:
            raise ValueError("is a JPEG of a kind that is not decoded")
        if marker in _SOF:
            return _frame(data[at + 4 : at + 10])
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _frame(header: memoryview) -> Picture:
    if len(header) < 6:
        raise ValueError("is a JPEG without a frame header")
    depth, height, width, components = struct.unpack(">BHHB", header)
    if depth != 8 or components not in (1, 3):
        raise ValueError("is a JPEG of a kind that is not decoded: give 8 bits, grey or colour")
    return Picture(height, width, components)
