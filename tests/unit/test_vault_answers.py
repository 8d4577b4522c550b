"""The table from Vault's answers to our errors."""

from __future__ import annotations

import pytest

from securetrain.errors import (
    GrantLost,
    SecuretrainError,
    VaultDenied,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
    VaultUnavailable,
    WrongKey,
)
from securetrain.vault.answers import is_policy_denial, refusal
from securetrain.vault.transport import RawAnswer


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "cipher: message authentication failed", WrongKey),
        (400, "wrapping token is not valid or does not exist", GrantLost),
        (400, "encryption key not found", VaultMisconfigured),
        (404, 'no handler for route "x". route entry not found.', VaultMisconfigured),
        (404, "", VaultMisconfigured),
        (400, "error validating token: invalid issuer", VaultDenied),
        (400, 'role "x" could not be found', VaultMisconfigured),
        (403, "permission denied", VaultDenied),
        (405, "unsupported operation", VaultMisconfigured),
        (412, "", VaultUnavailable),
        (429, "", VaultUnavailable),
        (500, "", VaultUnavailable),
        (502, "", VaultUnavailable),
        (503, "", VaultUnavailable),
        (503, "Vault is sealed", VaultSealed),
        (307, "", VaultRedirects),
    ],
)
def test_kinds(status: int, text: str, kind: type[SecuretrainError]) -> None:
    error = refusal(status, text, "transit/decrypt/kek")
    assert type(error) is kind
    assert error.fix


@pytest.mark.parametrize(
    ("status", "in_doubt"),
    [(412, False), (429, False), (503, False), (500, True), (502, True), (504, True)],
)
def test_doubt(status: int, in_doubt: bool) -> None:
    error = refusal(status, "", "x")
    assert isinstance(error, VaultUnavailable)
    assert error.in_doubt is in_doubt


@pytest.mark.parametrize(
    ("body", "denied"),
    [
        (b'{"errors":["1 error occurred:\\n\\t* permission denied\\n\\n"]}', True),
        (b'{"errors":["permission denied"]}', False),
        (
            b'{"errors":["2 errors occurred:\\n\\t* permission denied\\n\\t* invalid token"]}',
            False,
        ),
        (b"", False),
    ],
)
def test_a_spent_token_is_told_from_a_denied_one(body: bytes, denied: bool) -> None:
    assert is_policy_denial(RawAnswer(403, body)) is denied
