"""HTTPS as Vault's answers need it: pinned trust, no redirect, bounded size, a hard deadline.

`requests` alone gives none of these. It adds its public CAs to a private one, lets
`REQUESTS_CA_BUNDLE` replace what was asked for, sends proxies the token, and its timeout is per
socket read, so a dripping answer holds a caller for as long as it likes.
"""

from __future__ import annotations

import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import requests
from requests.adapters import HTTPAdapter

from securetrain.api.names import CORRELATION_HEADER
from securetrain.errors import VaultMisconfigured, VaultUnavailable
from securetrain.tls import client_context

MAX_ANSWER_BYTES: Final = 1 << 20
CHUNK: Final = 1 << 14

T = TypeVar("T")


class RawAnswer(NamedTuple):
    """Status and body of an HTTP answer."""

    status: int
    body: bytes


def _tls(ca_pem: str | None) -> ssl.SSLContext:
    try:
        return client_context(ca_pem)
    except ValueError:
        raise VaultMisconfigured(
            "the CA bundle for Vault is not PEM", fix="give the CA's certificate as PEM text"
        ) from None


class _PinnedAdapter(HTTPAdapter):
    """Uses our TLS context and nothing besides."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        # The inherited method would load the public CAs of `certifi` into our context.
        conn.cert_reqs = "CERT_REQUIRED"
        conn.ca_certs = conn.ca_cert_dir = None


def session(ca_pem: str | None) -> requests.Session:
    """A session that speaks HTTPS only, and trusts and reads nothing of its environment."""
    made = requests.Session()
    made.trust_env = False
    made.adapters.clear()
    made.mount("https://", _PinnedAdapter(_tls(ca_pem)))
    return made


def read_bounded(response: requests.Response, deadline: float) -> RawAnswer:
    """Read a streamed answer.

    Raises:
        VaultUnavailable: in doubt; it is longer than MAX_ANSWER_BYTES, or not read to its end by
            `deadline` (monotonic clock).
    """
    body = bytearray()
    for chunk in _chunks(response):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise VaultUnavailable("Vault's answer is too long", in_doubt=True)
        if time.monotonic() > deadline:
            raise VaultUnavailable("Vault's answer is too slow", in_doubt=True)
    return RawAnswer(response.status_code, bytes(body))


def _chunks(response: requests.Response) -> Iterator[bytes]:
    return response.iter_content(CHUNK)


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or VaultUnavailable (in doubt) once `seconds` have passed.

    Name resolution, connecting and reading headers have no other total limit, so the call runs in
    a thread of its own that is left to its end when it is late. What it raises is translated
    before it is raised here, so that no error holds on to a request with its token.
    """
    results: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put(call())
        except Exception as error:
            results.put(error)

    threading.Thread(target=work, name="vault-call", daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        result = VaultUnavailable(
            f"Vault did not answer within {seconds:g} s",
            fix="look at Vault's load and at the network between",
            in_doubt=True,
        )
    if isinstance(result, requests.RequestException):
        raise failure(result)
    if isinstance(result, Exception):
        raise result
    return result


def failure(error: requests.RequestException) -> VaultUnavailable:
    """Our error for a failed exchange; in doubt unless nothing can have been sent."""
    causes = tuple(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return VaultUnavailable(
            "Vault's certificate is not one that the configured CA vouches for",
            fix="check Vault's address and CA",
        )
    unsent = isinstance(error, requests.ConnectTimeout) or any(
        type(cause).__name__ in ("NewConnectionError", "NameResolutionError") for cause in causes
    )
    what = "cannot be reached" if unsent else "broke the connection or answered too slowly"
    return VaultUnavailable(
        f"Vault {what}",
        fix="check that Vault runs and that the network lets it be reached",
        in_doubt=not unsent,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, in whichever way `requests` and `urllib3` wrap."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            waiting += [*item.args, item.__cause__, item.__context__]
            waiting.append(getattr(item, "reason", None))


def headers(wrap_ttl: int | None, correlation: str | None) -> Mapping[str, str]:
    """Request headers besides the token's."""
    made = {"Accept-Encoding": "identity"}
    if wrap_ttl is not None:
        made["X-Vault-Wrap-TTL"] = f"{wrap_ttl}s"
    if correlation is not None:
        made[CORRELATION_HEADER] = correlation
    return made
