"""A TLS-terminating reverse proxy on loopback that can go wrong in every way that a test names.

It stands before a real API server, OpenBao or key gateway. What it is not told to spoil it forwards
unchanged: keep-alive, streamed watches, bearer tokens, and client certificates whose key it is
given. Rules say which requests meet which fault, and how often; `support.faults` has the faults.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

from localcluster.pki import Authority, KeyPair

MAX_HEAD = 1 << 20
START_SECONDS = 60
REMEMBERED = 2000
GONE = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, OSError)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    login: str = ""
    """Common name of the client's certificate, if it showed one."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.target or "watch=1" in self.target

    @property
    def json(self) -> Any:
        """The body, or an empty object if there is none that parses."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def raw(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


Matches = Callable[[Request], bool]
Fault = Callable[["Exchange"], Awaitable[None]]


@dataclass(slots=True)
class Rule:
    """Which requests meet a fault; `times` is how many of them still will, None for all."""

    matches: Matches
    fault: Fault
    times: int | None = 1
    hits: list[Request] = field(default_factory=list)

    def takes(self, request: Request) -> bool:
        if self.times == 0 or not self.matches(request):
            return False
        if self.times is not None:
            self.times -= 1
        self.hits.append(request)
        return True


class Exchange:
    """One request on its way; faults play with it."""

    def __init__(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        upstream: Upstream,
        gone: asyncio.Future[None],
    ) -> None:
        self.request = request
        self._writer = writer
        self._upstream = upstream
        self._gone = gone
        self.muted = False
        """Nothing is passed on to the client any more."""

    async def forward(self) -> None:
        """Pass the request on and its answer back, piece by piece as it comes."""
        async for piece in self.answer():
            await self.send(piece)

    async def answer(self) -> AsyncIterator[bytes]:
        """Pass the request on; the head of the answer, then pieces of its body as on the wire."""
        async for piece in self._upstream.ask(self.request):
            yield piece

    async def send(self, data: bytes) -> None:
        """Send raw bytes to the client."""
        if not self.muted:
            self._writer.write(data)
            await self._writer.drain()

    async def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """An answer of our own; `Retry_After="1"` becomes a header."""
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def drop(self) -> None:
        """Break the connection to the client."""
        self._writer.transport.abort()

    async def client_gone(self) -> None:
        """Wait until the client has closed the connection."""
        await asyncio.wait((self._gone,))

    async def until_gone(self, fault: Fault) -> None:
        """Let a fault play, for as long as the client is there."""
        work = asyncio.ensure_future(fault(self))
        try:
            await asyncio.wait((work, self._gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ConnectionResetError("the client has gone")
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


class Upstream:
    """The connection to the server that belongs to one client's connection."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext, name: str) -> None:
        self._address = (host, port)
        self._name = name
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection, made if there is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                *self._address, ssl=self._tls, server_hostname=self._name, limit=MAX_HEAD
            )
        return self._streams

    async def ask(self, request: Request) -> AsyncIterator[bytes]:
        """Send a request; the head of the answer, then pieces of the body."""
        reader, writer = await self.connect()
        writer.write(request.raw())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        yield head
        async for piece in _body(reader, head, request.method):
            yield piece
        if b"connection: close" in head.lower():
            self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class FaultProxy:
    """A proxy before one server.

    Args:
        folder: for its own CA and certificate.
        upstream: `https://host:port` of the server.
        upstream_ca: PEM text of the CA that the server is trusted by.
        server_name: the name in the server's certificate, if it is not the host of `upstream`.
        pair: the proxy's certificate and key, if not of a CA of its own.
        clients: CA of client certificates, and the key pairs to show upstream by common name.
    """

    def __init__(
        self,
        folder: Path,
        upstream: str,
        upstream_ca: str,
        *,
        server_name: str | None = None,
        pair: KeyPair | None = None,
        clients: tuple[Path, Mapping[str, KeyPair]] | None = None,
    ) -> None:
        authority = Authority(folder, "fault-proxy-ca")
        pair = pair or authority.issue("proxy", common_name="proxy", hosts=("127.0.0.1",))
        self.ca_file = authority.certificate
        self.rules: list[Rule] = []
        self.open: set[Exchange] = set()
        """Requests whose answers are under way, watches among them."""
        self.seen: deque[Request] = deque(maxlen=REMEMBERED)
        self.count = 0
        """How many requests came, in all."""
        self._upstream = urlsplit(upstream)
        self._upstream_ca = upstream_ca
        self._server_name = server_name
        self._logins = clients[1] if clients else {}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(pair.certificate, pair.key)
        if clients:
            self._tls.verify_mode = ssl.CERT_OPTIONAL
            self._tls.load_verify_locations(clients[0])
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def ca_pem(self) -> str:
        """The CA that clients must trust to be served here."""
        return self.ca_file.read_text()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def on(self, matches: Matches, fault: Fault, times: int | None = 1) -> Rule:
        """Let requests that match meet a fault; the first rule that takes a request has it."""
        rule = Rule(matches, fault, times)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Spoil nothing any more."""
        self.rules.clear()

    def each_open(self, matches: Matches, act: Fault) -> int:
        """Do something to every exchange under way that matches; how many there were."""

        async def all_of() -> int:
            found = [item for item in self.open if matches(item.request)]
            for item in found:
                await act(item)
            return len(found)

        return int(self._call(all_of()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    async def _start(self) -> None:
        self._loop.set_exception_handler(lambda *_: None)  # connections break: that is its work
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEAD)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0.05)  # so that whoever was let in last is among the tasks
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        raw = cast(asyncio.Transport, writer.transport)
        raw.pause_reading()  # before a byte is read: the handshake is read by `start_tls`
        try:
            await self._connected(reader, writer)
        except GONE:
            return
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection. While the server is away, it ends before the handshake."""
        upstream = self._connection("")
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await upstream.connect()
            await writer.start_tls(self._tls)
            gone = asyncio.ensure_future(writer.wait_closed())
            login = _common_name(writer)
            if login:
                upstream.close()
                upstream = self._connection(login)
            while (request := await _read(reader, login)) is not None:
                await self._serve(Exchange(request, writer, upstream, gone))
        finally:
            upstream.close()
            writer.transport.abort()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _serve(self, exchange: Exchange) -> None:
        """One request, until it is answered or the client has gone."""
        self.count += 1
        self.seen.append(exchange.request)
        rule = next((rule for rule in self.rules if rule.takes(exchange.request)), None)
        self.open.add(exchange)
        try:
            await exchange.until_gone(rule.fault if rule else Exchange.forward)
        finally:
            self.open.discard(exchange)

    def _connection(self, login: str) -> Upstream:
        context = ssl.create_default_context(cadata=self._upstream_ca)
        if login in self._logins:
            pair = self._logins[login]
            context.load_cert_chain(pair.certificate, pair.key)
        host, port = self._upstream.hostname, self._upstream.port
        assert host is not None
        assert port is not None
        return Upstream(host, port, context, self._server_name or host)


async def _read(reader: asyncio.StreamReader, login: str) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
    method, target, _ = first.split(" ", 2)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body, login)


async def _body(reader: asyncio.StreamReader, head: bytes, method: str) -> AsyncIterator[bytes]:
    first, *lines = head.decode("latin-1").lower().split("\r\n")
    status = int(first.split(" ")[1])
    headers = dict(line.split(": ", 1) for line in lines if line)
    if method == "HEAD" or status in (204, 304):
        return
    if headers.get("transfer-encoding") == "chunked":
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
        return
    left = int(headers["content-length"])
    while left:
        piece = await reader.read(left)
        if not piece:
            raise ConnectionResetError("the server broke off")
        left -= len(piece)
        yield piece


def _common_name(writer: asyncio.StreamWriter) -> str:
    certificate = writer.get_extra_info("peercert") or {}
    names = dict(item for part in certificate.get("subject", ()) for item in part)
    return str(names.get("commonName", ""))
