"""The receiver: runs in a pod that mounts a claim, and keeps the files that a data owner sends.

    python -m securetrain.storage.receive FOLDER      serve frames on standard input and output
    python -m securetrain.storage.receive --hold      be the pod's own process: wait, then end

It sees ciphertext only, and needs neither network nor service account. Links are never followed,
below the mount none is even walked through; a file appears by one rename when all of its bytes are
on the disk and have the digest that was promised.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from securetrain.errors import (
    BadConfiguration,
    InvalidInput,
    ManifestInvalid,
    OutputExists,
    SecuretrainError,
    StorageFull,
)
from securetrain.storage import frames, listing
from securetrain.storage.frames import CHUNK, MISSING, Answer, Request

MOUNT: Final = Path("/claim")
PULSE: Final = Path("/tmp/pulse")  # noqa: S108 the pod's own, in memory
IDLE_SECONDS: Final = 900.0
"""After so long without a request the pod ends, whatever became of whoever made it."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Receiver:
    """Serves one folder below a mount.

    Args:
        mount: what is trusted to be a folder, and never left.
        folder: path below it, made when the first file is written.
    """

    def __init__(self, mount: Path, folder: str) -> None:
        self._mount = mount
        self._parts = tuple(part for part in folder.split("/") if part)
        if any(part.startswith((".", "-")) for part in self._parts):
            raise InvalidInput("FOLDER", folder, "is no folder", fix="name one below the claim")

    def serve(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Answer requests until the stream ends.

        Raises:
            ManifestInvalid: what came is no request, so that nobody knows where the next begins.
        """
        while True:
            request = frames.unpack(Request, source.read)
            if request is None:
                return
            _beat()
            payload = _Payload(source, request.size)
            try:
                self._answer(request, payload, sink)
            except FileNotFoundError:
                payload.drain()
                _send(sink, Answer(error=MISSING))
            except (SecuretrainError, OSError) as failure:
                payload.drain()
                error = failure if isinstance(failure, SecuretrainError) else _said(failure)
                _send(sink, _refusal(error))

    def _answer(self, request: Request, payload: _Payload, sink: BinaryIO) -> None:
        name = request.name or ""
        match request.op:
            case "list":
                self._list(min(request.limit, frames.MAX_LISTED), sink)
            case "digest":
                with self._opened(name) as file:
                    _send(sink, Answer(sha256=_digest(file)))
            case "read":
                self._read(name, request.limit, sink)
            case "write" | "create":
                created = self._write(name, request, payload)
                _send(sink, Answer(created=created))
            case "remove":
                self._remove(name)
                _send(sink, Answer())

    def _list(self, limit: int, sink: BinaryIO) -> None:
        try:
            with self._folder(()) as at:
                found = list(islice(listing.listed(at), limit))
        except FileNotFoundError:
            found = []
        text = "".join(f"{size} {name}\n" for name, size in found).encode()
        _send(sink, Answer(size=len(text)))
        sink.write(text)
        sink.flush()

    def _read(self, name: str, limit: int, sink: BinaryIO) -> None:
        with self._opened(name) as file:
            size = os.fstat(file).st_size
            _send(sink, Answer(size=size))
            if size <= limit:  # else the answer is the size alone, and the caller hangs up
                left = size
                while left and (piece := os.read(file, min(left, CHUNK))):
                    sink.write(piece)
                    left -= len(piece)
                sink.write(bytes(left))  # it shrank: its digest will tell
                sink.flush()

    def _write(self, name: str, request: Request, payload: _Payload) -> bool:
        *parents, last = name.split("/")
        partial = listing.partial_name(last)
        with self._folder(tuple(parents), make=True) as at:
            try:
                if payload.into(os.open(partial, _NEW, 0o644, dir_fd=at)) != request.sha256:
                    raise ManifestInvalid(f"{name} was changed on its way.", fix="send it again")
                if request.op == "create":
                    return _linked(partial, last, at)
                os.rename(partial, last, src_dir_fd=at, dst_dir_fd=at)
                return True
            finally:
                _unlink(partial, at)
                os.fsync(at)

    def _remove(self, name: str) -> None:
        *parents, last = name.split("/")
        try:
            with self._folder(tuple(parents)) as at:
                _unlink(last, at)
                os.fsync(at)
        except FileNotFoundError:
            return

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        *parents, last = name.split("/")
        with self._folder(tuple(parents)) as at:
            file = os.open(last, _READ, dir_fd=at)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OutputExists(f"{name} is not a file.", fix="remove it from the claim")
                yield file
            finally:
                os.close(file)

    @contextmanager
    def _folder(self, parents: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
        """A folder's descriptor, each part of its path opened without following a link."""
        at = os.open(self._mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in (*self._parts, *parents):
                inner = _step(part, at, make=make)
                os.close(at)
                at = inner
            yield at
        finally:
            os.close(at)


class _Payload:
    """The bytes that follow a request; what is not wanted is read and dropped."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def into(self, file: int) -> str:
        """Write all to a new file, and have it on the disk; its digest in hex."""
        digest = hashlib.sha256()
        with os.fdopen(file, "wb") as sink:
            while piece := self._next():
                digest.update(piece)
                sink.write(piece)
            sink.flush()
            os.fsync(file)
        return digest.hexdigest()

    def drain(self) -> None:
        """Read what is left, so that the next request is found."""
        while self._next():
            pass

    def _next(self) -> bytes:
        piece = self._source.read(min(self._left, CHUNK)) if self._left else b""
        if self._left and not piece:
            raise EOFError
        self._left -= len(piece)
        _beat()
        return piece


def _step(part: str, at: int, *, make: bool) -> int:
    if make:
        try:
            os.mkdir(part, 0o755, dir_fd=at)
            os.fsync(at)
        except FileExistsError:
            pass
    try:
        return os.open(part, _FOLDER, dir_fd=at)
    except OSError as failure:
        if failure.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise OutputExists(
            f"{part} in the claim is a file or a link, not a folder.",
            fix="choose another path, or remove it",
        ) from None


def _linked(partial: str, name: str, at: int) -> bool:
    try:
        os.link(partial, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _unlink(name: str, at: int) -> None:
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        return


def _digest(file: int) -> str:
    digest = hashlib.sha256()
    while piece := os.read(file, 1 << 20):
        digest.update(piece)
        _beat()
    return digest.hexdigest()


def _send(sink: BinaryIO, answer: Answer) -> None:
    sink.write(frames.pack(answer))
    sink.flush()


def _refusal(error: SecuretrainError) -> Answer:
    return Answer(error=error.reason, message=error.message[:500], fix=error.fix[:500])


def _said(failure: OSError) -> SecuretrainError:
    reason = os.strerror(failure.errno or 0)
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"the claim has no room ({reason}).")
    return BadConfiguration(
        f"the claim cannot be used ({reason}).",
        fix="see that the claim is writable for the pods' user, 10001",
    )


def _beat() -> None:
    """Say to `hold` that somebody is at work; outside a pod nobody listens."""
    if PULSE.exists():
        PULSE.touch()


def hold(pulse: Path = PULSE, idle_seconds: float = IDLE_SECONDS) -> None:
    """Wait until nobody has asked for anything for `idle_seconds`."""
    pulse.touch()
    while time.time() - pulse.stat().st_mtime < idle_seconds:
        time.sleep(min(1.0, idle_seconds / 4))


def main(arguments: list[str]) -> int:
    """Run as the command that the module's description names."""
    if arguments == ["--hold"]:
        hold()
        return 0
    try:
        Receiver(MOUNT, arguments[0]).serve(sys.stdin.buffer, sys.stdout.buffer)
    except SecuretrainError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except EOFError:
        return 0  # whoever sent has gone; what was half sent is not there
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
