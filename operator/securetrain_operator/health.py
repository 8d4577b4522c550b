"""Probes for kubelet: `/livez` (or `/healthz`) restarts the process, `/readyz` ends its traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

Check = Callable[[], bool]


def application(live: Mapping[str, Check], ready: Mapping[str, Check]) -> web.Application:
    """Answers 200, or 503 with the names of the checks that fail."""
    app = web.Application()
    for path in ("/livez", "/healthz"):
        app.router.add_get(path, _probe(live))
    app.router.add_get("/readyz", _probe(ready))
    return app


def _probe(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def probe(_request: web.Request) -> web.Response:
        failing = [name for name, check in checks.items() if not check()]
        return web.json_response({"failing": failing}, status=503 if failing else 200)

    return probe
