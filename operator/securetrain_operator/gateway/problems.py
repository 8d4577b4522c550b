"""Errors as RFC 9457 problem documents: one table of status codes, and nothing that was sent.

What a stranger is told is constant, so that it learns nothing about why; the log has the details.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web

from securetrain.api.gateway import Problem
from securetrain.errors import (
    AlreadyGranted,
    BadConfiguration,
    InvalidInput,
    ManifestInvalid,
    NotOurPod,
    SecuretrainError,
    TryAgain,
    VaultClockSkew,
    VaultDenied,
)
from securetrain_operator.errors import (
    AlreadyReported,
    ApiDenied,
    BadToken,
    NotReady,
    RecordFull,
    TooManyRequests,
)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 10
SOON_SECONDS: Final = 2

_STATUS: Final[tuple[tuple[type[SecuretrainError], int], ...]] = (
    (BadToken, 401),
    (AlreadyGranted, 409),
    (AlreadyReported, 409),
    (InvalidInput, 422),
    (ManifestInvalid, 422),
    (TooManyRequests, 429),
    (RecordFull, 403),
    # Ours to mend, not the pod's: it waits.
    (TryAgain, 503),
    (VaultDenied, 503),
    (VaultClockSkew, 503),
    (ApiDenied, 503),
    (BadConfiguration, 503),
)
_CONSTANT: Final[tuple[tuple[type[SecuretrainError], str], ...]] = (
    (BadToken, "The bearer token is not valid here."),
    (NotOurPod, "The caller is not a pod that this operator launched and that may ask this now."),
)


def status_of(error: SecuretrainError) -> int:
    """HTTP status of an error; 403 where the table says nothing."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 403)


def from_error(error: SecuretrainError) -> web.Response:
    """The problem document of one of our errors."""
    constant = next((text for kind, text in _CONSTANT if isinstance(error, kind)), None)
    status = status_of(error)
    response = problem(status, error.reason, constant or str(error))
    if status in (429, 503):
        soon = isinstance(error, NotReady | TooManyRequests)
        response.headers["Retry-After"] = str(SOON_SECONDS if soon else RETRY_SECONDS)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def from_http(error: web.HTTPException) -> web.Response:
    """The problem document of what aiohttp itself refused: a path, a method, a length."""
    title = HTTPStatus(error.status).phrase
    response = problem(error.status, title.title().replace(" ", "").replace("-", ""), title)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def bug() -> web.Response:
    """The problem document of an error that nobody foresaw; it says nothing on purpose."""
    return problem(500, "InternalError", "The gateway failed; its log says where.")


def problem(status: int, reason: str, detail: str) -> web.Response:
    """A problem document as a response."""
    document = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, reason=reason)
    return web.Response(
        status=status,
        body=document.model_dump_json(by_alias=True).encode(),
        content_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store"},
    )
