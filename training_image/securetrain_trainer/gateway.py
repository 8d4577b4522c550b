"""The pod's side of the key gateway's protocol.

A grant is asked for once: an answer that is lost may have spent the grant, so the pod gives up
(`GrantLost`) and a new pod asks anew. Results and progress may be repeated, because the gateway
takes them idempotently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from securetrain import errors
from securetrain.api import names
from securetrain.api.digest import canonical_json
from securetrain.api.gateway import (
    Endpoint,
    GrantRequest,
    GrantResponse,
    Problem,
    ProgressReport,
    ResultsRequest,
    ResultsResponse,
)
from securetrain.api.types import Model
from securetrain.errors import (
    BadConfiguration,
    GatewayUnavailable,
    GrantLost,
    IntegrityError,
    SecuretrainError,
    TryAgain,
)
from securetrain_trainer.log import log
from securetrain_trainer.transport import Answer, InDoubt, NotSent, Peer

PATIENCE: Final = 600.0
DEADLINE: Final = 60.0
PROGRESS_DEADLINE: Final = 5.0
PAUSE: Final = 5.0
WAIT_STATUSES: Final = frozenset({401, 429, 503})
"""Nothing was done: the token was between two rotations, the caller too quick, or Vault away."""
MAX_TOKEN: Final = 16_384

_Answered = TypeVar("_Answered", bound=Model)


class Gateway:
    """The three calls that a pod makes.

    Args:
        endpoint: URL and pinned CA, as told in the RunSpec.
        token_file: the projected token; read anew for each call, for kubelet renews it.
        patience: seconds for which an unavailable gateway is waited for.
        sleep: waits some seconds.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token_file: Path = Path(names.TOKEN_FILE),
        patience: float = PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = Peer.pinned(endpoint.url, endpoint.ca)
        self._token_file = token_file
        self._patience = patience
        self._sleep = sleep
        self._clock = clock

    def grant(self, request: GrantRequest) -> GrantResponse:
        """Ask for the pod's keys, once.

        Raises:
            GrantLost: the answer was lost, or this pod was granted its keys before.
            GatewayUnavailable: the gateway or Vault stayed away.
            SecuretrainError: whatever the gateway refused with.
        """
        try:
            answer = self._ask("/v1/grants", request, repeat=False)
        except InDoubt:
            raise GrantLost("the gateway's answer to the request for keys was lost") from None
        if answer.status == 409:
            raise GrantLost("the gateway has granted this pod's keys before, and they are not here")
        if answer.status >= 500:
            raise GrantLost(f"the gateway failed ({answer.status}) while it granted keys")
        return _parsed(GrantResponse, answer)

    def results(self, request: ResultsRequest) -> ResultsResponse:
        """Report what the phase produced; raises as `grant` does, but for GrantLost."""
        answer = self._ask("/v1/results", request, repeat=True)
        return _parsed(ResultsResponse, answer)

    def progress(self, report: ProgressReport) -> None:
        """Report progress, in one quick try.

        Raises:
            GatewayUnavailable: it did not get through; the next report will do.
            SecuretrainError: the gateway refused it.
        """
        try:
            answer = self._post("/v1/progress", report, PROGRESS_DEADLINE)
        except (NotSent, InDoubt) as error:
            raise GatewayUnavailable(f"progress was not reported ({error})") from None
        if answer.status != 204:
            raise error_of(answer)

    def _ask(self, path: str, request: Model, *, repeat: bool) -> Answer:
        """Ask until the answer is not `wait`; InDoubt passes through unless `repeat`."""
        failure: SecuretrainError = GatewayUnavailable("the gateway was not asked")
        for pause in self._pauses():
            wait = pause
            try:
                answer = self._post(path, request, DEADLINE)
            except NotSent as error:
                failure = GatewayUnavailable(f"the key gateway cannot be reached ({error})")
            except InDoubt as error:
                if not repeat:
                    raise
                failure = GatewayUnavailable(f"the key gateway does not answer ({error})")
            else:
                if not _asks_to_wait(answer, repeat=repeat):
                    return answer
                failure = error_of(answer)
                wait = answer.retry_after or pause
            log("gateway.wait", reason=failure.reason, message=failure.message)
            self._sleep(wait)
        raise failure if isinstance(failure, TryAgain) else GatewayUnavailable(failure.message)

    def _pauses(self) -> Iterator[float]:
        end = self._clock() + self._patience
        while True:
            yield PAUSE
            if self._clock() >= end:
                return

    def _post(self, path: str, request: Model, deadline: float) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        return self._peer.post(path, canonical_json(request.to_wire()), headers, deadline=deadline)

    def _token(self) -> str:
        try:
            with self._token_file.open("rb") as file:
                token = file.read(MAX_TOKEN).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfiguration(
                f"the pod's token cannot be read ({type(error).__name__}).",
                fix="leave the pod's projected volume as the operator made it",
            ) from None
        if not token or any(c.isspace() for c in token):
            raise BadConfiguration("the pod's token file does not hold one token")
        return token


def error_of(answer: Answer) -> SecuretrainError:
    """The error that a problem document names, else one that fits the status."""
    try:
        problem = Problem.model_validate_json(answer.body)
        reason, detail = problem.reason, problem.detail[:500]
    except ValidationError:
        reason, detail = "", f"the key gateway answered {answer.status}"
    named = _reasons(SecuretrainError).get(reason)
    if named is not None:
        return named(detail)
    if errors.exit_code_of(reason) == errors.ExitCode.INTEGRITY:  # one of the operator's own
        return IntegrityError(detail)
    by_status: dict[int, type[SecuretrainError]] = {
        401: GatewayUnavailable,
        403: errors.NotOurPod,
        409: errors.AlreadyGranted,
        422: errors.ManifestInvalid,
        429: GatewayUnavailable,
    }
    otherwise = GatewayUnavailable if answer.status >= 500 else IntegrityError
    return by_status.get(answer.status, otherwise)(detail)


def _asks_to_wait(answer: Answer, *, repeat: bool) -> bool:
    return answer.status in WAIT_STATUSES or (repeat and answer.status >= 500)


def _reasons(base: type[SecuretrainError]) -> dict[str, Callable[[str], SecuretrainError]]:
    found: dict[str, Callable[[str], SecuretrainError]] = {}
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__ and kind is not errors.InvalidInput:
            found[kind.__name__] = kind
        found.update(_reasons(kind))
    found.setdefault(errors.InvalidInput.__name__, BadConfiguration)
    return found


def _parsed(kind: type[_Answered], answer: Answer) -> _Answered:
    if not 200 <= answer.status < 300:
        raise error_of(answer)
    try:
        return kind.model_validate_json(answer.body)
    except ValidationError:  # its text would quote the tokens
        raise errors.GrantTampered(
            "the key gateway's answer is not what the protocol says"
        ) from None
