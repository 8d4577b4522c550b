"""What uploads and downloads need of a folder elsewhere: a prefix on S3, or a folder on a claim.

Errors of all methods: StorageUnavailable, ClusterUnavailable (try again), StorageDenied,
ClusterDenied, StorageMisconfigured, BadConfiguration, StorageFull.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from securetrain.errors import IntegrityError
from securetrain.storage.objects import ObjectStore

OnBytes = Callable[[int], None]
"""Told how many bytes more have been sent or read."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file as it must be: its name in the folder, its size in bytes, its digest in hex."""

    name: str
    size: int
    sha256: str


class Depot(Protocol):
    """A folder elsewhere, and so a `sealed.files.RemoteFolder`; names are relative to it."""

    @property
    def where(self) -> str:
        """Its address, for messages."""
        ...

    @property
    def workers(self) -> int:
        """How many files may be on their way at once."""
        ...

    def list(self, limit: int) -> Mapping[str, int]:
        """Sizes of at most `limit` files, by name."""
        ...

    def holds(self, file: SealedFile, path: Path) -> bool:
        """Whether a file is there and is what it must be; `path` is the same file here."""
        ...

    def has(self, name: str) -> bool:
        """True if there is anything of that name."""
        ...

    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """A stream of a file and its size; raises `error` if it is missing or too long."""
        ...

    def send(self, file: SealedFile, path: Path, on_bytes: OnBytes) -> None:
        """Write a file; it appears whole, in place of whatever had its name."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; it appears whole."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; False if there is."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; its absence is fine."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectDepot:
    """A prefix on S3.

    What an object holds is told by its tag, which a server makes anew with every write: where S3
    documents it as an MD5, it is compared with that of the file here. Else the digest counts that
    the uploader noted beside the object.
    """

    store: ObjectStore
    where: str
    workers: int = 4

    def list(self, limit: int) -> Mapping[str, int]:
        """Sizes of at most `limit` files, by name."""
        return {found.name: found.size for found in self.store.list(limit=limit)}

    def holds(self, file: SealedFile, path: Path) -> bool:
        """Whether an object is there and is what it must be."""
        found = self.store.stat(file.name)
        if found is None or found.size != file.size:
            return False
        if found.opaque:
            return found.sha256 == file.sha256
        return found.etag == self.store.etag_of(path)

    def has(self, name: str) -> bool:
        """True if there is an object of that name."""
        return self.store.has(name)

    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """A stream of a file and its size; raises `error` if it is missing or too long."""
        return self.store.open(name, limit, error)

    def send(self, file: SealedFile, path: Path, on_bytes: OnBytes) -> None:
        """Write a file; it appears whole, in place of whatever had its name."""
        self.store.write_file(file.name, path, on_bytes, sha256=file.sha256)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; it appears whole."""
        self.store.write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; False if there is."""
        return self.store.create(name, data)

    def remove(self, name: str) -> None:
        """Remove a file; its absence is fine."""
        self.store.remove(name)
