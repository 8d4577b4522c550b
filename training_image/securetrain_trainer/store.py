"""The output's folders, on storage that others can write to.

A folder is opened component by component without following links and then addressed through its
descriptor, so that whoever may write to the claim cannot send a read or a write elsewhere. A file
is read once: what is hashed is what is used. A write becomes visible under its name complete or
not at all, and stays after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securetrain.errors import (
    BadConfiguration,
    IntegrityError,
    ModelCorrupt,
    OutputExists,
    SecuretrainError,
    StorageFull,
)
from securetrain.sealed import files
from securetrain.sealed.model import MAX_MODEL_BYTES, MODEL_FILE, parse_model

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHANGED: Final = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
)
"""What no file system answers to a folder that only one pod uses."""


@dataclass(frozen=True, slots=True)
class Folder:
    """An open folder; `open_folder` makes one. `path` is for messages only."""

    descriptor: int
    path: str

    def read(self, name: str, limit: int, error: type[IntegrityError] = IntegrityError) -> bytes:
        """Content of a regular file of at most `limit` bytes, read once, links not followed.

        Raises:
            IntegrityError: of class `error`: missing, a link, not a regular file, or too long.
        """
        return files.read(Path(f"/proc/self/fd/{self.descriptor}"), name, limit, error)

    def write(self, name: str, data: bytes) -> None:
        """Write a file: temporary name, fsync, rename, fsync of the folder."""
        temporary = temporary_name(name)
        self.remove(temporary)
        with _usable(f"{self.path}/{name}"):
            file = os.open(temporary, _WRITE, 0o640, dir_fd=self.descriptor)
            with os.fdopen(file, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            os.fsync(self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, a link or a whole folder without following links; absence is fine."""
        try:
            status = os.lstat(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return
        with _usable(f"{self.path}/{name}"):
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(name, dir_fd=self.descriptor)
            else:
                os.unlink(name, dir_fd=self.descriptor)

    def taken(self, name: str) -> bool:
        """True if something other than an empty folder has this name."""
        try:
            status = os.lstat(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode):
            return True
        with _usable(f"{self.path}/{name}"):
            inner = os.open(name, _FOLDER, dir_fd=self.descriptor)
            try:
                return bool(os.listdir(inner))
            finally:
                os.close(inner)

    def holds_model(self, name: str) -> bool:
        """True if this name is a folder's with a model.json that can be parsed."""
        try:
            with _usable(f"{self.path}/{name}"):
                inner = os.open(name, _FOLDER, dir_fd=self.descriptor)
        except IntegrityError:
            return False
        try:
            parse_model(Folder(inner, name).read(MODEL_FILE, MAX_MODEL_BYTES, ModelCorrupt))
        except IntegrityError:
            return False
        finally:
            os.close(inner)
        return True

    def names(self) -> frozenset[str]:
        """Names of all entries."""
        return frozenset(os.listdir(self.descriptor))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model goes: its final folder, and the one in which it grows, side by side."""

    parent: str
    name: str
    staging: str
    aside: str

    @classmethod
    def of(cls, output_path: str, job_uid: str) -> Place:
        """The place of a job's model; `output_path` is the absolute path of its final folder."""
        parent, name = os.path.split(output_path)
        return cls(parent, name, f"{name}.{job_uid}.partial", f"{name}.{job_uid}.replaced")

    def check_free(self, *, replace: bool) -> None:
        """Raise OutputExists if the final name is taken and may not be replaced.

        Only a model's folder is ever replaced: a mistyped URI must not cost somebody's data.
        """
        with open_folder(self.parent, create=True) as parent:
            self._check_free(parent, replace)

    @contextlib.contextmanager
    def staged(self) -> Iterator[Folder]:
        """The staging folder."""
        with open_folder(f"{self.parent}/{self.staging}") as folder:
            yield folder

    @contextlib.contextmanager
    def stored(self, *, replace: bool) -> Iterator[tuple[Folder, bool]]:
        """The folder that holds the job's model, and whether it has its final name already."""
        with open_folder(self.parent, error=ModelCorrupt) as parent:
            published = not parent.taken(self.staging)
        if not published:
            self.check_free(replace=replace)
        name = self.name if published else self.staging
        with open_folder(f"{self.parent}/{name}", error=ModelCorrupt) as folder:
            yield folder, published

    def tidy(self) -> None:
        """Remove the model that was replaced, if an earlier pod died before it did."""
        with open_folder(self.parent) as parent:
            parent.remove(self.aside)

    def is_taken(self) -> bool:
        """True if something other than an empty folder has the final name."""
        with open_folder(self.parent) as parent:
            return parent.taken(self.name)

    def start(self) -> None:
        """Make an empty staging folder; what an earlier attempt of this job left is removed."""
        with open_folder(self.parent, create=True) as parent, _usable(self.parent):
            parent.remove(self.staging)
            os.mkdir(self.staging, 0o750, dir_fd=parent.descriptor)
            os.fsync(parent.descriptor)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """A fresh staging folder; if the block fails for good, nothing is left of it."""
        self.start()
        try:
            yield
        except SecuretrainError:
            with contextlib.suppress(SecuretrainError), open_folder(self.parent) as parent:
                parent.remove(self.staging)
            raise

    def publish(self, *, replace: bool) -> None:
        """Give the staging folder its final name; what was there goes once the new one stands.

        Raises:
            OutputExists: something is there and may not be replaced.
        """
        with open_folder(self.parent) as parent:
            self._check_free(parent, replace)
            if parent.taken(self.name):
                parent.remove(self.aside)
                self._rename(parent, self.name, self.aside)
            self._rename(parent, self.staging, self.name)
            parent.remove(self.aside)

    def _check_free(self, parent: Folder, replace: bool) -> None:
        if not parent.taken(self.name):
            return
        if not replace:
            raise OutputExists(
                f"output.uri: the folder {self.name!r} exists already.",
                fix="choose another name, or set output.ifExists: Replace",
            )
        if not parent.holds_model(self.name):
            raise OutputExists(
                f"output.uri: {self.name!r} is not a model's folder, and only such are replaced.",
                fix="choose another name, or move away what is there",
            )

    @staticmethod
    def _rename(parent: Folder, old: str, new: str) -> None:
        at = parent.descriptor
        with _usable(f"{parent.path}/{old}"):
            os.rename(old, new, src_dir_fd=at, dst_dir_fd=at)
            os.fsync(at)


def temporary_name(name: str) -> str:
    """The name that a file has while it is being written."""
    return f".{name}.tmp"


@contextlib.contextmanager
def open_folder(
    path: str, *, create: bool = False, error: type[SecuretrainError] = IntegrityError
) -> Iterator[Folder]:
    """Open a folder by its absolute path without following a link anywhere on the way.

    Args:
        path: absolute, without `..`.
        create: make what is missing, mode 0750.
        error: class of what is raised.

    Raises:
        SecuretrainError: of class `error`: missing, or a part of the path is a link or no folder.
        BadConfiguration: the system does not let us.
    """
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise error(f"{path!r} is not a clean absolute path")
    at = os.open("/", _FOLDER)
    try:
        for part in parts:
            inner = _descend(at, part, path, create, error)
            os.close(at)
            at = inner
        yield Folder(at, path)
    finally:
        os.close(at)


def _descend(at: int, part: str, path: str, create: bool, error: type[SecuretrainError]) -> int:
    with _usable(path):
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o750, dir_fd=at)
            return os.open(part, _FOLDER, dir_fd=at)
        except FileNotFoundError:
            raise error(f"{path} does not exist") from None
        except NotADirectoryError:
            raise error(f"{path}: {part!r} is a link, or no folder") from None


@contextlib.contextmanager
def _usable(path: str) -> Iterator[None]:
    """Turn a refusal of the system into advice, and a change by somebody else into a finding."""
    try:
        yield
    except OSError as failure:
        if failure.errno in _CHANGED:
            raise IntegrityError(
                f"{path} was changed by somebody else meanwhile ({os.strerror(failure.errno)})",
                fix="find out who writes to the output volume, and run the job again",
            ) from None
        if failure.errno in _FULL:
            raise StorageFull(f"{path} cannot be written: no room is left on its volume") from None
        if failure.errno not in _NOT_OURS:
            raise
        raise BadConfiguration(
            f"{path} cannot be used: {os.strerror(failure.errno)}.",
            fix="give group 10001 access to the claim, and mount it writable",
        ) from None
