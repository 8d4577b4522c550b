"""A scripted HTTPS server on loopback: real TLS, answers as a test wants them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from localcluster.pki import Authority


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[Request, ssl.SSLSocket], None]


@dataclass
class TlsServer:
    """Serves one request per connection; `replies` are used in turn, the last one for ever."""

    folder: Path
    replies: list[Reply]
    host: str = "localhost"
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        authority = Authority(self.folder, "ca")
        pair = authority.issue("server", common_name="server", hosts=(self.host,))
        self.ca_pem = authority.certificate.read_text()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(20)
                with self._tls.wrap_socket(plain, server_side=True) as secure:
                    request = _read(secure)
                    reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
                    self.requests.append(request)
                    reply(request, secure)


def answer(status: int, body: bytes = b"", **headers: str) -> Reply:
    """A plain answer; `Retry_After="1"` becomes a header."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def reply(_request: Request, secure: ssl.SSLSocket) -> None:
        secure.sendall(data)

    return reply


def _read(secure: ssl.SSLSocket) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(secure)
    head, body = data.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    if headers.get("expect") == "100-continue":
        secure.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(body) < int(headers.get("content-length", "0")):
        body += _more(secure)
    return Request(first.split(" ")[1], headers, body)


def _more(secure: ssl.SSLSocket) -> bytes:
    chunk = secure.recv(65536)
    if not chunk:
        raise ConnectionError("the client went away")
    return chunk
