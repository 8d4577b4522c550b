"""The only user of s3fs: an `ObjectStore` on any server that speaks S3.

What the library would do by itself and must not: look for other credentials, in files, the
environment or a cloud's metadata service; go on without any; follow a redirect, with a session
token in its hands; use a proxy; cache what it has read; quote a server's answer in an exception.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, cast

import s3fs
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import HTTPClientError
from fsspec.asyn import sync
from fsspec.callbacks import Callback

from securetrain.api.gateway import ObjectStorage
from securetrain.errors import IntegrityError, ManifestInvalid, StorageMisconfigured
from securetrain.storage import answers, tags
from securetrain.storage.credentials import Credentials
from securetrain.storage.objects import Progress, StoredObject
from securetrain.storage.uri import StorageUri

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
TRIES: Final = 2
"""Of the HTTP client within a request, and of s3fs with a request and with an answer's body."""
DEADLINE_SECONDS: Final = 120.0
"""Most seconds that one call may take, however slowly a server drips its bytes; uploads excepted,
each part of which has the time-outs above."""
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


class _Client(AIOHTTPSession):  # type: ignore[misc]
    """The HTTP client with our TLS, and without redirects.

    aiohttp would follow one anywhere; and to some, botocore answers with another request, and to
    a redirect of that with another again, until the stack is full.
    """

    tls: ssl.SSLContext

    def _build_ssl_contexts(self, _proxy_url: str | None) -> tuple[ssl.SSLContext, None]:
        return self.tls, None

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        return _Direct(session)

    async def send(self, request: Any) -> Any:
        """One exchange; raises `Redirected`, which is not tried again, or what botocore knows."""
        try:
            return await super().send(request)
        except HTTPClientError as failure:
            if isinstance(failure.kwargs.get("error"), answers.Redirected):
                raise answers.Redirected from None
            raise


@dataclass(frozen=True, slots=True)
class _Direct:
    """A session that goes where it is sent and nowhere else."""

    session: Any

    async def request(self, method: str, **options: Any) -> Any:
        """One exchange; raises `Redirected`."""
        response = await self.session.request(method, allow_redirects=False, **options)
        if response.status in answers.REDIRECTS:
            response.close()
            raise answers.Redirected
        return response


@dataclass(frozen=True, slots=True)
class S3Store:
    """A prefix of a bucket; `open_store` makes one. See `objects.ObjectStore`."""

    files: Any
    """The s3fs file system."""
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
            page = self._ask("list", prefix, "list_objects_v2", query)
            for item in page.get("Contents") or ():
                name = item["Key"].removeprefix(start)
                found.append(StoredObject(name, item["Size"], item["ETag"]))
            if not page.get("IsTruncated"):
                break
            query["ContinuationToken"] = page["NextContinuationToken"]
        return found[:limit]

    def stat(self, name: str) -> StoredObject | None:
        """An object's size and tag; None if there is none of that name."""
        head = self._ask("read", name, "head_object", self._place(name), unless=answers.MISSING)
        if head is None:
            return None
        noted = (head.get("Metadata") or {}).get(DIGEST)
        return StoredObject(name, head["ContentLength"], head["ETag"], noted, tags.is_opaque(head))

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

    def read_piece(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of an object; fewer, or none, if it has no more or is gone."""
        piece: bytes | None = self._try(
            "read",
            name,
            lambda: self.files.cat_file(
                self._path(name), start=start, end=end, timeout=DEADLINE_SECONDS
            ),
            unless=answers.MISSING | answers.PAST_END,
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
        part = _part_size(path)
        self._try(
            "write",
            name,
            lambda: self.files.put_file(
                str(path),
                self._path(name),
                callback=_Told(progress),
                chunksize=part,
                max_concurrency=PARALLEL,
                ContentType=CONTENT_TYPE,
                Metadata={} if sha256 is None else {DIGEST: sha256},
            ),
        )

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
        made = self._ask("write", name, "copy_object", query, unless=gone)
        if made is None:
            return None
        tag = made["CopyObjectResult"]["ETag"].strip('"')  # which not every server quotes here
        return StoredObject(name, source.size, f'"{tag}"')

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
    ) -> Any:
        return self._try(
            verb,
            name,
            lambda: self.files.call_s3(operation, timeout=DEADLINE_SECONDS, **query),
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
        piece = self._store.read_piece(self._found.name, self._at, end)
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
    files = s3fs.S3FileSystem(
        endpoint_url=storage.endpoint,
        key=credentials.access_key_id.reveal_text(),
        secret=credentials.secret_access_key.reveal_text(),
        token=credentials.session_token.reveal_text() if credentials.session_token else None,
        anon=False,
        client_kwargs={"region_name": storage.region, "verify": True},
        config_kwargs=_client_options(_tls(storage)),
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.retries = TRIES
    try:
        yield S3Store(files, storage.name, uri.place, uri.path, patience)
    finally:
        sync(files.loop, files.s3.close)


def _client_options(tls: ssl.SSLContext) -> dict[str, Any]:
    return {
        "http_session_cls": type("Client", (_Client,), {"tls": tls}),
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": TRIES, "mode": "standard"},
        "proxies": {},
        "signature_version": "s3v4",
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "ignore_configured_endpoint_urls": True,
    }


def _tls(storage: ObjectStorage) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=storage.ca)
    except (ssl.SSLError, ValueError):
        raise StorageMisconfigured(
            f"the ca of storage connection {storage.name} holds no certificate",
            fix="give the connection a PEM bundle",
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
