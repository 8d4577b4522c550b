"""What Vault's answers mean: a pure table from status and text to our errors.

Vault's own texts never leave this module. They can repeat what was sent, and the failed half of a
batch even carries plaintext keys, so a text is only looked at for phrases that are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from securetrain.errors import (
    GrantLost,
    KeyRevoked,
    SecuretrainError,
    VaultClockSkew,
    VaultDenied,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
    VaultUnavailable,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain.vault.transport import RawAnswer

SETUP: Final = "run 'securetrain vault setup'"

NOT_PROCESSED: Final = frozenset((412, 429, 503))
"""Statuses of requests that Vault has not carried out."""

_PHRASES: Final[tuple[tuple[str, type[SecuretrainError], str, str], ...]] = (
    (
        "message authentication failed",
        WrongKey,
        "could not authenticate the wrapped key: another KEK, or other associated data",
        "",
    ),
    (
        "wrapping token is not valid or does not exist",
        GrantLost,
        "does not know the wrapping token: spent, expired or revoked",
        "a new pod gets a new one",
    ),
    ("encryption key not found", VaultMisconfigured, "has no such key", SETUP),
    ("no handler for route", VaultMisconfigured, "has no such mount", SETUP),
    ("could not load configuration", VaultMisconfigured, "has no login configured there", SETUP),
    ("could not be found", VaultMisconfigured, "has no such role", SETUP),
    (
        "disallowed by policy (too old)",
        KeyRevoked,
        "does not open what this old version of the KEK wrapped: its owner revoked it",
        "",
    ),
    (
        "version is too new",
        WrongKey,
        "never had this version of the KEK: the wrapped key was changed, or is another Vault's",
        "restore keys.json or key.json, or use the Vault that the keys were wrapped by",
    ),
    ("not allowed by this role", VaultMisconfigured, "does not allow this name", SETUP),
    ("(exp) claim", VaultClockSkew, "takes the login token for expired", ""),
    ("(nbf) claim", VaultClockSkew, "takes the login token for not valid yet", ""),
    ("(iat) claim", VaultClockSkew, "takes the login token for one of the future", ""),
    ("error validating token", VaultDenied, "does not accept the login token", SETUP),
    ("error validating claims", VaultDenied, "does not accept the login token's claims", SETUP),
    ("invalid audience", VaultDenied, "does not accept the login token's audience", SETUP),
)


@dataclass(frozen=True, slots=True)
class WrapInfo:
    """A response-wrapping token and how to recognise it."""

    token: Secret
    accessor: str
    ttl: int
    """Seconds."""
    creation_time: str
    creation_path: str


@dataclass(frozen=True, slots=True, repr=False)
class VaultAnswer:
    """A successful answer; it prints nothing of its data, which may be a key."""

    data: Mapping[str, Any] | None
    wrap_info: WrapInfo | None = None
    login: Secret | None = None
    """The token that a login answered."""

    def __repr__(self) -> str:
        return f"VaultAnswer(data={'…' if self.data else None}, wrap_info={bool(self.wrap_info)})"

    def text(self, field: str) -> str:
        """A field of `data` that must be text; raises VaultMisconfigured."""
        value = (self.data or {}).get(field)
        if not isinstance(value, str):
            raise VaultMisconfigured(
                f"Vault's answer has no text {field!r}", fix="check that the address is a Vault's"
            )
        return value


def parse(answer: RawAnswer, path: str, *, warnings_ok: bool = False) -> VaultAnswer:
    """The answer's content; raises our error for everything but success."""
    if answer.status == 204:
        return VaultAnswer(None)
    document = _document(answer)
    if answer.status != 200:
        raise refusal(answer.status, _errors(document), path)
    if document is None:
        raise VaultUnavailable(f"Vault's answer to {path} is not JSON", in_doubt=True)
    if document.get("warnings") and not warnings_ok:
        raise VaultMisconfigured(
            f"Vault answered with a warning at {path}: it ignored a field or changed a value",
            fix="use a Vault or OpenBao of a supported version",
        )
    return _answer(document, path)


def refusal(status: int, errors: str, path: str) -> SecuretrainError:
    """Our error for an HTTP status and the text of Vault's errors."""
    if 300 <= status < 400:
        return VaultRedirects(
            f"Vault redirects ({status}) at {path} to another server, which is never followed"
        )
    if status == 503 and "sealed" in errors.lower():
        return VaultSealed("Vault is sealed", fix="vault operator unseal")
    if status in NOT_PROCESSED or status >= 500:
        return VaultUnavailable(
            f"Vault answered {status} at {path}",
            fix="look at Vault's log",
            in_doubt=status not in NOT_PROCESSED,
        )
    if status == 403:
        return VaultDenied(f"Vault denied {path} (403)", fix=f"check the policy, or {SETUP}")
    for phrase, kind, what, fix in _PHRASES:
        if phrase in errors:
            return kind(f"Vault {what} ({status} at {path})", fix=fix)
    if status == 404:
        return VaultMisconfigured(f"Vault has nothing at {path}", fix=SETUP)
    return VaultMisconfigured(
        f"Vault refused the request at {path} ({status})", fix=f"look at Vault's log, or {SETUP}"
    )


def is_policy_denial(answer: RawAnswer) -> bool:
    """True if a valid token was denied by its policy, and not an invalid token.

    Both are 403; Vault and OpenBao word the first one so.
    """
    return answer.status == 403 and _errors(_document(answer)).startswith(
        "1 error occurred:\n\t* permission denied"
    )


def _document(answer: RawAnswer) -> dict[str, Any] | None:
    try:
        parsed = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _errors(document: Mapping[str, Any] | None) -> str:
    errors = (document or {}).get("errors")
    return " ".join(str(error) for error in errors) if isinstance(errors, list) else ""


def _answer(document: Mapping[str, Any], path: str) -> VaultAnswer:
    data, wrap, auth = document.get("data"), document.get("wrap_info"), document.get("auth")
    try:
        wrap_info = _wrap_info(wrap) if wrap is not None else None
        login = Secret.from_text(str(auth["client_token"])) if auth is not None else None
    except (KeyError, TypeError):
        raise VaultUnavailable(f"Vault's answer to {path} is malformed", in_doubt=True) from None
    if data is not None and not isinstance(data, dict):
        raise VaultUnavailable(f"Vault's answer to {path} is malformed", in_doubt=True)
    return VaultAnswer(data, wrap_info, login)


def _wrap_info(wrap: Any) -> WrapInfo:
    texts = {name: wrap[name] for name in ("accessor", "creation_time", "creation_path")}
    if not all(isinstance(text, str) and text for text in texts.values()):
        raise TypeError
    if not isinstance(wrap["ttl"], int) or not isinstance(wrap["token"], str) or not wrap["token"]:
        raise TypeError
    return WrapInfo(token=Secret.from_text(wrap["token"]), ttl=wrap["ttl"], **texts)
