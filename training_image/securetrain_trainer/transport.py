"""One HTTPS exchange with a hard deadline, and the knowledge of whether the request went out.

The standard library alone: no proxies, no redirects, no environment, no connection pool. Whether
a failed request may have been acted on decides what the pod does next, so a failure before the
first byte of the request (`NotSent`) is told apart from one after it (`InDoubt`).
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from securetrain.errors import InvalidInput
from securetrain.tls import client_context

MAX_ANSWER: Final = 8 << 20
_RETRY_AFTER_MAX: Final = 60.0


class NotSent(Exception):
    """The peer could not be reached or did not prove who it is; nothing was asked."""


class InDoubt(Exception):
    """The request may have arrived; its answer did not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a complete answer."""

    status: int
    body: bytes
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Peer:
    """An HTTPS server that is trusted by a pinned CA only."""

    host: str
    port: int
    tls: ssl.SSLContext

    @classmethod
    def pinned(cls, url: str, ca_pem: str) -> Peer:
        """A peer from its URL and the PEM bundle that it is trusted by.

        Raises:
            InvalidInput: the URL is not `https://host:port`, or the bundle holds no certificate.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise InvalidInput("gateway.url", url, "is not https://host:port", fix="correct it")
        try:
            context = client_context(ca_pem)
        except ValueError:
            raise InvalidInput(
                "gateway.ca", ca_pem[:40], "holds no certificate", fix="give a PEM bundle"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
        return cls(parts.hostname, parts.port or 443, context)

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, deadline: float
    ) -> Answer:
        """Send one POST and read its answer.

        Args:
            path: absolute path of the resource.
            body: JSON.
            headers: besides Host and Content-Length.
            deadline: seconds that each of connecting and exchanging may take, however slowly
                the peer drips its bytes.

        Raises:
            NotSent: nothing was asked.
            InDoubt: the request may have been acted on.
        """
        connection = self._connect(deadline)
        cut = threading.Timer(deadline, _cut, [connection.sock])
        cut.daemon = True
        cut.start()
        try:
            connection.request("POST", path, body=body, headers=dict(headers))
            answer = _read(connection.getresponse())
            if cut.finished.is_set():
                raise InDoubt("the answer came too slowly")
            return answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InDoubt(type(error).__name__) from None
        finally:
            cut.cancel()
            connection.close()

    def _dial(self, deadline: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=deadline)

    def _wrapped(self, deadline: float) -> ssl.SSLSocket:
        """A connection before its handshake; the peer may have reset it already."""
        try:
            plain = self._dial(deadline)
        except OSError as error:
            raise NotSent(type(error).__name__) from None
        try:
            plain.getpeername()  # where this fails, wrap_socket would too, and leave it open
            return self.tls.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
        except (OSError, ValueError) as error:
            plain.close()
            raise NotSent(type(error).__name__) from None

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        secure = self._wrapped(deadline)
        cut = threading.Timer(deadline, _cut, [secure])
        cut.daemon = True
        cut.start()
        try:
            secure.do_handshake()
        except (OSError, ValueError) as error:
            secure.close()
            raise NotSent(type(error).__name__) from None
        finally:
            cut.cancel()
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = secure
        connection.auto_open = 0  # never open a second, unencrypted connection by itself
        return connection


def _read(response: http.client.HTTPResponse) -> Answer:
    """The whole answer; one whose end cannot be told from a cut is none."""
    if response.length is None and not response.chunked:
        raise InDoubt("the answer has no length")
    data = response.read(MAX_ANSWER + 1)
    if len(data) > MAX_ANSWER or response.length:
        raise InDoubt("the answer is too long, or was cut")
    return Answer(response.status, data, _seconds(response.getheader("Retry-After")))


def _cut(secure: ssl.SSLSocket) -> None:
    """Wake a thread that is blocked on the socket; past SSLSocket, which would forget its TLS."""
    try:
        socket.socket.shutdown(secure, socket.SHUT_RDWR)
    except OSError:
        return  # closed already: the exchange has ended by itself


def _seconds(text: str | None) -> float | None:
    if text is None or not text.strip().isdecimal():
        return None
    return min(float(text), _RETRY_AFTER_MAX)
