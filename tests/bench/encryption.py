"""Our streaming encryption against Tink's, and against AES-GCM without a format around it.

All sides work on the same plaintext in memory, on one thread, with buffers that exist before the
clock starts. Tink reads and writes streams, and so do we against it; bare AES-GCM takes what is in
memory, and so do we against it, and once more from a stream. Every contest first shows that its
sides do the same work.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tink import streaming_aead

from bench.compare import Contest, Work
from securetrain.sealed.streaming import KEY, SEGMENT, TAG, decrypt_into, encrypt_stream
from securetrain.secret import Secret
from support.tink import tink_aead

PLACE = b"securetrain/shard/v1|bench|train|0|1"
MIB = 1 << 20
AGAINST_TINK = "streaming AEAD / tink-py"


class Sink(io.RawIOBase):
    """Takes written bytes into memory that is there already."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.memory = memoryview(bytearray(size))
        self.used = 0

    def rewound(self) -> Sink:
        """The same sink, empty."""
        self.used = 0
        return self

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        self.memory[self.used : self.used + len(data)] = data
        self.used += len(data)
        return len(data)

    def close(self) -> None:
        """Nothing: Tink closes what it writes to, and this one is used again."""


def contests(size: int) -> Iterator[Contest]:
    """The contests on `size` bytes."""
    dek, data = Secret(os.urandom(KEY)), os.urandom(size)
    tinks = tink_aead(dek)
    sink = Sink(size + MIB)
    encrypt_stream(io.BytesIO(data), sink, dek, PLACE)
    sealed = bytes(sink.memory[: sink.used])
    out = memoryview(bytearray(size))

    def from_stream() -> memoryview:
        decrypt_into(io.BytesIO(sealed), len(sealed), dek, PLACE, out)
        return out

    def from_memory() -> memoryview:
        decrypt_into(sealed, len(sealed), dek, PLACE, out)
        return out

    yield _encrypt(data, dek, tinks, sink)
    yield _decrypt(data, sealed, tinks, from_stream)
    bare = _bare(data, from_memory)
    yield bare
    yield replace(
        bare,
        name="decrypt-bare-stream",
        ours=from_stream,
        described="streaming AEAD that reads a stream / bare AES-GCM in memory",
        target=None,
    )


def _encrypt(data: bytes, dek: Secret, tinks: streaming_aead.StreamingAead, sink: Sink) -> Contest:
    def ours() -> None:
        encrypt_stream(io.BytesIO(data), sink.rewound(), dek, PLACE)

    def theirs() -> None:
        source = io.BytesIO(data)
        with tinks.new_encrypting_stream(sink.rewound(), PLACE) as stream:
            while chunk := source.read(MIB):
                stream.write(chunk)

    for side in (ours, theirs):
        side()
        with tinks.new_decrypting_stream(io.BytesIO(sink.memory[: sink.used]), PLACE) as opened:
            _same(opened.read(), data)
    return Contest("encrypt", ours, theirs, AGAINST_TINK, len(data) / MIB, "MiB", 1.3)


def _decrypt(
    data: bytes, sealed: bytes, tinks: streaming_aead.StreamingAead, ours: Work
) -> Contest:
    out = memoryview(bytearray(len(data)))

    def theirs() -> memoryview:
        with tinks.new_decrypting_stream(io.BytesIO(sealed), PLACE) as stream:
            at = 0
            while count := stream.readinto(out[at : at + MIB]):
                at += count
        return out

    _same(ours(), data)
    _same(theirs(), data)
    return Contest("decrypt", ours, theirs, AGAINST_TINK, len(data) / MIB, "MiB", 2.0)


def _bare(data: bytes, ours: Work) -> Contest:
    """AES-GCM on pieces of a segment's size: no format, no key derivation."""
    aead = AESGCM(os.urandom(KEY))
    pieces = [
        (number.to_bytes(12, "big"), data[at : at + SEGMENT - TAG])
        for number, at in enumerate(range(0, len(data), SEGMENT - TAG))
    ]
    sealed = [(nonce, aead.encrypt(nonce, piece, None)) for nonce, piece in pieces]
    out = memoryview(bytearray(len(data)))

    def theirs() -> memoryview:
        at = 0
        for nonce, piece in sealed:
            at += aead.decrypt_into(nonce, piece, None, out[at : at + len(piece) - TAG])
        return out

    _same(ours(), data)
    _same(theirs(), data)
    described = "streaming AEAD in memory / bare AES-GCM"
    return Contest("decrypt-bare", ours, theirs, described, len(data) / MIB, "MiB", 0.85)


def _same(found: object, data: bytes) -> None:
    if found != data:
        raise AssertionError("the two sides of a contest do not do the same work")
