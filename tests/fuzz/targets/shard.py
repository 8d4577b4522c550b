"""A sealed shard: the stream, the records' frames in it, and what writing it gives.

Segments are small here: of the real mebibyte a short input would never fill one.
"""

from __future__ import annotations

import struct
from io import BytesIO
from unittest.mock import patch

from fuzz.target import Target
from securetrain.errors import ShardCorrupt
from securetrain.sealed import streaming
from securetrain.secret import Secret
from securetrain_trainer.frames import FrameCounter

SEGMENT = 128
DEK = Secret(b"k" * 32)
PLACE = b"securetrain/shard/v1|0|train|0|1"


def parse(data: bytes) -> bytes:
    """What is in it; the streaming reader must say the same."""
    with patch.object(streaming, "SEGMENT", SEGMENT):
        try:
            plain = streaming.decrypt_bytes(data, DEK, PLACE)
        except ShardCorrupt:
            assert not verifies(data)
            written_opens(data)
            frames_fit(data)
            raise
        assert verifies(data)
    return plain


def verifies(data: bytes) -> bool:
    try:
        streaming.verify_stream(BytesIO(data), len(data), DEK, PLACE)
    except ShardCorrupt:
        return False
    return True


def written_opens(plain: bytes) -> None:
    """What is sealed can be opened, in its place only, and not with one bit changed."""
    sealed = streaming.encrypt_bytes(plain, DEK, PLACE)
    assert streaming.plain_size(len(sealed)) == len(plain)
    assert streaming.decrypt_bytes(sealed, DEK, PLACE) == plain
    at = sum(plain) % (8 * len(sealed))
    changed = bytearray(sealed)
    changed[at // 8] ^= 1 << at % 8
    assert not verifies(bytes(changed))
    assert not verifies(sealed[: at // 8])


def frames_fit(plain: bytes) -> None:
    """Records are counted only where their frames fill all of it."""
    counter = FrameCounter()
    try:
        counter.feed(memoryview(plain))
        count = counter.total()
    except ShardCorrupt:
        return
    at = 0
    for _ in range(count):
        at += struct.unpack_from("<Q", plain, at)[0] + 16
    assert at == len(plain)


TARGET = Target(parse, (ShardCorrupt,))
