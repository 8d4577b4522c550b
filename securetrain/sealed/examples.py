"""Records as tf.train.Example in TFRecord frames, written without TensorFlow.

The data owner needs no TensorFlow to seal data, and TensorFlow needs nothing of ours to read it.
The wire format is protocol buffers': Example{features=1}, Features{feature=1: map of name to
Feature}, Feature{bytes_list=1 | int64_list=3}. A TFRecord frame is length (8 bytes little-endian),
masked CRC32C of it, data, masked CRC32C of the data.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import google_crc32c

FRAME_BYTES: Final = 16
_MASK_DELTA: Final = 0xA282EAD8
_DELIMITED: Final = 2
_BYTES_LIST: Final = 1
_INT64_LIST: Final = 3


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """A tf.train.Example: bytes become a bytes_list, an int an int64_list, of one entry each."""
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(features[name])))
        for name in sorted(features)
    )
    return _field(1, entries)


def frame(record: bytes) -> bytes:
    """A record in its TFRecord frame, 16 bytes longer."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def _feature(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES_LIST, _field(1, value))
    return _field(_INT64_LIST, _field(1, _varint(value & 0xFFFF_FFFF_FFFF_FFFF)))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | _DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF)
