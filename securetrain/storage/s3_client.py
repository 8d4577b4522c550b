"""The one client of S3: s3fs, and what it would do by itself and must not.

That is: look for other credentials, in files, the environment or a cloud's metadata service; go on
without any; follow a redirect, with a session token in its hands; use a proxy; cache what it has
read; take as many bytes as a server likes to send.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import s3fs
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientPayloadError, ClientTimeout
from botocore.exceptions import HTTPClientError
from fsspec.asyn import sync_wrapper

from securetrain.api.gateway import ObjectStorage
from securetrain.errors import StorageMisconfigured
from securetrain.storage import answers
from securetrain.storage.credentials import Credentials
from securetrain.tls import client_context

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
COPY_SECONDS: Final = 600
"""Most seconds between two bytes of the answer to a copy: the server first copies up to 5 GiB."""
TRIES: Final = 2
"""Of the HTTP client within a request, and of s3fs with a request and with an answer's body."""
MAX_ANSWER: Final = 16 << 20
"""Bytes of an answer that is no object: a page of a thousand names has less than a third of it."""


class Files(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with a read that is bounded, and a failed upload that says why."""

    async def _piece(self, query: Mapping[str, Any], size: int) -> bytes:
        for _ in range(TRIES - 1):
            with contextlib.suppress(*answers.CUT):
                return await self._piece_once(query, size)
        return await self._piece_once(query, size)

    async def _piece_once(self, query: Mapping[str, Any], size: int) -> bytes:
        answer = await self._call_s3("get_object", **query)
        body = answer["Body"]
        try:
            return await _at_most(body, size + 1)
        finally:
            body.close()

    piece = sync_wrapper(_piece)
    """The answer to a GetObject, of which at most `size` bytes and one more are read."""

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """Give up the parts of an upload that has failed, as far as the server lets us.

        Called while the reason of that is on its way up, which a second failure would hide. Parts
        that stay are no object; a lifecycle rule of the bucket clears them away.
        """
        with contextlib.suppress(*answers.FAILURES):
            await super()._abort_mpu(bucket, key, mpu)


async def _at_most(stream: Any, size: int) -> bytes:
    """Bytes of a stream until its end, or until there are `size` of them."""
    data = bytearray()
    while len(data) < size and (more := await stream.read(size - len(data))):
        data += more
    return bytes(data)


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

    def _get_request_timeout(self, request: Any) -> ClientTimeout | None:
        if "x-amz-copy-source" not in request.headers:
            return None
        return ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=COPY_SECONDS)


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
        return _Bounded(response)


@dataclass(frozen=True, slots=True)
class _Bounded:
    """An answer that is read whole only if it is of a bearable length."""

    response: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.response, name)

    async def read(self) -> bytes:
        """All of it; raises `ClientPayloadError`, as for one that is cut."""
        body = await _at_most(self.response.content, MAX_ANSWER + 1)
        if len(body) > MAX_ANSWER:
            self.response.close()
            raise ClientPayloadError
        return body


def connect(storage: ObjectStorage, credentials: Credentials) -> Files:
    """The file system of a server; connects with the first call, and is closed by the caller.

    Raises:
        StorageMisconfigured: the CA bundle holds no certificate.
    """
    files = Files(
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
    return files


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
        return client_context(storage.ca)
    except ValueError:
        raise StorageMisconfigured(
            f"the ca of storage connection {storage.name} holds no certificate",
            fix="give the connection a PEM bundle",
        ) from None
