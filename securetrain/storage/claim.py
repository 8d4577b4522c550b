"""A folder on a claim as a `Depot`: the sender's side of `securetrain.storage.receive`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from securetrain import errors
from securetrain.api.digest import sha256_hex
from securetrain.errors import (
    BadConfiguration,
    ClusterUnavailable,
    IntegrityError,
    ManifestInvalid,
    SecuretrainError,
)
from securetrain.storage import frames
from securetrain.storage.depot import OnBytes, SealedFile
from securetrain.storage.frames import CHUNK, MISSING, Answer, Request

MAX_LINE: Final = 300
"""Most bytes that a listed file may take."""
_LISTED: Final = re.compile(r"([0-9]{1,13}) ([ -~]{1,280})")
_KNOWN: Final = ("BadConfiguration", "InvalidInput", "OutputExists", "StorageFull")


class Pipe(Protocol):
    """Standard input and output of a process elsewhere."""

    def write(self, data: bytes) -> None:
        """Send all of `data`; raises ClusterUnavailable."""
        ...

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer if the process has ended; raises ClusterUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class ClaimDepot:
    """A folder on a claim; files go through the pipe one by one. Digests are of the disk."""

    pipe: Pipe
    where: str
    workers: int = 1

    def list(self, limit: int) -> Mapping[str, int]:
        """Sizes of at most `limit` files, by name."""
        answer = self._ask(Request(op="list", limit=limit))
        if answer.size > limit * MAX_LINE:
            raise ManifestInvalid(f"the receiver at {self.where} lists more than it was asked for.")
        lines = self._exactly(answer.size).decode("ascii", "replace").splitlines()
        listed = [_LISTED.fullmatch(line) for line in lines]
        if not all(listed):
            raise ManifestInvalid(f"the receiver at {self.where} lists what is no file.")
        return {found[2]: int(found[1]) for found in listed if found}

    def holds(self, file: SealedFile, _path: Path) -> bool:
        """Whether a file is there and is what it must be; it is read there."""
        return self._digest(file.name) == file.sha256

    def has(self, name: str) -> bool:
        """True if there is a file of that name."""
        return self._digest(name) is not None

    @contextmanager
    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> Iterator[tuple[BinaryIO, int]]:
        """A stream of a file and its size, to be read before anything else is asked."""
        try:
            answer = self._ask(Request(op="read", name=name, limit=limit), may_miss=True)
        except FileNotFoundError:
            raise error(f"{name} does not exist at {self.where}.") from None
        if answer.size > limit:
            raise error(f"{name} has {answer.size} bytes, more than {limit}.")
        stream = _Stream(self.pipe, answer.size)
        yield cast(BinaryIO, io.BufferedReader(stream, CHUNK)), answer.size
        stream.drain()

    def send(self, file: SealedFile, path: Path, on_bytes: OnBytes) -> None:
        """Write a file; it appears whole, in place of whatever had its name."""
        request = Request(op="write", name=file.name, size=file.size, sha256=file.sha256)
        self.pipe.write(frames.pack(request))
        with path.open("rb") as stream:
            left = file.size
            while left and (piece := stream.read(min(left, CHUNK))):
                self.pipe.write(piece)
                left -= len(piece)
                on_bytes(len(piece))
        if left:
            raise ManifestInvalid(f"{file.name} became shorter while it was sent.")
        self._answer()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; it appears whole."""
        self._put(Request(op="write", name=name, size=len(data), sha256=sha256_hex(data)), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; False if there is."""
        request = Request(op="create", name=name, size=len(data), sha256=sha256_hex(data))
        return self._put(request, data).created

    def remove(self, name: str) -> None:
        """Remove a file; its absence is fine."""
        self._ask(Request(op="remove", name=name))

    def _digest(self, name: str) -> str | None:
        try:
            return self._ask(Request(op="digest", name=name), may_miss=True).sha256
        except FileNotFoundError:
            return None

    def _put(self, request: Request, data: bytes) -> Answer:
        self.pipe.write(frames.pack(request) + data)
        return self._answer()

    def _ask(self, request: Request, *, may_miss: bool = False) -> Answer:
        """The answer; if a file `may_miss`, its absence is a FileNotFoundError."""
        self.pipe.write(frames.pack(request))
        return self._answer(may_miss=may_miss)

    def _answer(self, *, may_miss: bool = False) -> Answer:
        answer = frames.unpack(Answer, self.pipe.read)
        if answer is None:
            raise _gone(self.where)
        if answer.error == MISSING and may_miss:
            raise FileNotFoundError
        if answer.error == MISSING:
            raise ClusterUnavailable(
                f"what was just written at {self.where} is gone: somebody removes files there.",
                fix="see who else works in that folder of the claim, then do the same again",
            )
        if answer.error is not None:
            raise _error_of(answer, self.where)
        return answer

    def _exactly(self, size: int) -> bytes:
        data = self.pipe.read(size)
        if len(data) != size:
            raise _gone(self.where)
        return data


class _Stream(io.RawIOBase):
    """The payload of an answer."""

    def __init__(self, pipe: Pipe, size: int) -> None:
        super().__init__()
        self._pipe, self._left = pipe, size

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill some of `buffer`; 0 at the end."""
        data = self._pipe.read(min(len(buffer), self._left, CHUNK))
        if self._left and not data:
            raise ClusterUnavailable("the receiver has ended.")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def drain(self) -> None:
        """Read what the reader left, so that the next answer is found."""
        while self._left:
            self._left -= len(self._pipe.read(min(self._left, CHUNK))) or self._left


def _gone(where: str) -> ClusterUnavailable:
    return ClusterUnavailable(
        f"the receiver at {where} has ended.",
        fix="see why its pod went, with kubectl get events; then do the same again",
    )


def _error_of(answer: Answer, where: str) -> SecuretrainError:
    kind = getattr(errors, answer.error or "") if answer.error in _KNOWN else BadConfiguration
    message, fix = f"{where}: {answer.message}", answer.fix
    made: SecuretrainError = BadConfiguration(message, fix=fix)
    if kind is not errors.InvalidInput:
        made = kind(message, fix=fix)
    return made
