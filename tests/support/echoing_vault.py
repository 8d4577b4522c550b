"""A Vault whose error texts give away all that it was asked and all that it answered."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from localcluster import https, network
from localcluster.openbao import OpenBao
from localcluster.pki import Authority

UNWRAP = "/v1/sys/wrapping/unwrap"
DECRYPT = "/v1/transit/decrypt/"
_HOP = frozenset({"host", "content-length", "connection", "accept-encoding"})


class EchoingVault:
    """Passes everything on to the real server, but for two answers.

    The first decryption that succeeds is answered with 429, which asks to come again, and every
    unwrap with 400, each with request, credentials and the real answer in its error text.
    """

    def __init__(self, openbao: OpenBao) -> None:
        self._openbao = openbao
        self.echoed: list[str] = []
        handler = type("Handler", (_Handler,), {"vault": self})
        self._server = ThreadingHTTPServer((network.HOST, 0), handler)
        authority = Authority(openbao.ca_file.parent, "openbao-ca")
        pair = authority.issue("echo", common_name="echo", hosts=(network.HOST,))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pair.certificate, pair.key)
        # Hands are shaken in a caller's own thread: one that falls silent holds up nobody else.
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        """Its URL for pods."""
        return f"https://{network.HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """The real answer, or the same as an error that quotes it."""
        content = json.loads(body) if body else None
        url = f"{self._openbao.address}{path}"
        status, real = https.request(
            method, url, ca=self._openbao.ca_file, body=content, headers=headers, seconds=60
        )
        seen = any(DECRYPT in text for text in self.echoed)
        first = path.startswith(DECRYPT) and status == 200 and not seen
        if path != UNWRAP and not first:
            return status, real
        text = f"cannot handle {path} {body.decode()} {json.dumps(headers)}: {real.decode()}"
        self.echoed.append(text)
        return 429 if first else 400, json.dumps({"errors": [text]}).encode()


class _Handler(BaseHTTPRequestHandler):
    vault: EchoingVault

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        status, answer = self.vault.answer(self.command, self.path, body, headers)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *_arguments: object) -> None:
        """Nothing: what it would say belongs nowhere."""
