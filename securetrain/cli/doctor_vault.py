"""`doctor`, Vault's half: can keys be granted, and does Vault refuse what it must?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from securetrain.api.names import CORRELATION_HEADER, GATEWAY_ROLE, SIGN_ROLE, Purpose, vault_role
from securetrain.cli.findings import Check, Finding, fault, ok
from securetrain.errors import VaultMisconfigured, WrongKey
from securetrain.secret import Secret
from securetrain.vault import signing
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import DEK_BYTES, Custodian

SETUP: Final = "securetrain vault setup --apply"

_BLOCK: Final = re.compile(
    r'path "([A-Za-z0-9_-]+)/decrypt/([A-Za-z0-9_-]+)" \{(.*?)\n\}', re.DOTALL
)
_SIGN: Final = re.compile(r'path "([A-Za-z0-9_-]+)/sign/([A-Za-z0-9_-]+)/sha2-256"')


def checks(vault: VaultClient, namespace: str, auth_mount: str) -> list[tuple[str, Check]]:
    """Name and check; the caller's login needs to read policies and roles to see all."""
    return [
        ("Vault", lambda: _reachable(vault)),
        ("Vault roles", lambda: _roles(vault, namespace, auth_mount)),
        ("KEKs", lambda: _keks(vault, namespace)),
        ("signing key", lambda: _signing_key(vault)),
        ("Vault's audit log", lambda: _audit_header(vault)),
    ]


def _reachable(vault: VaultClient) -> Iterator[Finding]:
    vault.read("auth/token/lookup-self")
    yield ok("Vault is reachable, unsealed, and knows you")


def _roles(vault: VaultClient, namespace: str, auth_mount: str) -> Iterator[Finding]:
    wanted = [vault_role(purpose, namespace) for purpose in Purpose] + [SIGN_ROLE, GATEWAY_ROLE]
    missing = [
        name
        for name in wanted
        if vault.find(f"auth/{auth_mount}/role/{name}") is None
        or vault.find(f"sys/policies/acl/{name}") is None
    ]
    if missing:
        yield fault(
            f"Vault roles missing: {', '.join(missing)}", f"{SETUP} --namespace {namespace}"
        )
    else:
        yield ok(f"Vault roles of {namespace}")


def _keks(vault: VaultClient, namespace: str) -> Iterator[Finding]:
    found = vault.find(f"sys/policies/acl/{vault_role(Purpose.TRAIN, namespace)}")
    for mount, kek, rules in _BLOCK.findall(found.text("policy") if found else ""):
        derived = '"associated_data"' not in rules
        custodian = Custodian(vault, mount, kek)
        custodian.require(derived=derived)
        yield ok(f"{'model' if derived else 'dataset'} KEK {kek}")
        if not derived:
            yield _canary(custodian, kek)


def _canary(custodian: Custodian, kek: str) -> Finding:
    """A key that is bound to one thing must not open as another."""
    wrapped = custodian.wrap(Secret(os.urandom(DEK_BYTES)), b"securetrain/canary/v1|a")
    try:
        custodian.unwrap(wrapped, b"securetrain/canary/v1|b")
    except WrongKey:
        return ok(f"KEK {kek} refuses other associated data")
    return fault(
        f"KEK {kek} ignores associated data: wrapped keys are bound to nothing",
        "use a Vault or OpenBao of a supported version",
    )


def _signing_key(vault: VaultClient) -> Iterator[Finding]:
    found = vault.find(f"sys/policies/acl/{SIGN_ROLE}")
    names = _SIGN.findall(found.text("policy") if found else "")
    if not names:
        raise VaultMisconfigured("no signing key is set up", fix=SETUP)
    for mount, name in names:
        key = signing.public_key(vault, mount, name)
        yield ok(f"signing key {name} version {key.version}")


def _audit_header(vault: VaultClient) -> Iterator[Finding]:
    found = vault.read("sys/config/auditing/request-headers").data or {}
    headers = {name.lower(): entry for name, entry in (found.get("headers") or {}).items()}
    if (headers.get(CORRELATION_HEADER.lower()) or {}).get("hmac") is False:
        yield ok(f"Vault's audit log keeps {CORRELATION_HEADER}")
    else:
        yield fault(f"Vault's audit log drops {CORRELATION_HEADER}", SETUP)
