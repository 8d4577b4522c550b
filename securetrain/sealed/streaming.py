"""Authenticated encryption of files as a stream: Tink's AES256_GCM_HKDF_1MB.

Any language's Tink reads what is written here, and the other way round. The format:

    header     byte 40, salt[32], nonce prefix[7]
    key        HKDF-SHA256(ikm = DEK, salt = salt, info = associated data), 32 bytes
    segment i  AES-256-GCM with nonce = prefix, i as 4 bytes big-endian, 1 if last else 0
    sizes      header and segment 0 fill one MiB, so do all later segments but the last

A file that was cut, extended, reordered, changed or moved elsewhere does not open. Buffers are
reused, so a stream of any length costs three MiB of memory; what is in memory already is decrypted
from where it lies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from securetrain.errors import ShardCorrupt, WrongKey
from securetrain.secret import Secret

SEGMENT: Final = 1 << 20
TAG: Final = 16
SALT: Final = 32
PREFIX: Final = 7
HEADER: Final = 1 + SALT + PREFIX
KEY: Final = 32
MAX_SEGMENTS: Final = 1 << 32

_ZEROS: Final = memoryview(bytes(SEGMENT))
_CHANGED: Final = "A sealed file was changed, cut or moved, or is sealed under another key."


class Reader(Protocol):
    """Gives bytes: a binary file, or what wraps one."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of `buffer`; returns how many bytes, 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Buffers:
    """Memory for one segment and its plaintext, for one thread to use again and again."""

    sealed: memoryview = field(default_factory=lambda: memoryview(bytearray(SEGMENT)))
    plain: memoryview = field(default_factory=lambda: memoryview(bytearray(SEGMENT)))


class Writer(Protocol):
    """Takes bytes: a binary file, or what wraps one."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take some of `data`; returns how many bytes."""
        ...


def plain_size(sealed: int) -> int:
    """Size in bytes of what a sealed file of `sealed` bytes holds; raises ShardCorrupt."""
    segments = -(-sealed // SEGMENT)
    empty_last = segments > 1 and 0 < sealed % SEGMENT <= TAG
    if sealed < HEADER + TAG or segments > MAX_SEGMENTS or empty_last:
        raise ShardCorrupt(f"A sealed file cannot have {sealed} bytes.")
    return sealed - HEADER - segments * TAG


def encrypt_stream(src: BinaryIO, dst: Writer, dek: Secret, associated_data: bytes) -> int:
    """Encrypt all of `src` to `dst`.

    Args:
        src: plaintext, read to its end.
        dst: takes the sealed bytes.
        dek: data key, 32 bytes.
        associated_data: binds the file to its place; needed again to open it.

    Returns:
        Number of bytes written.
    """
    salt, prefix = os.urandom(SALT), os.urandom(PREFIX)
    aead = _derive(dek, salt, associated_data)
    written = _write(dst, bytes([HEADER]) + salt + prefix)
    current, following, sealed = (memoryview(bytearray(SEGMENT)) for _ in range(3))
    length = _fill(src, current[: SEGMENT - TAG - HEADER])
    index, last = 0, False
    while not last:
        # One segment of look-ahead tells whether this one is the last.
        ahead = _fill(src, following[: SEGMENT - TAG])
        last = ahead == 0
        size = length + TAG
        aead.encrypt_into(_nonce(prefix, index, last), current[:length], None, sealed[:size])
        written += _write(dst, sealed[:size])
        current, following, length, index = following, current, ahead, index + 1
    return written


def decrypt_into(
    src: BinaryIO | Reader | bytes,
    sealed: int,
    dek: Secret,
    associated_data: bytes,
    out: bytearray | memoryview | mmap,
) -> int:
    """Decrypt a sealed file of exactly `sealed` bytes into `out`.

    Args:
        src: the sealed file at its start, or all of it as bytes; must end after `sealed` bytes.
        sealed: size of the sealed file in bytes.
        dek: data key, 32 bytes.
        associated_data: what the file was sealed with.
        out: writable bytes, at least `plain_size(sealed)` of them.

    Returns:
        Number of plaintext bytes.

    Raises:
        ShardCorrupt: the file is not the whole of what was sealed with this key for this place;
            nothing of it is left in `out`.
        ValueError: `out` is too small.
    """
    plain = plain_size(sealed)
    with memoryview(out) as view, view.cast("B") as target:
        if len(target) < plain:
            raise ValueError(f"the buffer has {len(target)} bytes, {plain} are needed")
        pieces = _pieces(src, min(SEGMENT, sealed))
        segments = _segments(
            pieces, sealed, dek, associated_data, lambda at, size: target[at : at + size]
        )
        try:
            for _segment in segments:
                pass
        except ShardCorrupt:
            target[:plain] = bytes(plain)
            raise
    return plain


def decrypt_stream(
    src: BinaryIO | Reader,
    sealed: int,
    dek: Secret,
    associated_data: bytes,
    dst: Writer,
    buffers: Buffers | None = None,
) -> int:
    """Decrypt a sealed file of exactly `sealed` bytes to `dst`, a segment at a time.

    Args:
        src: the sealed file at its start; must end after `sealed` bytes.
        sealed: size of the sealed file in bytes.
        dek: data key, 32 bytes.
        associated_data: what the file was sealed with.
        dst: takes the plaintext; not to be used unless this returns.
        buffers: memory to use, of which no plaintext is left; new memory if absent.

    Returns:
        Number of plaintext bytes.

    Raises:
        ShardCorrupt: as `decrypt_into`, but `dst` has been given the segments before the bad one.
    """
    plain = plain_size(sealed)
    used = buffers or Buffers()
    pieces = _Stream(src, used.sealed)
    try:
        for segment in _segments(
            pieces, sealed, dek, associated_data, lambda _, size: used.plain[:size]
        ):
            _write(dst, segment)
    finally:
        used.plain[:] = _ZEROS[: len(used.plain)]
    return plain


def verify_stream(src: Reader, sealed: int, dek: Secret, associated_data: bytes) -> None:
    """Check every tag of a sealed file of exactly `sealed` bytes; keeps no plaintext.

    Raises ShardCorrupt as `decrypt_into`.
    """
    decrypt_stream(src, sealed, dek, associated_data, _Nowhere())


def encrypt_bytes(data: bytes, dek: Secret, associated_data: bytes) -> bytes:
    """Sealed form of `data`; see `encrypt_stream`."""
    sealed = BytesIO()
    encrypt_stream(BytesIO(data), sealed, dek, associated_data)
    return sealed.getvalue()


def decrypt_bytes(data: bytes, dek: Secret, associated_data: bytes) -> bytes:
    """Plaintext of sealed `data`; raises ShardCorrupt, see `decrypt_into`."""
    out = bytearray(plain_size(len(data)))
    decrypt_into(data, len(data), dek, associated_data, out)
    return bytes(out)


def _segments(
    pieces: _Stream | _Memory,
    sealed: int,
    dek: Secret,
    associated_data: bytes,
    place: Callable[[int, int], memoryview],
) -> Iterator[memoryview]:
    """Each segment's plaintext, decrypted to where `place` says that so many bytes at an offset go.

    Raises ShardCorrupt at a segment that is not what was sealed, or after the last if more follows.
    """
    header = bytes(pieces.take(HEADER))
    if len(header) != HEADER or header[0] != HEADER:
        raise ShardCorrupt(_CHANGED)
    salt, prefix = header[1 : 1 + SALT], header[1 + SALT :]
    aead = _derive(dek, salt, associated_data)
    left, index, at = sealed - HEADER, 0, 0
    while left:
        size = min(left, SEGMENT - (0 if index else HEADER))
        piece = pieces.take(size)
        if len(piece) != size:
            raise ShardCorrupt(_CHANGED)
        left -= size
        opened = place(at, size - TAG)
        try:
            aead.decrypt_into(_nonce(prefix, index, left == 0), piece, None, opened)
        except InvalidTag:
            raise ShardCorrupt(_CHANGED) from None
        yield opened
        at, index = at + len(opened), index + 1
    if pieces.take(1):
        raise ShardCorrupt(_CHANGED)


class _Stream:
    """Pieces of a stream; each lies in the same memory as the one before."""

    def __init__(self, src: BinaryIO | Reader, buffer: memoryview) -> None:
        self._src = src
        self._buffer = buffer

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; fewer at the end."""
        return self._buffer[: _fill(self._src, self._buffer[:size])]


class _Memory:
    """Pieces of bytes, which are not copied."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; fewer at the end."""
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _pieces(src: BinaryIO | Reader | bytes, largest: int) -> _Stream | _Memory:
    if isinstance(src, bytes):
        return _Memory(src)
    return _Stream(src, memoryview(bytearray(largest)))


class _Nowhere:
    """Takes bytes and forgets them."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of `data`."""
        return len(data)


def _derive(dek: Secret, salt: bytes, associated_data: bytes) -> AESGCM:
    if len(dek) != KEY:
        raise WrongKey(f"A data key has {KEY} bytes, not {len(dek)}.")
    derive = HKDF(hashes.SHA256(), length=KEY, salt=salt, info=associated_data)
    return AESGCM(derive.derive(dek.reveal()))


def _nonce(prefix: bytes, index: int, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + bytes([last])


def _write(dst: Writer, data: bytes | memoryview) -> int:
    """Write all of `data`: an unbuffered file may take less at once."""
    done = 0
    while done < len(data):
        done += dst.write(data[done:])
    return done


def _fill(src: BinaryIO | Reader, view: memoryview) -> int:
    """Read until `view` is full or `src` ends; returns the number of bytes read."""
    done = 0
    while done < len(view):
        chunk = src.readinto(view[done:])  # type: ignore[union-attr]  # files have it
        if not chunk:
            break
        done += chunk
    return done
