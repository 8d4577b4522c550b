"""How software writes bytes down: every form in which a secret could lie somewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import numpy as np

SHORTEST = 8
"""A shorter piece of a secret would be found by chance."""


def spellings(secret: bytes) -> frozenset[bytes]:
    """Raw, hex, base64 at each alignment, escaped, as numbers, as the pixels of an image."""
    return frozenset(_spellings(secret))


def _spellings(secret: bytes) -> Iterator[bytes]:
    text = secret.decode("latin-1")
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield from _base64(secret)
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode()
    yield repr(secret)[2:-1].encode()
    yield quote_from_bytes(secret).encode()
    for separator in (",", ", ", " "):
        yield separator.join(map(str, secret)).encode()
    pixels = np.frombuffer(secret, np.uint8).astype("<f4")
    yield pixels.tobytes()
    yield (pixels / np.float32(255)).tobytes()


def _base64(secret: bytes) -> Iterator[bytes]:
    """What is the same whatever stands before and after the secret."""
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        before = (shift * 8 + 5) // 6
        inside = encoded[before : (shift + len(secret)) * 8 // 6]
        yield inside
        yield inside.translate(bytes.maketrans(b"+/", b"-_"))


def searchable(form: bytes) -> bytes:
    """The longest piece of a form that a search by lines can find.

    Raises:
        ValueError: so little is left that chance would find it.
    """
    piece = max(form.split(b"\n"), key=len)
    if len(piece) < SHORTEST:
        raise ValueError("the secret has too many line breaks to be searched for")
    return piece
