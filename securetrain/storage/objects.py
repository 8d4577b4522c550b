"""What the rest of securetrain needs of an object store; names are relative to one prefix.

Errors of all methods: StorageUnavailable (try again), StorageDenied, StorageMisconfigured,
StorageFull. Their messages name bucket, object and connection and never quote a server's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from securetrain.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object: its name below the store's prefix, its size in bytes, its version's tag."""

    name: str
    size: int
    etag: str
    sha256: str | None = None
    """Hex digest that its uploader noted beside it, if so; only `stat` knows it."""
    opaque: bool = False
    """True if the tag says nothing of the content, as under a key of the server's own."""


Progress = Callable[[int], None]
"""Called with the number of bytes that have just been sent."""


class ObjectStore(Protocol):
    """A prefix of a bucket."""

    def below(self, prefix: str) -> Self:
        """The same store at a longer prefix; shares the connection."""
        ...

    def list(self, prefix: str = "", *, limit: int) -> Sequence[StoredObject]:
        """At most `limit` objects whose names begin with `prefix`, in the order of their names."""
        ...

    def stat(self, name: str) -> StoredObject | None:
        """An object's size and tag; None if there is none of that name."""
        ...

    def has(self, name: str) -> bool:
        """True if there is an object of that name."""
        ...

    def read(self, name: str, limit: int, error: type[IntegrityError] = ...) -> bytes:
        """Content of an object of at most `limit` bytes.

        Raises:
            IntegrityError: of class `error`: missing, or too long.
        """
        ...

    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """A stream of an object and its size; read in bounded pieces, each tried again by itself.

        Raises:
            IntegrityError: of class `error`: missing, too long, or replaced meanwhile.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write an object; it appears whole."""
        ...

    def write_file(
        self, name: str, path: Path, progress: Progress | None = None, *, sha256: str | None = None
    ) -> None:
        """Write an object from a file, in parts if it is large; it appears whole.

        With `sha256`, the hex digest of the file, it is noted beside the object.
        """
        ...

    def etag_of(self, path: Path) -> str:
        """The tag, of MD5, that `write_file` of a file leads to where tags are not opaque."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name; False if there is."""
        ...

    def exchange(self, found: StoredObject, data: bytes) -> bool:
        """Write an object in the place of the one that was found; False if that has changed."""
        ...

    def copy(self, source: StoredObject, name: str) -> StoredObject | None:
        """Copy within the store, by the server; None if `source` is no longer what it was."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; its absence is fine."""
        ...
