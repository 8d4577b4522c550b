"""What the operator asks of Vault: keys inside single-use tokens, which it never opens.

Each key is one wrapped decrypt of one ciphertext. A wrapped batch would answer 200 though an item
failed, and show it only to whoever spends the token.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from securetrain.api.gateway import WRAPPED, KeyGrant
from securetrain.api.names import MODEL_DEK_PREFIX, MODEL_KEY_NAME
from securetrain.errors import GrantLost, VaultMisconfigured, WrongKey
from securetrain.secret import Secret
from securetrain.vault import blame
from securetrain.vault.answers import SETUP, VaultAnswer, WrapInfo
from securetrain.vault.client import DEADLINE, VaultClient, checked_segment

MIN_TTL: Final = 10
MAX_TTL: Final = 60

_WRAPPED: Final = re.compile(WRAPPED)
_CANARY_CONTEXT: Final = f"{MODEL_DEK_PREFIX}canary".encode()


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as its KEK wrapped it, and what it is bound to.

    `binding` is `associated_data` for a dataset's key and `context` for a model's.
    """

    name: str
    mount: str
    kek: str
    ciphertext: str
    binding: Mapping[str, bytes]

    @property
    def of_a_model(self) -> bool:
        """True for a model's key."""
        return "context" in self.binding

    @classmethod
    def of_split(
        cls, name: str, mount: str, kek: str, ciphertext: str, associated_data: bytes
    ) -> WrappedKey:
        """The key of a dataset's split."""
        return cls(name, mount, kek, ciphertext, {"associated_data": associated_data})

    @classmethod
    def of_model(
        cls, name: str, mount: str, kek: str, ciphertext: str, context: bytes
    ) -> WrappedKey:
        """The key of a model."""
        return cls(name, mount, kek, ciphertext, {"context": context})


@dataclass(frozen=True, slots=True)
class Issued:
    """A wrapping token that Vault issued; `accessor` is for the audit, and opens nothing."""

    grant: KeyGrant
    accessor: str


def wrap_key(client: VaultClient, key: WrappedKey, *, ttl: int, correlation: str | None) -> Issued:
    """Have Vault decrypt a key into a wrapping token.

    Args:
        client: logged in under a role that may.
        key: the wrapped key.
        ttl: seconds that the token lives, 10 to 60.
        correlation: names the audit record of this grant in Vault's own log.

    Raises WrongKey if the key does not fit its binding, KeyRevoked if its KEK's owner revoked it,
    VaultMisconfigured if Vault answers anything but a fresh wrapping token, and what VaultClient
    raises.
    """
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise VaultMisconfigured(
            f"a wrapping token of {ttl} s is not allowed", fix=f"use {MIN_TTL} to {MAX_TTL} s"
        )
    path, body = _path(key.mount, "decrypt", key.kek), _body(key)
    with blame.of_model(key.kek) if key.of_a_model else blame.of_split(key.name):
        answer = client.write(path, body, wrap_ttl=ttl, correlation=correlation)
    info = _checked(answer, path, ttl)
    grant = KeyGrant(
        name=key.name,
        token=info.token.reveal_text(),
        creation_path=info.creation_path,
        creation_time=info.creation_time,
        ttl=info.ttl,
    )
    return Issued(grant, info.accessor)


def new_model_key(client: VaultClient, mount: str, kek: str, context: bytes) -> str:
    """A new model DEK, wrapped by its KEK for one context; nobody sees the key itself.

    Raises VaultMisconfigured if the KEK is not a derived key, since Vault then ignores the
    context without a word; and what VaultClient raises.
    """
    answer = client.write(_path(mount, "datakey", "wrapped", kek), {"context": _base64(context)})
    ciphertext = answer.text("ciphertext")
    if "plaintext" in (answer.data or {}) or not _WRAPPED.fullmatch(ciphertext):
        raise VaultMisconfigured(f"Vault made no wrapped data key with KEK {kek}", fix=SETUP)
    canary = WrappedKey.of_model(MODEL_KEY_NAME, mount, kek, ciphertext, _CANARY_CONTEXT)
    _require_derived(client, canary)
    return ciphertext


def _require_derived(client: VaultClient, key: WrappedKey) -> None:
    """Prove that the KEK refuses a context that is not the ciphertext's own."""
    try:
        wrap_key(client, key, ttl=MIN_TTL, correlation=None)
    except WrongKey:
        return
    raise VaultMisconfigured(
        f"KEK {key.kek} ignores contexts, so models of different jobs would not be kept apart",
        fix="make a model KEK of type aes256-gcm96 with derived=true: 'securetrain vault setup'",
    )


def burn(address: str, ca_pem: str | None, token: Secret, *, deadline: float = DEADLINE) -> bool:
    """Spend a wrapping token so that nobody else can; True if it was still unspent.

    Looking it up is free; then any call but unwrap spends the only use and opens nothing, and its
    answer says whether it was this call that spent it. Raises what VaultClient raises.
    """
    with VaultClient(address, ca_pem, deadline=deadline) as client:
        try:
            client.write("sys/wrapping/lookup", {"token": token.reveal_text()})
        except GrantLost:
            return False
    with VaultClient(address, ca_pem, token=token, deadline=deadline) as client:
        return client.denied_by_policy("auth/token/lookup-self")


def _checked(answer: VaultAnswer, path: str, ttl: int) -> WrapInfo:
    info = answer.wrap_info
    if info is None or answer.data is not None:
        raise VaultMisconfigured(
            f"Vault answered {path} without wrapping it",
            fix=f"the policy needs min_wrapping_ttl: {SETUP}",
        )
    if info.creation_path != path or not 0 < info.ttl <= ttl:
        raise VaultMisconfigured(
            f"Vault's wrapping token for {path} is of another path or time to live",
            fix="check that nothing between operator and Vault changes answers",
        )
    return info


def _body(key: WrappedKey) -> dict[str, str]:
    # Vault answers 500 to malformed base64, and its policy sees only the prefix.
    if not _WRAPPED.fullmatch(key.ciphertext):
        raise WrongKey(f"the wrapped key {key.name!r} is malformed", fix="seal the dataset again")
    if not all(key.binding.values()):
        raise WrongKey(f"the wrapped key {key.name!r} is not bound to anything")
    return {"ciphertext": key.ciphertext} | {k: _base64(v) for k, v in key.binding.items()}


def _path(mount: str, *rest: str) -> str:
    return "/".join(checked_segment("Vault path", part) for part in (mount, *rest))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
