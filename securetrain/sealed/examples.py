"""Records as tf.train.Example in TFRecord frames, written and read without TensorFlow.

The data owner needs no TensorFlow to seal data, and TensorFlow needs nothing of ours to read it.
The wire format is protocol buffers': Example{features=1}, Features{feature=1: map of name to
Feature}, Feature{bytes_list=1 | float_list=2 | int64_list=3}. A TFRecord frame is length (8 bytes
little-endian), masked CRC32C of it, data, masked CRC32C of the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

FRAME_BYTES: Final = 16
HEADER_BYTES: Final = 12
MAX_RECORD_BYTES: Final = 1 << 26
"""Longest record that is written or read."""

_MASK_DELTA: Final = 0xA282EAD8
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_TWO_64: Final = 1 << 64
_FLOAT: Final = struct.Struct("<f")
_ONE_FLOAT: Final = bytes([_FLOAT_LIST << 3 | _DELIMITED, 6, 1 << 3 | _DELIMITED, 4])
"""What stands before the only value of a float_list."""
_SMALL: Final = tuple(bytes([value]) for value in range(128))

Value = bytes | int | float | NDArray[np.float32]
"""What a feature holds: one bytes, one int64, one float32 or several."""
Values = list[bytes] | list[int] | NDArray[np.float32]
"""What a feature of any record may hold: a bytes_list, an int64_list or a float_list."""


def encode_example(features: Mapping[str, Value]) -> bytes:
    """A tf.train.Example: each feature becomes a list of the kind that its value is of."""
    return join_entries([encode_entry(name, features[name]) for name in sorted(features)])


def encode_entry(name: str, value: Value) -> bytes:
    """One feature as it stands in a tf.train.Example."""
    return _field(1, _field(1, name.encode()) + _field(2, _feature(value)))


def join_entries(entries: Sequence[bytes]) -> bytes:
    """A tf.train.Example of some entries, which come in the order of their names."""
    return _field(1, b"".join(entries))


def frame(record: bytes) -> bytes:
    """A record in its TFRecord frame, 16 bytes longer."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def read_frames(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Records of a TFRecord file, each with the place of its first byte.

    Raises:
        ValueError: a frame is cut, too long, or a checksum does not fit.
    """
    at = 0
    while header := stream.read(HEADER_BYTES):
        length = frame_length(header)
        data = stream.read(length + 4)
        if len(data) != length + 4:
            raise ValueError("the last record is cut")
        record = data[:-4]
        if data[-4:] != _masked_crc(record):
            raise ValueError("a record's checksum does not fit")
        yield at + HEADER_BYTES, record
        at += length + FRAME_BYTES


def frame_length(header: bytes) -> int:
    """Length of the record that a frame's first 12 bytes announce; raises ValueError."""
    if len(header) != HEADER_BYTES or header[8:] != _masked_crc(header[:8]):
        raise ValueError("there is no TFRecord frame")
    (length,) = struct.unpack("<Q", header[:8])
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"a record has {length} bytes, more than {MAX_RECORD_BYTES}")
    return int(length)


def parse_example(data: bytes) -> dict[str, Values]:
    """Features of a serialized tf.train.Example, without those that hold nothing.

    As protocol buffers demand it, unknown fields are skipped and the last of two equal names holds.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Values] = {}
    for number, features in _fields(memoryview(data)):
        if number != 1 or not isinstance(features, memoryview):
            continue
        for inner, entry in _fields(features):
            if inner == 1 and isinstance(entry, memoryview):
                name, values = _entry(entry)
                found[name] = values
    return {name: values for name, values in found.items() if len(values)}


def _entry(entry: memoryview) -> tuple[str, Values]:
    name, values = "", list[bytes]()
    parsed: Values = values
    for number, part in _fields(entry):
        if number == 1 and isinstance(part, memoryview):
            name = str(part, "utf-8")
        elif number == 2 and isinstance(part, memoryview):
            for kind, of in _fields(part):
                if isinstance(of, memoryview) and kind in _LISTS:
                    parsed = _LISTS[kind](of)
    return name, parsed


def _bytes_list(data: memoryview) -> Values:
    return [bytes(part) for n, part in _fields(data) if n == 1 and isinstance(part, memoryview)]


def _float_list(data: memoryview) -> Values:
    parts = [part for n, part in _fields(data) if n == 1 and isinstance(part, memoryview)]
    return np.frombuffer(b"".join(parts), dtype="<f4")


def _int64_list(data: memoryview) -> Values:
    values: list[int] = []
    for number, part in _fields(data):
        if number != 1:
            continue
        if isinstance(part, int):
            values.append(part)
        else:
            at = 0
            while at < len(part):
                value, at = _read_varint(part, at)
                values.append(value)
    return [value - _TWO_64 if value >> 63 else value for value in values]


_LISTS: Final[dict[int, Any]] = {
    _BYTES_LIST: _bytes_list,
    _FLOAT_LIST: _float_list,
    _INT64_LIST: _int64_list,
}


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field: bytes for all but varints; raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _DELIMITED:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no tf.train.Example")
        if at + size > len(data):
            raise ValueError("it is a cut tf.train.Example")
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it is no tf.train.Example")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % _TWO_64, at
        shift += 7


def _feature(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES_LIST, _field(1, value))
    if isinstance(value, int):
        return _field(_INT64_LIST, _field(1, _varint(value % _TWO_64)))
    if isinstance(value, float):
        return _ONE_FLOAT + _FLOAT.pack(value)
    return _field(_FLOAT_LIST, _field(1, np.asarray(value, dtype="<f4").tobytes()))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | _DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    if value < len(_SMALL):
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF)
