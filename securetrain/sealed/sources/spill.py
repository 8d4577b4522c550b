"""Records that wait for their shard, sealed, in a file without a name.

Shards hold records in the order of a hash. A source that can only be read from its beginning to its
end gives them in another one, so they are put down here in between: encrypted with a key that lives
as long as this object, in a file that vanishes with it, however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securetrain.sealed.features import Feature, Task
from securetrain.sealed.sources.base import Record, Source

BUFFER: Final = 1 << 20
NONCE: Final = 12


class Spill:
    """A seekable source made of one that is not; a context manager.

    Args:
        source: the source.
        folder: on a disk with room for all records.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._aead = AESGCM(AESGCM.generate_key(256))
        self._file = tempfile.TemporaryFile(dir=folder, buffering=BUFFER)  # noqa: SIM115
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(OSError):  # of a full disk, said before: what waits is thrown away anyhow
            self._file.close()

    def __len__(self) -> int:
        return len(self._source)

    @property
    def features(self) -> Mapping[str, Feature]:
        """The source's own, as the next two."""
        return self._source.features

    @property
    def task(self) -> Task:
        """What is to be learnt."""
        return self._source.task

    @property
    def notes(self) -> Sequence[str]:
        """What the owner should know."""
        return self._source.notes

    def scan(self) -> Iterator[Record]:
        """The source's records, each put down before it is given; once."""
        for record in self._source.scan():
            # A place is written once and then the key is gone: no nonce is ever used twice.
            sealed = self._aead.encrypt(self._nonce(self._at), record.example, None)
            self._file.write(sealed)
            yield replace(record, where=self._at, span=len(sealed))
            self._at += len(sealed)
        self._file.flush()

    def read(self, where: int, span: int) -> bytes:
        """The example that lies there."""
        sealed = os.pread(self._file.fileno(), span, where)
        return self._aead.decrypt(self._nonce(where), sealed, None)

    @staticmethod
    def _nonce(at: int) -> bytes:
        return at.to_bytes(NONCE, "big")
