"""Small text files that people name on the command line or in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from securetrain.errors import InvalidInput

MAX_BYTES: Final = 1 << 20


def read_text(field: str, path: Path) -> str:
    """Content of a file of at most 1 MiB of UTF-8; raises InvalidInput naming the option."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(
            field, str(path), "cannot be read", fix="name a text file that you may read"
        ) from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            field, str(path), f"is larger than {MAX_BYTES} bytes", fix="name another file"
        )
    return text
