"""A Vault that redirects, drips, breaks off, echoes or floods; an environment that interferes."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from localcluster.pki import Authority
from securetrain.api.gateway import KeyGrant
from securetrain.errors import (
    InvalidInput,
    SecuretrainError,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
    VaultUnavailable,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient
from securetrain.vault.unwrap import unwrap

DEADLINE = 3.0
"""Long enough for a busy machine to get a request to the server at all."""
FOR_EVER = 300
"""Drops of an answer, ten a second: as good as endless."""
TOKEN = "hvs.very-secret-token"
PLAIN = "cGxhaW50ZXh0LWtleS1pbi1hbi1lcnJvci10ZXh0"

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A loopback HTTPS server that does what a test says."""

    address: str
    ca_pem: str
    behaviour: Behaviour | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def client(self, **options: object) -> VaultClient:
        options.setdefault("deadline", 30.0)
        token = Secret.from_text(TOKEN)
        return VaultClient(self.address, self.ca_pem, token=token, **options)  # type: ignore[arg-type]


def serve(folder: Path) -> Iterator[Server]:
    authority = Authority(folder, "test-ca")
    pair = authority.issue("server", common_name="server", hosts=("127.0.0.1",))
    server: Server

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.path, dict(self.headers)))
            self.close_connection = True
            assert server.behaviour is not None
            try:
                server.behaviour(self)
            except OSError:
                return  # the client has gone, as it should

        do_GET = do_POST = do_DELETE = do_LIST = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    over = httpd.over = threading.Event()  # type: ignore[attr-defined]
    httpd.handle_error = lambda *_: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server = Server(f"https://127.0.0.1:{httpd.server_port}", authority.certificate.read_text())
    try:
        yield server
    finally:
        over.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from serve(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Server]:
    yield from serve(tmp_path / "two")


def answer(status: int, document: object, **headers: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps(document).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def drip(handler: BaseHTTPRequestHandler, drops: bytes) -> None:
    """One byte after the other, ten a second, until the test is over."""
    for drop in drops:
        handler.wfile.write(bytes([drop]))
        handler.wfile.flush()
        if handler.server.over.wait(0.1):  # type: ignore[attr-defined]
            return


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    drip(handler, b" " * FOR_EVER)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    drip(handler, b"HTTP/1.1 200 OK" + b"x" * FOR_EVER)


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": {')


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.server.over.wait(FOR_EVER / 10)  # type: ignore[attr-defined]


def flood(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b'{"data": {"x": "' + b"x" * (2 << 20) + b'"}}')


@pytest.mark.parametrize("behaviour", [drip_body, drip_headers, cut, hang, flood])
def test_a_broken_answer_is_in_doubt_and_within_the_deadline(
    server: Server, behaviour: Behaviour
) -> None:
    server.behaviour = behaviour
    start = time.monotonic()
    with server.client(deadline=DEADLINE) as client, pytest.raises(VaultUnavailable) as caught:
        client.write("transit/decrypt/kek", {}, wrap_ttl=30)
    assert time.monotonic() - start < 5 * DEADLINE  # half of what the drops take
    assert caught.value.in_doubt is True
    assert len(server.seen) == 1  # and nothing is sent twice


def test_a_refused_connection_is_not_in_doubt(server: Server) -> None:
    client = VaultClient("https://127.0.0.1:1", server.ca_pem)
    with client, pytest.raises(VaultUnavailable) as caught:
        client.read("sys/health")
    assert caught.value.in_doubt is False


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_and_no_token_leaves(
    server: Server, other: Server, status: int
) -> None:
    server.behaviour = answer(status, {}, Location=f"{other.address}/v1/transit/decrypt/kek")
    other.behaviour = answer(200, {"data": {}})
    with server.client() as client, pytest.raises(VaultRedirects, match="never followed"):
        client.write("transit/decrypt/kek", {}, wrap_ttl=30)
    assert server.seen[0][1]["X-Vault-Token"] == TOKEN
    assert other.seen == []


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, f"cipher: message authentication failed {PLAIN}", WrongKey),
        (400, f"bad input {PLAIN} {TOKEN}", VaultMisconfigured),
        (403, f"permission denied {PLAIN}", SecuretrainError),
        (500, f"internal {PLAIN}", VaultUnavailable),
        (503, f"Vault is sealed {PLAIN}", VaultSealed),
    ],
)
def test_no_error_repeats_what_vault_said(
    server: Server, status: int, text: str, kind: type[SecuretrainError]
) -> None:
    document = {"errors": [text], "data": {"batch_results": [{"plaintext": PLAIN}]}}
    server.behaviour = answer(status, document)
    with server.client() as client, pytest.raises(kind) as caught:
        client.write("transit/decrypt/kek", {"ciphertext": PLAIN})
    seen: list[BaseException | None] = [caught.value]
    while seen:
        error = seen.pop()
        if error is not None:
            assert PLAIN not in repr(error) + str(error) + repr(vars(error))
            assert TOKEN not in repr(error) + str(error) + repr(vars(error))
            seen += [error.__cause__, error.__context__]


def test_a_transport_error_holds_no_request(server: Server) -> None:
    server.behaviour = cut
    with server.client() as client, pytest.raises(VaultUnavailable) as caught:
        client.write("transit/decrypt/kek", {"ciphertext": PLAIN})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_answer_prints_nothing(server: Server) -> None:
    server.behaviour = answer(200, {"data": {"plaintext": PLAIN}})
    with server.client() as client:
        found = client.write("transit/decrypt/kek", {})
        assert PLAIN not in repr(found) + str(found)
        assert TOKEN not in repr(client)


def test_a_warning_is_an_error(server: Server) -> None:
    server.behaviour = answer(200, {"data": {}, "warnings": ["ignored [associated_dta]"]})
    with server.client() as client, pytest.raises(VaultMisconfigured, match="warning"):
        client.write("transit/decrypt/kek", {})


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"wrap_info": {"token": 3}}', '{"data": []}'])
def test_nonsense_is_refused(server: Server, text: str) -> None:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(text.encode())

    server.behaviour = behave
    with server.client() as client, pytest.raises(VaultUnavailable) as caught:
        client.write("transit/decrypt/kek", {})
    assert caught.value.in_doubt is True


@pytest.mark.parametrize("ttl", [0, -1, True, 3601, "30s"])
def test_a_wrapping_ttl_that_vault_reads_as_none_is_never_sent(server: Server, ttl: object) -> None:
    with server.client() as client, pytest.raises(InvalidInput):
        client.write("transit/decrypt/kek", {}, wrap_ttl=ttl)  # type: ignore[arg-type]
    assert server.seen == []


def test_the_unwrapping_token_is_in_the_header_only_and_sent_once(server: Server) -> None:
    made = {"creation_path": "t/decrypt/k", "creation_time": "2026-01-01T00:00:00.123456789Z"}

    def behave(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("lookup"):
            answer(200, {"data": {**made, "creation_ttl": 30}})(handler)
        else:
            cut(handler)

    server.behaviour = behave
    grant = KeyGrant(name="train", token=TOKEN, ttl=30, **made)
    with pytest.raises(VaultUnavailable) as caught:
        unwrap(server.address, server.ca_pem, grant, "t/decrypt/k", deadline=30.0)
    assert caught.value.in_doubt is True
    assert [path for path, _ in server.seen] == [
        "/v1/sys/wrapping/lookup",
        "/v1/sys/wrapping/unwrap",
    ]
    assert "X-Vault-Token" not in server.seen[0][1]
    assert server.seen[1][1]["X-Vault-Token"] == TOKEN
    assert server.seen[1][1]["Content-Length"] == "2"


@pytest.mark.parametrize(
    "found",
    [
        "2026-01-01T00:00:00.123456780Z",
        "2026-01-01T00:00:01.123456789Z",
        "2026-01-01T01:00:00.123456789Z",
        None,
    ],
)
def test_another_creation_time_down_to_the_nanosecond_is_refused(
    server: Server, found: str | None
) -> None:
    data = {"creation_path": "t/decrypt/k", "creation_time": found, "creation_ttl": 30}
    server.behaviour = answer(200, {"data": data})
    grant = KeyGrant(
        name="train",
        token=TOKEN,
        ttl=30,
        creation_path="t/decrypt/k",
        creation_time="2026-01-01T00:00:00.123456789Z",
    )
    with pytest.raises(SecuretrainError, match="another time"):
        unwrap(server.address, server.ca_pem, grant, "t/decrypt/k")
    assert len(server.seen) == 1


def test_another_ca_is_not_trusted_whatever_the_environment_says(
    server: Server, other: Server, tmp_path: Path
) -> None:
    server.behaviour = answer(200, {"data": {}})
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(server.ca_pem)
    script = (
        "import sys\n"
        "from securetrain.vault.client import VaultClient\n"
        "from securetrain.errors import VaultUnavailable\n"
        "with VaultClient(sys.argv[1], open(sys.argv[2]).read()) as client:\n"
        "    try:\n"
        "        print('answer', client.read('sys/health').data)\n"
        "    except VaultUnavailable as error:\n"
        "        print('refused', error.in_doubt, error)\n"
    )
    own, foreign = tmp_path / "own.pem", tmp_path / "foreign.pem"
    own.write_text(server.ca_pem)
    foreign.write_text(other.ca_pem)
    misleading = {
        name: str(bundle)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "VAULT_CACERT")
    } | {"HTTPS_PROXY": "http://127.0.0.1:1", "VAULT_TOKEN": "from-the-environment"}

    def run(ca: Path, environment: dict[str, str]) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, server.address, str(ca)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run(foreign, misleading).startswith("refused False Vault's certificate")
    bundle.write_text(other.ca_pem)
    assert run(own, misleading).startswith("answer")
    assert all("X-Vault-Token" not in headers for _, headers in server.seen)


def test_a_private_ca_is_the_only_trust(server: Server) -> None:
    server.behaviour = answer(200, {"data": {}})
    with server.client() as client:
        client.read("sys/health")
        adapter = client._session.get_adapter("https://x")
        context: ssl.SSLContext = adapter._context  # type: ignore[attr-defined]
        assert len(context.get_ca_certs()) == 1
        assert context.keylog_filename is None


@pytest.mark.parametrize("address", ["http://v:8200", "https://v:8200/path", "https://u:p@v", "v"])
def test_an_address_is_https_and_nothing_more(address: str) -> None:
    with pytest.raises(InvalidInput):
        VaultClient(address, None)


def test_a_ca_must_be_pem() -> None:
    with pytest.raises(VaultMisconfigured, match="PEM"):
        VaultClient("https://127.0.0.1:1", "nonsense")
