"""What a pod does with its wrapping tokens: look, compare, and spend each exactly once.

An unwrap is never repeated. If its answer is lost the key is gone, and if somebody else was first
that must show, so either way the pod ends and a new one gets new tokens.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any, Final

from securetrain.api.gateway import KeyGrant
from securetrain.errors import GrantTampered
from securetrain.secret import Secret
from securetrain.vault.client import DEADLINE, VaultClient

KEY_BYTES: Final = 32


def unwrap(
    address: str,
    ca_pem: str | None,
    grant: KeyGrant,
    expected_path: str,
    *,
    deadline: float = DEADLINE,
) -> Secret:
    """Spend a wrapping token for the 32-byte key inside.

    Args:
        address: Vault's `https://host:port`.
        ca_pem: the CAs that Vault's certificate is checked against.
        grant: the token, and how the gateway said that it was made.
        expected_path: `<mount>/decrypt/<kek>`, known from the manifest and not from the grant.
        deadline: seconds for each of the two calls.

    Raises GrantTampered if the token is not the promised one or holds no key, GrantLost if it is
    spent or expired, VaultUnavailable or VaultSealed if Vault is away.
    """
    _require(grant.creation_path == expected_path, grant, "was made for another path")
    with VaultClient(address, ca_pem, deadline=deadline) as client:
        found = client.write("sys/wrapping/lookup", {"token": grant.token}).data or {}
    _compare(grant, found)
    token = Secret.from_text(grant.token)
    # In the header only: Vault burns a token that is in the body too.
    with VaultClient(address, ca_pem, token=token, deadline=deadline) as client:
        data = client.write("sys/wrapping/unwrap", {}).data or {}
    _require(set(data) == {"plaintext"}, grant, "holds something else than a key")
    return _key(grant, data["plaintext"])


def _compare(grant: KeyGrant, found: Any) -> None:
    """A token that was re-wrapped on its way is younger, or of another path."""
    _require(found.get("creation_path") == grant.creation_path, grant, "was made by another call")
    _require(found.get("creation_ttl") == grant.ttl, grant, "has another time to live")
    same_time = _instant(found.get("creation_time")) == _instant(grant.creation_time)
    _require(same_time, grant, "was made at another time")


def _instant(text: Any) -> tuple[datetime, str] | None:
    """A time with all its digits; `datetime` alone keeps only six of them."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    _, _, fraction = text.partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    return moment, digits.rstrip("0")


def _key(grant: KeyGrant, text: Any) -> Secret:
    try:
        key = Secret(base64.b64decode(text, validate=True))
    except (TypeError, ValueError, binascii.Error):
        key = Secret(b"")
    _require(len(key) == KEY_BYTES, grant, f"holds no key of {KEY_BYTES} bytes")
    return key


def _require(holds: bool, grant: KeyGrant, problem: str) -> None:
    if not holds:
        raise GrantTampered(
            f"the wrapping token of key {grant.name!r} {problem}",
            fix="treat it as an attack: compare Vault's audit log with 'securetrain audit verify'",
        )
