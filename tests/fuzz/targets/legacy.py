"""A file of the plain AES-CBC recipe, and any content inside one."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from fuzz.target import Target, file_of, sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed import legacy as recipe
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.opening import SourceKind, open_source
from securetrain.secret import Secret
from support.real_sources import KEY, legacy

IV = bytes(16)


def parse(data: bytes) -> None:
    """Open it as CSV, whose parser needs no checksum."""
    with file_of(data, "old.enc") as path:
        key = path.with_name("key")
        key.write_bytes(KEY)
        try:
            source, _ = open_source(path, Wishes(label="kind"), kind=SourceKind.CSV, legacy_key=key)
            sound_source(source)
        finally:
            close_memory()


def close_memory() -> None:
    """Contents are kept in memory for as long as a process lives; this one goes on."""
    for name in os.listdir("/proc/self/fd"):
        place = f"/proc/self/fd/{name}"
        if os.path.lexists(place) and os.readlink(place).startswith("/memfd:legacy"):
            os.close(int(name))


def views(data: bytes) -> Sequence[bytes]:
    """The file; the bytes under base64; and a file that holds them, whose content must come out."""
    sealed = legacy(data, iv=IV)
    assert recipe.decrypt(sealed, Secret(KEY)) == data
    return data, base64.b64encode(data), sealed


TARGET = Target(parse, (InvalidInput,), views=views)
