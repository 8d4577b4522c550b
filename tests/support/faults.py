"""The faults of a `FaultProxy`: each is what a server or a network can do to one request.

What comes before the request is forwarded surely changed nothing; what comes after it may have.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from support.fault_proxy import Exchange, Fault, FaultProxy, Matches, Request

REASONS = {
    409: "Conflict",
    410: "Expired",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def status(code: int, *, retry_after: int | None = None) -> Fault:
    """The API server refuses, and has done nothing."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    text = json.dumps(body | {"reason": REASONS[code], "message": "as the test wants it"})
    return answer(code, text, retry_after=retry_after)


def vault_errors(code: int, *errors: str) -> Fault:
    """Vault refuses with these texts, and has done nothing."""
    return answer(code, json.dumps({"errors": list(errors)}))


def answer(code: int, text: str, *, retry_after: int | None = None) -> Fault:
    """Answer by ourselves; nothing is forwarded."""
    more = {} if retry_after is None else {"Retry_After": str(retry_after)}

    async def fault(exchange: Exchange) -> None:
        await exchange.reply(code, text.encode(), Content_Type="application/json", **more)

    return fault


def slow(seconds: float) -> Fault:
    """Forward late."""

    async def fault(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await exchange.forward()

    return fault


async def drop_before(exchange: Exchange) -> None:
    """Break the connection before anything is forwarded."""
    exchange.drop()


async def drop_after(exchange: Exchange) -> None:
    """Let the server do its work, and break the connection before its answer."""
    async for _ in exchange.answer():
        pass
    exchange.drop()


def status_after(code: int) -> Fault:
    """Let the server do its work, and answer that it failed."""

    async def fault(exchange: Exchange) -> None:
        async for _ in exchange.answer():
            pass
        await status(code)(exchange)

    return fault


async def cut(exchange: Exchange) -> None:
    """Let the server do its work, and break the connection in the middle of its answer."""
    pieces = [piece async for piece in exchange.answer()]
    body = b"".join(pieces[1:])
    await exchange.send(pieces[0] + body[: len(body) // 2])
    exchange.drop()


def drip(pause: float, size: int = 1) -> Fault:
    """Let the server do its work, and pass its answer on in drops of `size` bytes."""

    async def fault(exchange: Exchange) -> None:
        async for piece in exchange.answer():
            for start in range(0, len(piece), size):
                await exchange.send(piece[start : start + size])
                await asyncio.sleep(pause)

    return fault


def edit(change: Callable[[dict[str, Any]], None]) -> Fault:
    """Let the server do its work, and change its JSON answer on the way."""

    async def fault(exchange: Exchange) -> None:
        pieces = [piece async for piece in exchange.answer()]
        document = json.loads(b"".join(pieces[1:]))
        change(document)
        await answer(200, json.dumps(document))(exchange)

    return fault


async def swallow(exchange: Exchange) -> None:
    """Let the server do its work, and say nothing: a connection that only looks alive."""
    async for _ in exchange.answer():
        pass
    await exchange.client_gone()


def redirect(code: int, host: str) -> Fault:
    """Send the client to the same path at another server."""

    async def fault(exchange: Exchange) -> None:
        await exchange.reply(code, Location=host + exchange.request.target)

    return fault


async def forward(exchange: Exchange) -> None:
    """No fault."""
    await exchange.forward()


def drop_watches(proxy: FaultProxy, matches: Matches = lambda _: True) -> int:
    """Break the watches under way; how many there were."""

    async def drop(exchange: Exchange) -> None:
        exchange.drop()

    return proxy.each_open(lambda request: request.is_watch and matches(request), drop)


def expire_watches(proxy: FaultProxy, matches: Matches = lambda _: True) -> int:
    """End the watches under way as the API server does when their version is too old."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410}
    event = {"type": "ERROR", "object": body | {"reason": "Expired", "message": "too old"}}
    line = json.dumps(event).encode() + b"\n"

    async def expire(exchange: Exchange) -> None:
        await exchange.send(f"{len(line):x}\r\n".encode() + line + b"\r\n0\r\n\r\n")
        exchange.drop()

    return proxy.each_open(lambda request: request.is_watch and matches(request), expire)


def silence_watches(proxy: FaultProxy) -> None:
    """Let the watches under way live on, and pass on nothing that comes."""

    async def mute(exchange: Exchange) -> None:
        exchange.muted = True

    proxy.each_open(lambda request: request.is_watch, mute)


def any_of(choice: random.Random, faults: Sequence[Fault]) -> Fault:
    """One of the faults, by chance, anew for each request."""

    async def fault(exchange: Exchange) -> None:
        await choice.choice(faults)(exchange)

    return fault


def write_of(path: str, name: str, method: str = "POST") -> Matches:
    """Requests that write an object of that name, or of one that is about it."""

    def matches(request: Request) -> bool:
        if request.method != method or path not in request.path:
            return False
        metadata = request.json.get("metadata") or {}
        about = (request.json.get("involvedObject") or {}).get("name")
        named = (metadata.get("name"), about, *(metadata.get("labels") or {}).values())
        return name in named or name in request.path.split("/")

    return matches
