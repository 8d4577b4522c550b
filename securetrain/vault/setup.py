"""Makes Vault ready for securetrain: a plan that says what differs, then the changes themselves.

Each step is one object of Vault: how it should be, whether it is so, and the call that makes it
so. What cannot be changed later, such as a key of the wrong kind, ends the plan with an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from securetrain.api.names import CORRELATION_HEADER, GATEWAY_ROLE, SIGN_ROLE, Purpose, vault_role
from securetrain.errors import VaultMisconfigured
from securetrain.vault import policies
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import KEK_TYPE, kek_faults
from securetrain.vault.pki import checked_names
from securetrain.vault.setup_request import SetupRequest
from securetrain.vault.signing import KEY_TYPE

State = Literal["ok", "create", "update"]

ROOT_TTL: Final = 10 * 365 * 24 * 3600
CERTIFICATE_TTL: Final = 72 * 3600
TOKEN_TTL: Final = 60

_PATH: Final = re.compile(r'^path "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """One object of Vault."""

    what: str
    state: State
    detail: str = ""
    """For `update`: what changes."""
    change: Callable[[], object] | None = field(default=None, repr=False, compare=False)


def plan(client: VaultClient, request: SetupRequest) -> tuple[Step, ...]:
    """Compare Vault with what is wanted; changes nothing.

    Raises VaultMisconfigured if something is there that cannot be made right, and what
    VaultClient raises; the token must be an admin's.
    """
    return tuple(_Planner(client, request).steps())


def apply(steps: Sequence[Step]) -> int:
    """Make what differs, in order; the number of changes. Harmless to repeat after a failure."""
    changes = [step.change for step in steps if step.state != "ok" and step.change is not None]
    for change in changes:
        change()
    return len(changes)


class _Planner:
    def __init__(self, client: VaultClient, request: SetupRequest) -> None:
        self._client = client
        self._request = request

    def steps(self) -> Iterator[Step]:
        wanted = self._request
        yield self._audit_header()
        yield self._mount("sys/mounts", wanted.transit_mount, "transit", {})
        for kek in wanted.dataset_keks:
            yield self._kek(kek, derived=False)
        for kek in wanted.model_keks:
            yield self._kek(kek, derived=True)
        yield self._signing_key()
        root_life = {"max_lease_ttl": ROOT_TTL}
        yield self._mount("sys/mounts", wanted.pki_mount, "pki", root_life)
        yield self._root()
        yield self._item(
            "certificate role", f"{wanted.pki_mount}/roles/{wanted.pki_role}", _pki_role(wanted)
        )
        yield self._mount("sys/auth", wanted.auth_mount, "jwt", {})
        yield self._item("login keys", f"auth/{wanted.auth_mount}/config", _jwt_config(wanted))
        for name, text in wanted_policies(wanted).items():
            yield self._policy(name, text)
        for role in login_roles(wanted):
            path = f"auth/{wanted.auth_mount}/role/{role}"
            yield self._item("login role", path, _jwt_role(wanted, role))

    def _mount(self, where: str, name: str, kind: str, config: Mapping[str, int]) -> Step:
        what = f"{'auth method' if where == 'sys/auth' else 'secrets engine'} {name} ({kind})"
        found = (self._client.read(where).data or {}).get(f"{name}/")
        if found is None:
            body = {"type": kind, "config": {key: f"{value}s" for key, value in config.items()}}
            return self._write(what, "create", f"{where}/{name}", body)
        if found.get("type") != kind:
            raise VaultMisconfigured(
                f"{name} is a mount of type {found.get('type')}, not {kind}",
                fix="name another mount",
            )
        differs = _differences(config, found.get("config") or {})
        if not differs:
            return Step(what, "ok")
        tune = {key: f"{value}s" for key, value in config.items()}
        return self._write(what, "update", f"{where}/{name}/tune", tune, ", ".join(differs))

    def _kek(self, name: str, *, derived: bool) -> Step:
        what = f"{'model' if derived else 'dataset'} KEK {name}"
        path = f"{self._request.transit_mount}/keys/{name}"
        found = self._client.find(path)
        if found is None:
            return self._write(what, "create", path, {"type": KEK_TYPE, "derived": derived})
        if faults := kek_faults(found.data or {}, derived=derived):
            raise _wrong_key(what, ", ".join(faults))
        return Step(what, "ok")

    def _signing_key(self) -> Step:
        what = f"signing key {self._request.signing_key}"
        path = f"{self._request.transit_mount}/keys/{self._request.signing_key}"
        found = self._client.find(path)
        if found is None:
            return self._write(what, "create", path, {"type": KEY_TYPE})
        data = found.data or {}
        if data.get("type") != KEY_TYPE or data.get("exportable"):
            raise _wrong_key(what, f"not an {KEY_TYPE} key that stays in Vault")
        return Step(what, "ok")

    def _root(self) -> Step:
        mount = self._request.pki_mount
        what = f"root certificate of {mount}"
        if self._client.list(f"{mount}/issuers"):
            return Step(what, "ok")
        body = {
            "common_name": "securetrain key gateways",
            "exclude_cn_from_sans": True,
            "ttl": f"{ROOT_TTL}s",
            "key_type": "ec",
            "key_bits": 256,
        }
        return self._write(what, "create", f"{mount}/root/generate/internal", body)

    def _audit_header(self) -> Step:
        what = f"audit header {CORRELATION_HEADER} in clear"
        path = "sys/config/auditing/request-headers"
        listed = (self._client.read(path).data or {}).get("headers") or {}
        by_name = {name.lower(): entry for name, entry in listed.items()}
        found = by_name.get(CORRELATION_HEADER.lower())
        if found is not None and found.get("hmac") is False:
            return Step(what, "ok")
        state: State = "create" if found is None else "update"
        return self._write(what, state, f"{path}/{CORRELATION_HEADER}", {"hmac": False}, "hmac")

    def _policy(self, name: str, text: str) -> Step:
        path = f"sys/policies/acl/{name}"
        found = self._client.find(path)
        if found is None:
            return self._write(f"policy {name}", "create", path, {"policy": text})
        present = found.text("policy")
        if present.strip() == text.strip():
            return Step(f"policy {name}", "ok")
        detail = _path_changes(present, text)
        return self._write(f"policy {name}", "update", path, {"policy": text}, detail)

    def _item(self, kind: str, path: str, wanted: Mapping[str, Any]) -> Step:
        what = f"{kind} {path}"
        found = self._client.find(path)
        if found is None:
            return self._write(what, "create", path, wanted)
        differs = _differences(wanted, found.data or {})
        if not differs:
            return Step(what, "ok")
        return self._write(what, "update", path, wanted, ", ".join(differs))

    def _write(
        self, what: str, state: State, path: str, body: Mapping[str, Any], detail: str = ""
    ) -> Step:
        # A new PKI mount warns that it has no revocation URLs; nothing here is revoked by list.
        warns = path.startswith(f"{self._request.pki_mount}/")
        return Step(
            what,
            state,
            detail if state == "update" else "",
            lambda: self._client.write(path, body, warnings_ok=warns),
        )


def login_roles(request: SetupRequest) -> tuple[str, ...]:
    """The operator's roles at the JWT auth mount; each has the policy of its own name."""
    of_namespace = (vault_role(purpose, request.namespace) for purpose in Purpose)
    return (*of_namespace, SIGN_ROLE, GATEWAY_ROLE)


def wanted_policies(request: SetupRequest) -> dict[str, str]:
    """HCL of every policy by its name."""
    keys = (request.transit_mount, request.dataset_keks, request.model_keks)
    texts = {
        vault_role(purpose, request.namespace): policies.grant_policy(purpose, *keys)
        for purpose in Purpose
    }
    return {
        **texts,
        f"st-owner-{request.namespace}": policies.owner_policy(*keys),
        f"st-shred-{request.namespace}": policies.shred_policy(*keys[:2]),
        SIGN_ROLE: policies.signing_policy(request.transit_mount, request.signing_key),
        GATEWAY_ROLE: policies.gateway_policy(request.pki_mount, request.pki_role),
    }


def _jwt_config(request: SetupRequest) -> dict[str, Any]:
    return {
        "jwt_validation_pubkeys": list(request.jwt_public_keys),
        "bound_issuer": request.issuer,
        "jwt_supported_algs": ["RS256", "ES256", "ES384", "ES512"],
    }


def _jwt_role(request: SetupRequest, role: str) -> dict[str, Any]:
    # Service tokens and not batch tokens: they have an accessor, which Vault's audit log shows.
    return {
        "role_type": "jwt",
        "bound_audiences": [request.audience],
        "bound_subject": request.operator_subject,
        "user_claim": "sub",
        "claim_mappings": {
            "/kubernetes.io/pod/name": "pod_name",
            "/kubernetes.io/pod/uid": "pod_uid",
        },
        "token_policies": [role],
        "token_no_default_policy": True,
        "token_ttl": TOKEN_TTL,
        "token_max_ttl": TOKEN_TTL,
        "token_type": "service",
    }


def _pki_role(request: SetupRequest) -> dict[str, Any]:
    return {
        "allowed_domains": list(checked_names(request.gateway_names)),
        "allow_bare_domains": True,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_any_name": False,
        "allow_wildcard_certificates": False,
        "allow_localhost": False,
        "allow_ip_sans": False,
        "enforce_hostnames": True,
        "server_flag": True,
        "client_flag": False,
        "key_type": "ec",
        "key_bits": 256,
        "ttl": CERTIFICATE_TTL,
        "max_ttl": CERTIFICATE_TTL,
        "no_store": True,
    }


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of fields that are not as wanted; Vault returns more fields than were written."""
    return [key for key, value in wanted.items() if _plain(found.get(key)) != _plain(value)]


def _plain(value: Any) -> Any:
    """Lists as sets and texts without surrounding space: Vault keeps neither."""
    if isinstance(value, list | tuple):
        return sorted(str(item).strip() for item in value)
    return value.strip() if isinstance(value, str) else value


def _path_changes(old: str, new: str) -> str:
    before, after = set(_PATH.findall(old)), set(_PATH.findall(new))
    changes = [f"+ {path}" for path in sorted(after - before)]
    changes += [f"- {path}" for path in sorted(before - after)]
    return ", ".join(changes) or "rules of the same paths"


def _wrong_key(what: str, faults: str) -> VaultMisconfigured:
    return VaultMisconfigured(
        f"{what} exists and is of the wrong kind: {faults}",
        fix="a key's kind is for ever: choose another name",
    )
