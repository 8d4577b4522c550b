"""Files of the plain AES-CBC recipe that many projects began with, to get data out of them.

    base64( IV[16] + AES-CBC( PKCS#7( content ) ) )

Some encode the content in base64 a second time. It is read here and never written: nothing
authenticates such a file. Whoever can write to its storage can change the first block of a file at
will, cut files, swap them or take them from elsewhere, and nobody notices; and whoever is told
whether a file's padding is right can decrypt it without the key.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from securetrain.errors import InvalidInput
from securetrain.secret import Secret

BLOCK: Final = 16
KEY_SIZES: Final = (16, 24, 32)
MAX_KEY_FILE: Final = 1024
WARNING: Final = (
    "the old files are encrypted without authentication (AES-CBC): whoever could write to them "
    "could change them, and nobody would have noticed. What is sealed now is what they hold today."
)
_SPACE: Final = re.compile(rb"[ \t\r\n]+")


def read_keys(path: Path) -> tuple[Secret, ...]:
    """All keys that a key file may mean: its bytes as they are, hex, or base64.

    Raises:
        InvalidInput: it cannot be read, or is no AES key in any of these forms.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_KEY_FILE + 1)
    except OSError:
        # What names no file may be the key itself, given by mistake.
        shown = str(path) if path.exists() else "a name that is not shown"
        raise InvalidInput(
            "--legacy-key-file",
            shown,
            "cannot be read",
            fix="name a file that holds the key, and check its rights",
        ) from None
    text = data.strip()
    forms = [data, text, _hex(text), _base64(text)]
    keys = dict.fromkeys(form for form in forms if len(form) in KEY_SIZES)
    if not keys:
        raise InvalidInput(
            "--legacy-key-file",
            str(path),
            "holds no AES key",
            fix="give 16, 24 or 32 bytes, as they are, in hex or in base64",
        )
    return tuple(Secret(key) for key in keys)


def decrypt(data: bytes, key: Secret) -> bytes:
    """The content of a legacy file.

    Raises:
        ValueError: it is no such file, or not of this key, or was damaged where it shows.
    """
    sealed = _strict_base64(data)
    if len(sealed) < 2 * BLOCK or len(sealed) % BLOCK:
        raise ValueError("is not IV and blocks of AES-CBC")
    cipher = Cipher(algorithms.AES(key.reveal()), modes.CBC(sealed[:BLOCK]))
    decryptor = cipher.decryptor()
    padded = decryptor.update(sealed[BLOCK:]) + decryptor.finalize()
    unpadder = PKCS7(8 * BLOCK).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise ValueError("does not open with this key") from None


def inner(content: bytes) -> bytes:
    """Content without the second base64 that some recipes wrap it in."""
    try:
        return _strict_base64(content) or content
    except ValueError:
        return content


def _strict_base64(data: bytes) -> bytes:
    try:
        return base64.b64decode(_SPACE.sub(b"", data), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None


def _hex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


def _base64(text: bytes) -> bytes:
    try:
        return _strict_base64(text)
    except ValueError:
        return b""
