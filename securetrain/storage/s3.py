"""An `ObjectStore` on any server that speaks S3.

A server is asked again while it is away, is never believed to have sent what it should, and is not
quoted in an exception.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, cast

from fsspec.asyn import sync
from fsspec.callbacks import Callback

from securetrain.api.gateway import ObjectStorage
from securetrain.errors import BadConfiguration, IntegrityError, ManifestInvalid
from securetrain.storage import answers, tags
from securetrain.storage.credentials import Credentials
from securetrain.storage.objects import Progress, StoredObject
from securetrain.storage.s3_client import COPY_SECONDS, Files, connect
from securetrain.storage.uri import StorageUri

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEADLINE_SECONDS: Final = 120.0
"""Most seconds that one call may take, however slowly a server drips its bytes; uploads excepted,
each part of which has the client's time-outs, and copies, which have `COPY_SECONDS`."""
PIECE: Final = 8 << 20
"""Bytes of one ranged read."""
PART: Final = 16 << 20
"""Bytes of one part of an upload; some are in memory at a time."""
PARALLEL: Final = 4
PAGE: Final = 1000
MAX_PARTS: Final = 10_000
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 10.0
CONTENT_TYPE: Final = "application/octet-stream"
DIGEST: Final = "sha256"
"""Name of the metadata in which an uploader notes an object's digest."""


@dataclass(frozen=True, slots=True)
class S3Store:
    """A prefix of a bucket; `open_store` makes one. See `objects.ObjectStore`."""

    files: Files
    connection: str
    bucket: str
    prefix: str
    patience: float
    """Seconds for which a call is made again and again while the server is away."""

    def below(self, prefix: str) -> Self:
        """The same store at a longer prefix; shares the connection."""
        return replace(self, prefix="/".join(filter(None, (self.prefix, prefix))))

    def list(self, prefix: str = "", *, limit: int) -> Sequence[StoredObject]:
        """At most `limit` objects whose names begin with `prefix`, in the order of their names."""
        start = self._key("")
        query: dict[str, Any] = {"Bucket": self.bucket, "Prefix": start + prefix}
        found: list[StoredObject] = []
        while len(found) < limit:
            query["MaxKeys"] = min(PAGE, limit - len(found))
            more, token = self._ask(
                "list", prefix, "list_objects_v2", query, take=lambda page: _page(page, query)
            )
            found += [replace(item, name=item.name.removeprefix(start)) for item in more]
            if token is None:
                break
            query["ContinuationToken"] = token
        return found[:limit]

    def stat(self, name: str) -> StoredObject | None:
        """An object's size and tag; None if there is none of that name."""
        found: StoredObject | None = self._ask(
            "read", name, "head_object", self._place(name), answers.MISSING, _stated
        )
        return found and replace(found, name=name)

    def has(self, name: str) -> bool:
        """True if there is an object of that name."""
        return self.stat(name) is not None

    def read(self, name: str, limit: int, error: type[IntegrityError] = ManifestInvalid) -> bytes:
        """Content of an object of at most `limit` bytes; raises `error` if missing or too long."""
        with self.open(name, limit, error) as (stream, size):
            return stream.read(size)

    @contextmanager
    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> Iterator[tuple[BinaryIO, int]]:
        """A stream of an object and its size; raises `error` if missing, too long or replaced."""
        found = self.stat(name)
        if found is None:
            raise error(f"{name} does not exist in {self.where}.")
        if found.size > limit:
            raise error(f"{name} has {found.size} bytes, more than {limit}.")
        buffer = min(PIECE, max(1, found.size))
        yield cast(BinaryIO, io.BufferedReader(_Pieces(self, found, error), buffer)), found.size

    def read_piece(self, found: StoredObject, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of an object; another number of them if it is no longer that."""
        query = self._place(found.name) | {
            "Range": f"bytes={start}-{end - 1}",
            "IfMatch": found.etag,
        }
        piece: bytes | None = self._try(
            "read",
            found.name,
            lambda: self.files.piece(query, end - start, timeout=DEADLINE_SECONDS),
            unless=answers.MISSING | answers.PAST_END | answers.CHANGED,
        )
        return piece or b""

    def write(self, name: str, data: bytes) -> None:
        """Write an object; it appears whole."""
        self._try(
            "write",
            name,
            lambda: self.files.pipe_file(
                self._path(name), data, chunksize=PART, max_concurrency=PARALLEL
            ),
        )

    def write_file(
        self, name: str, path: Path, progress: Progress | None = None, *, sha256: str | None = None
    ) -> None:
        """Write an object from a file, in parts if it is large; it appears whole."""
        self._try("write", name, lambda: self._put(name, path, progress, sha256))

    def _put(self, name: str, path: Path, progress: Progress | None, sha256: str | None) -> None:
        try:
            self.files.put_file(
                str(path),
                self._path(name),
                callback=_Told(progress),
                chunksize=_part_size(path),
                max_concurrency=PARALLEL,
                ContentType=CONTENT_TYPE,
                Metadata={} if sha256 is None else {DIGEST: sha256},
            )
        except OSError as failure:
            if failure.filename is None:  # it is the server's, which has no file names
                raise
            raise BadConfiguration(
                f"{path} cannot be read ({os.strerror(failure.errno or 0)}).",
                fix="let nobody move or change it, and do the same again",
            ) from None

    def etag_of(self, path: Path) -> str:
        """The tag, of MD5, that `write_file` of a file leads to where tags are not opaque."""
        return tags.of_file(path, _part_size(path))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name; False if there is."""
        query = self._place(name) | {"Body": data, "IfNoneMatch": "*"}
        return self._ask("write", name, "put_object", query, unless=answers.CHANGED) is not None

    def exchange(self, found: StoredObject, data: bytes) -> bool:
        """Write an object in the place of the one that was found; False if that has changed."""
        query = self._place(found.name) | {"Body": data, "IfMatch": found.etag}
        gone = answers.CHANGED | answers.MISSING
        return self._ask("write", found.name, "put_object", query, unless=gone) is not None

    def copy(self, source: StoredObject, name: str) -> StoredObject | None:
        """Copy within the store, by the server; None if `source` is no longer what it was."""
        query = self._place(name) | {
            "CopySource": self._place(source.name),
            "CopySourceIfMatch": source.etag,
        }
        gone = answers.CHANGED | answers.MISSING
        tag = self._ask("copy", name, "copy_object", query, gone, _tag_of_copy, COPY_SECONDS)
        return None if tag is None else StoredObject(name, source.size, tag)

    def remove(self, name: str) -> None:
        """Remove an object; its absence is fine."""
        self._ask("remove", name, "delete_object", self._place(name), unless=answers.MISSING)

    @property
    def where(self) -> str:
        """The store's address, for messages."""
        return str(StorageUri("s3", self.bucket, self.prefix))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self._key(name)}"

    def _place(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self._key(name)}

    def _ask(
        self,
        verb: str,
        name: str,
        operation: str,
        query: Mapping[str, Any],
        unless: frozenset[str] = frozenset(),
        take: Callable[[Mapping[str, Any]], Any] = lambda answer: answer,
        seconds: float = DEADLINE_SECONDS,
    ) -> Any:
        """What `take` makes of an answer; None if its code is in `unless`."""
        return self._try(
            verb,
            name,
            lambda: take(self.files.call_s3(operation, timeout=seconds, **query)),
            unless,
        )

    def _try(
        self,
        verb: str,
        name: str,
        call: Callable[[], Any],
        unless: frozenset[str] = frozenset(),
    ) -> Any:
        """What a call returns; None if the server answers with a code that is in `unless`."""
        until, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return call()
            except answers.FAILURES as failure:
                if answers.code_of(failure) in unless:
                    return None
                what = f"{name or 'objects'}: cannot {verb} it"
                error = answers.error_of(failure, what, self.where, self.connection)
            if not error.retryable or time.monotonic() + pause > until:
                raise error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _page(
    answer: Mapping[str, Any], query: Mapping[str, Any]
) -> tuple[list[StoredObject], str | None]:
    """Objects of a page, under their whole keys, and the token of the next page if there is one.

    Raises:
        ValueError, KeyError: it is no page, or one of a list without end.
    """
    found = [
        StoredObject(item["Key"], _size(item["Size"]), item["ETag"])
        for item in answer.get("Contents") or ()
    ]
    if any(not item.name.startswith(query["Prefix"]) for item in found):
        raise ValueError("an object that was not asked for")
    if not answer.get("IsTruncated"):
        return found, None
    token: str = answer["NextContinuationToken"]
    if not found or token == query.get("ContinuationToken"):
        raise ValueError("the list does not go on")
    return found, token


def _stated(head: Mapping[str, Any]) -> StoredObject:
    """An object without its name; raises ValueError or KeyError."""
    noted = (head.get("Metadata") or {}).get(DIGEST)
    opaque = tags.is_opaque(head)
    return StoredObject("", _size(head["ContentLength"]), head["ETag"], noted, opaque)


def _size(size: int) -> int:
    if size < 0:
        raise ValueError("a negative size")
    return size


def _tag_of_copy(answer: Mapping[str, Any]) -> str:
    tag = answer["CopyObjectResult"]["ETag"].strip('"')  # which not every server quotes here
    return f'"{tag}"'


def _part_size(path: Path) -> int:
    return max(PART, -(-path.stat().st_size // MAX_PARTS))


class _Pieces(io.RawIOBase):
    """An object, read in pieces, each of which is tried again by itself."""

    def __init__(self, store: S3Store, found: StoredObject, error: type[IntegrityError]) -> None:
        super().__init__()
        self._store = store
        self._found = found
        self._error = error
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as the object goes; 0 at the end."""
        view = memoryview(buffer)
        end = min(self._at + min(len(view), PIECE), self._found.size)
        if end == self._at:
            return 0
        piece = self._store.read_piece(self._found, self._at, end)
        if len(piece) != end - self._at:
            raise self._error(f"{self._found.name} changed while it was read.")
        view[: len(piece)] = piece
        self._at = end
        return len(piece)


class _Told(Callback):  # type: ignore[misc]
    """Passes on how many bytes were sent."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress

    def relative_update(self, inc: int = 1) -> None:
        """`inc` bytes more."""
        if self._progress is not None:
            self._progress(inc)


@contextmanager
def open_store(
    storage: ObjectStorage, credentials: Credentials, uri: StorageUri, *, patience: float = 0.0
) -> Iterator[S3Store]:
    """The store at an `s3://` address; connects with the first call.

    Args:
        storage: the server.
        credentials: the login.
        uri: bucket and prefix.
        patience: seconds for which each call is made again while the server is away.

    Raises:
        StorageMisconfigured: the CA bundle holds no certificate.
    """
    files = connect(storage, credentials)
    try:
        yield S3Store(files, storage.name, uri.place, uri.path, patience)
    finally:
        sync(files.loop, files.s3.close)
