"""The key gateway as an aiohttp application: routes, limits, and errors as problem documents.

Every call goes the same way: rate limit, then who calls and whether it is the pod that was
launched, and only then is the body looked at. Nothing that a caller sent comes back or is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aiohttp import web
from pydantic import ValidationError

from securetrain.api.gateway import (
    MAX_BODY_BYTES,
    GrantRequest,
    ProgressReport,
    ResultsRequest,
)
from securetrain.api.types import Model
from securetrain.errors import (
    AlreadyGranted,
    GatewayUnavailable,
    GrantLost,
    InvalidInput,
    Refused,
    SecuretrainError,
)
from securetrain_operator.errors import AlreadyReported
from securetrain_operator.gateway import problems
from securetrain_operator.gateway.context import Services, failing, showing_waits
from securetrain_operator.gateway.gatekeeper import Gatekeeper
from securetrain_operator.gateway.grants import Grants
from securetrain_operator.gateway.limits import PeerLimiter
from securetrain_operator.gateway.refusals import Refusals, to_stdout
from securetrain_operator.gateway.results import Results
from securetrain_operator.logs import describe
from securetrain_operator.ports import (
    Clock,
    Cluster,
    Events,
    GrantBoard,
    ProgressBoard,
    Records,
    Vault,
    Wakeup,
)
from securetrain_operator.settings import Settings

REQUEST_SECONDS: Final = 50.0
CALLS_PER_SECOND: Final = 2.0
BURST: Final = 20
SHARED_ADDRESS: Final = 20
GRANTS: Final = "/v1/grants"
HEALTH: Final = "/healthz"

logger = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ModelT = TypeVar("ModelT", bound=Model)


class Gateway:
    """The key gateway; TLS is whoever runs the application's."""

    def __init__(
        self,
        cluster: Cluster,
        records: Records,
        vault: Vault,
        events: Events,
        progress: ProgressBoard,
        board: GrantBoard,
        wakeup: Wakeup,
        settings: Settings,
        clock: Clock,
        *,
        refusals: Refusals = to_stdout,
        request_seconds: float = REQUEST_SECONDS,
        calls_per_second: float = CALLS_PER_SECOND,
    ) -> None:
        self._services = Services(cluster, records, vault, events, board, wakeup, settings, clock)
        self._progress = progress
        self._gatekeeper = Gatekeeper(cluster, records, settings, clock)
        self._grants = Grants(self._services)
        self._results = Results(self._services)
        # Behind one address many pods share a bucket.
        share = SHARED_ADDRESS if settings.peer_address_hidden else 1
        self._limiter = PeerLimiter(
            clock.now, per_second=calls_per_second * share, burst=BURST * share
        )
        self._refusals = refusals
        self._request_seconds = request_seconds

    def application(self) -> web.Application:
        """A new application with the gateway's routes."""
        application = web.Application(middlewares=[self._guarded], client_max_size=MAX_BODY_BYTES)
        application.router.add_get(HEALTH, self._health)
        application.router.add_post(GRANTS, self._post_grants)
        application.router.add_post("/v1/progress", self._post_progress)
        application.router.add_post("/v1/results", self._post_results)
        return application

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _post_grants(self, request: web.Request) -> web.Response:
        pod = await self._gatekeeper.admit(request.headers.get("Authorization"), request.remote)
        body = await _body(request)
        async with failing(self._services, pod), showing_waits(self._services, pod):
            return _json(await self._grants.issue(pod, parse(GrantRequest, body)))

    async def _post_progress(self, request: web.Request) -> web.Response:
        pod = await self._gatekeeper.admit(request.headers.get("Authorization"), request.remote)
        report = parse(ProgressReport, await _body(request))
        time = self._services.clock.rfc3339()
        if not self._progress.put(pod.uid, pod.caller.pod_uid, report, time):
            raise AlreadyReported("this sequence number, or a later one, was reported before")
        self._services.wakeup.enqueue(pod.uid)
        return web.Response(status=204)

    async def _post_results(self, request: web.Request) -> web.Response:
        pod = await self._gatekeeper.admit(
            request.headers.get("Authorization"), request.remote, ended_too=True
        )
        body = await _body(request)
        async with failing(self._services, pod):
            return _json(await self._results.accept(pod, parse(ResultsRequest, body)))

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Limits before, and problem documents after every handler."""
        try:
            if request.path != HEALTH:
                self._limiter.take(request.remote or "")
            async with asyncio.timeout(self._request_seconds):
                return await handler(request)
        except web.HTTPException as error:
            return problems.from_http(error)
        except TimeoutError:
            return problems.from_error(_too_slow(request))
        except SecuretrainError as error:
            self._note(request, error)
            return problems.from_error(error)
        except Exception as error:
            logger.error("unexpected %s", describe(error))
            return problems.bug()

    def _note(self, request: web.Request, error: SecuretrainError) -> None:
        """Refusals are told to the operator's people; what is merely waited for is not."""
        if isinstance(error, Refused) and not isinstance(error, AlreadyGranted | AlreadyReported):
            self._refusals(
                {
                    "time": self._services.clock.rfc3339(),
                    "path": request.path,
                    "peer": request.remote or "",
                    "reason": error.reason,
                    "message": error.message,
                }
            )


async def _body(request: web.Request) -> bytes:
    """What the caller sent; raises GatewayUnavailable if it has gone and none hears the answer."""
    try:
        return await request.read()
    except ConnectionError:
        raise GatewayUnavailable("the caller has gone") from None


def parse(model: type[ModelT], body: bytes) -> ModelT:
    """A request body; raises InvalidInput that names a known field at most, never what was sent."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        place = str(details[0]["loc"][0]) if details[0]["loc"] else ""
        known = {field.alias or name for name, field in model.model_fields.items()}
        field = place if place in known else "body"
        raise InvalidInput(
            field, model.__name__, "is not valid", fix="send what the gateway's protocol demands"
        ) from None


def _json(answer: Model) -> web.Response:
    text = answer.model_dump_json(by_alias=True, exclude_none=True)
    return web.Response(
        text=text, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _too_slow(request: web.Request) -> SecuretrainError:
    """A grant that ran out of time may be recorded already: only a new pod can be sure."""
    if request.path == GRANTS:
        return GrantLost("the grant took too long", fix="start a new pod")
    return GatewayUnavailable("the gateway took too long", fix="ask again")
