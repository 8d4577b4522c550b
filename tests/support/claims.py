"""A claim that is a folder here, and the real receiver on it at the other end of two pipes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from securetrain.errors import SecuretrainError
from securetrain.storage.claim import ClaimDepot
from securetrain.storage.receive import Receiver


class Pipes:
    """The sender's ends."""

    def __init__(self, sink: BinaryIO, source: BinaryIO) -> None:
        self._sink, self._source = sink, source

    def write(self, data: bytes) -> None:
        self._sink.write(data)
        self._sink.flush()

    def read(self, size: int) -> bytes:
        return self._source.read(size)


@contextmanager
def claim(mount: Path, folder: str = "team/noise") -> Iterator[ClaimDepot]:
    """A depot on `folder` of a claim."""
    there, here = os.pipe(), os.pipe()
    with (
        os.fdopen(there[0], "rb") as source,
        os.fdopen(here[1], "wb") as sink,
        os.fdopen(here[0], "rb") as answers,
        os.fdopen(there[1], "wb") as requests,
    ):
        thread = threading.Thread(target=_serve, args=(mount, folder, source, sink))
        thread.start()
        try:
            yield ClaimDepot(Pipes(requests, answers), f"pvc://claim/{folder}")
        finally:
            requests.close()
            thread.join(timeout=10)


def _serve(mount: Path, folder: str, source: BinaryIO, sink: BinaryIO) -> None:
    try:
        Receiver(mount, folder).serve(source, sink)
    except (SecuretrainError, EOFError):
        sink.close()
