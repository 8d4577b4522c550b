"""A folder that is there whole or not at all: written beside its place, and renamed at the end.

Whoever writes holds a lock on it, which the system lets go of when they die, however that comes. So
what a killed writer left is told from what a living one is at work on, and removed by the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from securetrain.errors import BadConfiguration, OutputExists
from securetrain.sealed import files
from securetrain.sealed.dataset import SHARD_FOLDER


def scratch_folder(destination: Path) -> Path:
    """The folder beside `destination`, made if it is not there; raises BadConfiguration."""
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.parent


@contextmanager
def writing(destination: Path) -> Iterator[None]:
    """Say in our own words that the system does not let us write; raises BadConfiguration."""
    try:
        yield
    except OSError as failure:
        raise BadConfiguration(
            f"{destination} cannot be written ({os.strerror(failure.errno or 0)}).",
            fix="choose a destination that you may write and that has room",
        ) from None


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A new folder that becomes `destination` on leaving, or vanishes on an error.

    Raises:
        OutputExists: there is something at the destination, before or after.
        BadConfiguration: the system does not let us write.
    """
    check_free(destination)
    staging = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.partial"
    with writing(destination):
        _clear_abandoned(destination)
        (staging / SHARD_FOLDER).mkdir(parents=True)
        lock = _locked(staging)
        try:
            yield staging
            files.sync_folder(staging / SHARD_FOLDER)
            files.sync_folder(staging)
            check_free(destination)
            staging.rename(destination)
            files.sync_folder(destination.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)


@contextmanager
def resumed(destination: Path) -> Iterator[Path]:
    """A folder that becomes `destination` on leaving; on an error it stays, to go on from.

    Raises:
        OutputExists: there is something at the destination, before or after.
        BadConfiguration: the system does not let us write, or somebody else is at it.
    """
    check_free(destination)
    staging = destination.parent / f".{destination.name}.download"
    with writing(destination):
        (staging / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = _alone(staging)
        try:
            yield staging
            _remove_empty(staging / SHARD_FOLDER)  # a model has none
            files.sync_folder(staging)
            check_free(destination)
            staging.rename(destination)
            files.sync_folder(destination.parent)
        finally:
            _remove_empty(staging / SHARD_FOLDER)
            _remove_empty(staging)  # there is nothing to go on from
            os.close(lock)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _clear_abandoned(destination: Path) -> None:
    """Remove what a seal to the same place left when it was killed: nobody has its keys."""
    for staging in destination.parent.glob(f".{_literal(destination.name)}.????????.partial"):
        try:
            lock = _locked(staging)
        except OSError:
            continue  # its writer lives, or it is no folder
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _alone(folder: Path) -> int:
    """`_locked`, or an error for people."""
    try:
        return _locked(folder)
    except BlockingIOError:
        raise BadConfiguration(
            f"{folder} is being written by another download.", fix="wait until it has ended"
        ) from None


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock; the system lets go of it when we die."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def check_free(destination: Path) -> None:
    """Raise OutputExists if there is something at the destination."""
    if os.path.lexists(destination):
        raise OutputExists(
            f"DEST: {str(destination)!r} exists.",
            fix="a sealed dataset is new: choose another name",
        )
