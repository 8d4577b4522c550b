"""What a failed call to an object store means, in our own words.

A server's text is never quoted: it may repeat what it was sent. Only its status, and its code if
S3 defines it, are told.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import ClientError as ClientFailure
from botocore.exceptions import BotoCoreError, SSLError
from botocore.parsers import ResponseParserError
from s3fs.errors import ERROR_CODE_TO_EXCEPTION

from securetrain.errors import (
    SecuretrainError,
    StorageDenied,
    StorageFull,
    StorageMisconfigured,
    StorageUnavailable,
)


class Redirected(Exception):
    """The server sent us elsewhere, and we did not go."""


CUT: Final = (BotoCoreError, ClientFailure)
"""What an answer ends with that was not whole."""
_MALFORMED: Final = (LookupError, TypeError, ValueError, AttributeError, ResponseParserError)
"""What reading an answer ends with that lacks what S3 promises."""
FAILURES: Final = (OSError, Redirected, *CUT, *_MALFORMED)
"""What s3fs raises, and who reads what it returns; time-outs are among the first."""

MISSING: Final = frozenset({"NoSuchKey", "404"})
CHANGED: Final = frozenset({"PreconditionFailed", "412"})
PAST_END: Final = frozenset({"InvalidRange", "416"})
_DENIED: Final = frozenset(
    {"ExpiredToken", "InvalidToken", "InvalidClientTokenId", "TokenRefreshRequired"}
)
_FULL: Final = frozenset({"QuotaExceeded", "StorageFull", "XMinioStorageFull"})
_AWAY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
)
"""The last one says that two wrote at once, and that neither condition was judged."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TOO_MANY: Final = 429
_INSUFFICIENT_STORAGE: Final = 507
_SERVER: Final = 500
_NOT_IMPLEMENTED: Final = 501


def code_of(failure: BaseException) -> str:
    """The server's own code, such as `NoSuchKey`; empty if there was no answer."""
    answer = _answer(failure)
    return str((answer.get("Error") or {}).get("Code") or "")


def error_of(failure: BaseException, what: str, where: str, connection: str) -> SecuretrainError:
    """The error that a failed call stands for.

    Args:
        failure: one of `FAILURES`.
        what: what could not be done, such as `shards/…: cannot be read`.
        where: bucket and prefix.
        connection: name of the storage connection.
    """
    told = f"{what} in {where} (storage connection {connection})"
    code, status = code_of(failure), _status(failure)
    if isinstance(failure, Redirected):
        fix = "give the connection the endpoint and region that serve the bucket"
        return StorageMisconfigured(f"{told}: the server sends its callers elsewhere", fix=fix)
    if status is None:
        return _unreachable(failure, told)
    shown = f"{told}: the server answered {status}"
    shown += f" {code}" if code in ERROR_CODE_TO_EXCEPTION and not code.isdecimal() else ""
    if status == _INSUFFICIENT_STORAGE or code in _FULL:
        return StorageFull(shown, fix="make room in the bucket, or raise its quota")
    if status in (401, 403) or code in _DENIED:
        fix = "check the login in the credentials Secret, the bucket's policy, and the clocks"
        return StorageDenied(shown, fix=fix)
    away = status >= _SERVER and status != _NOT_IMPLEMENTED
    if away or status == _TOO_MANY or code in _AWAY:
        return StorageUnavailable(shown)
    return StorageMisconfigured(shown)


def _unreachable(failure: BaseException, told: str) -> StorageUnavailable:
    if isinstance(failure, SSLError):
        fix = "check the connection's endpoint and ca, and the server's certificate"
        return StorageUnavailable(f"{told}: the server does not prove who it is", fix=fix)
    return StorageUnavailable(f"{told}: no whole answer ({type(failure).__name__})")


def _answer(failure: BaseException) -> dict[str, Any]:
    for known in (failure, failure.__cause__):
        answer = getattr(known, "response", None)
        if isinstance(answer, dict):
            return answer
    return {}


def _status(failure: BaseException) -> int | None:
    status = (_answer(failure).get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None
