"""Reads and writes of sealed folders: bounded, link-free reads; durable writes.

Whoever may write to the storage must not be able to send a read elsewhere with a link, or to fill
the reader's memory. Reads are of a folder of this machine or of one that reads for itself, such as
a prefix in a bucket; writes are of this machine's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, Protocol

from securetrain.errors import BadConfiguration, IntegrityError, ManifestInvalid

ANY_SIZE: Final = 1 << 62

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RemoteFolder(Protocol):
    """A sealed folder elsewhere; see `securetrain.storage.objects.ObjectStore`."""

    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """As `open_regular`."""
        ...

    def has(self, name: str) -> bool:
        """As `exists`."""
        ...


SealedFolder = Path | RemoteFolder


def exists(folder: SealedFolder, name: str) -> bool:
    """True if anything, be it a link to nowhere, has this name."""
    return os.path.lexists(folder / name) if isinstance(folder, Path) else folder.has(name)


def read(
    folder: SealedFolder, name: str, limit: int, error: type[IntegrityError] = ManifestInvalid
) -> bytes:
    """Content of a file of a sealed folder, read once.

    Args:
        folder: the sealed folder; one of this machine may itself be reached by a link.
        name: relative path as the format defines it.
        limit: most bytes that the file may have.
        error: class of what is raised.

    Raises:
        IntegrityError: of class `error`: missing, a link, not a regular file, or too long.
        BadConfiguration: the system does not let us read it.
        SecuretrainError: whatever a folder elsewhere says.
    """
    with open_regular(folder, name, limit, error) as (stream, size):
        data = stream.read(limit + 1)
    if len(data) != size:
        raise error(f"{name} changed while it was read.")
    return data


def digest(
    folder: SealedFolder, name: str, limit: int, error: type[IntegrityError] = ManifestInvalid
) -> tuple[int, str]:
    """Size of a file and the SHA-256 in hex of so many of its bytes, read in pieces.

    A file that grows meanwhile is not followed. Raises as `read`.
    """
    sha256 = hashlib.sha256()
    with open_regular(folder, name, limit, error) as (stream, size):
        left = size
        while piece := stream.read(min(left, 1 << 20)):
            left -= len(piece)
            sha256.update(piece)
    return size, sha256.hexdigest()


def open_regular(
    folder: SealedFolder, name: str, limit: int, error: type[IntegrityError]
) -> AbstractContextManager[tuple[BinaryIO, int]]:
    """Open a regular file for reading without following a link below `folder`.

    Yields:
        The stream and the file's size in bytes.

    Raises:
        IntegrityError, BadConfiguration, SecuretrainError: as `read`.
    """
    if isinstance(folder, Path):
        return _open_local(folder, name, limit, error)
    return folder.open(name, limit, error)


@contextmanager
def _open_local(
    folder: Path, name: str, limit: int, error: type[IntegrityError]
) -> Iterator[tuple[BinaryIO, int]]:
    try:
        file = _open_below(folder, name)
    except OSError as failure:
        raise _unreadable(name, failure, error) from None
    # fdopen refuses a folder, and then leaves the descriptor open.
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise error(f"{name} is not a regular file.")
    with os.fdopen(file, "rb") as stream:
        if status.st_size > limit:
            raise error(f"{name} has {status.st_size} bytes, more than {limit}.")
        yield stream, status.st_size


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, and have it on the disk when this returns."""
    with create(path) as stream:
        stream.write(data)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that nobody but its owner may read; it is there whole or not at all.

    Raises:
        BadConfiguration: the system does not let us write.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except OSError as failure:
        raise _unwritable(path, failure) from None
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(file)
    except OSError as failure:
        path.unlink(missing_ok=True)
        raise _unwritable(path, failure) from None


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that only its owner may enter; it is gone afterwards.

    Raises:
        BadConfiguration: the system does not let us write beside `path`.
    """
    try:
        folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as failure:
        raise _unwritable(path, failure) from None
    with folder as name:
        yield Path(name)


def publish_private(made: Path, path: Path) -> None:
    """Move a finished file to where it belongs; nobody but its owner may read it.

    Raises:
        BadConfiguration: the system does not let us write.
    """
    try:
        made.chmod(0o600)
        with made.open("rb") as stream:
            os.fsync(stream.fileno())
        made.replace(path)
        sync_folder(path.parent)
    except OSError as failure:
        raise _unwritable(path, failure) from None


@contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; on leaving it is on the disk."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def replace(folder: Path, name: str, data: bytes) -> None:
    """Replace a file by one rename; on return it is on the disk.

    Raises:
        BadConfiguration: the system does not let us write; the file is as it was.
    """
    temporary = folder / f".{name}.partial"
    try:
        # Ours from an interrupted write, or a trap: never written through, only removed.
        temporary.unlink(missing_ok=True)
        write_new(temporary, data)
        temporary.replace(folder / name)
        sync_folder(folder)
    except OSError as failure:
        raise _unwritable(folder / name, failure) from None


def remove(folder: Path, name: str) -> None:
    """Remove a file; its absence is on the disk on return, and is no error before."""
    try:
        (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as failure:
        raise _unwritable(folder / name, failure) from None


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _open_below(folder: Path, name: str) -> int:
    *parents, last = name.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            inner = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(last, _READ, dir_fd=at)
    finally:
        os.close(at)


def _unwritable(path: Path, failure: OSError) -> BadConfiguration:
    return BadConfiguration(
        f"{path} cannot be written ({os.strerror(failure.errno or 0)}).",
        fix="see that you may write there and that there is room, then do the same again",
    )


def _unreadable(name: str, failure: OSError, error: type[IntegrityError]) -> Exception:
    if failure.errno == errno.ENOENT:
        return error(f"{name} does not exist.")
    if failure.errno in (errno.EACCES, errno.EPERM):
        return BadConfiguration(f"{name} may not be read.", fix="give yourself read access to it")
    return error(f"{name} cannot be read ({os.strerror(failure.errno or 0)}): is it a link?")
