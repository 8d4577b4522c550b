"""Vault behind the port `Vault`: blocking calls in threads, a fresh login for every piece of work.

Nothing is kept between two pieces of work, so that no job's request can ever carry a token that
was got for another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from securetrain.api.names import (
    GATEWAY_ROLE,
    MODEL_DEK_PREFIX,
    MODEL_KEY_NAME,
    SIGN_ROLE,
    Purpose,
    vault_role,
)
from securetrain.errors import (
    BadConfiguration,
    SecuretrainError,
    VaultDenied,
    VaultMisconfigured,
)
from securetrain.secret import Secret
from securetrain.vault import pki, signing, wrap
from securetrain.vault.client import VaultClient
from securetrain.vault.connection import VaultConnection
from securetrain.vault.pki import IssuedCertificate
from securetrain.vault.wrap import WrappedKey
from securetrain_operator.core.record import ModelKey
from securetrain_operator.errors import OutputKekUnusable
from securetrain_operator.ports import DigestFor, Signature, WrappedToken, WrapRequest

TOKEN_FILE: Final = Path("/var/run/secrets/vault/token")
DEADLINE: Final = 10.0
MAX_TOKEN_BYTES: Final = 16_384
PROBE_CONTEXT: Final = f"{MODEL_DEK_PREFIX}probe".encode()
"""No model's context: what is wrapped for it is never used."""

log = logging.getLogger(__name__)


class VaultBroker:
    """ports.Vault by the operator's own projected token.

    Args:
        token_file: the token for Vault; the kubelet renews it, so it is read at each login.
        deadline: seconds for one call to Vault.
    """

    def __init__(self, token_file: Path = TOKEN_FILE, *, deadline: float = DEADLINE) -> None:
        self._token_file = token_file
        self._deadline = deadline

    async def check(
        self, connection: VaultConnection, namespace: str, kek: str | None = None
    ) -> None:
        """Log in under both roles of a namespace; raises what Vault answers.

        With a model KEK, prove it too; raises OutputKekUnusable.
        """
        await asyncio.to_thread(self._check, connection, namespace, kek)

    async def new_model_key(
        self, connection: VaultConnection, namespace: str, kek: str, context: bytes
    ) -> ModelKey:
        """A new wrapped model DEK, after a proof that its KEK heeds contexts."""
        return await asyncio.to_thread(self._new_model_key, connection, namespace, kek, context)

    async def wrap_keys(
        self, connection: VaultConnection, request: WrapRequest
    ) -> Sequence[WrappedToken]:
        """One wrapped decrypt per key; all or none."""
        return await asyncio.to_thread(self._wrap_keys, connection, request)

    async def burn(
        self, connection: VaultConnection, tokens: Sequence[WrappedToken]
    ) -> Sequence[bool]:
        """Spend wrapping tokens; True where one was still unspent."""
        return await asyncio.to_thread(lambda: [self._burn(connection, item) for item in tokens])

    async def sign(
        self, connection: VaultConnection, digest_for: DigestFor, correlation: str
    ) -> Signature:
        """A verified signature by the newest version of the signing key."""
        return await asyncio.to_thread(self._sign, connection, digest_for, correlation)

    async def issue_gateway_certificate(
        self, connection: VaultConnection, names: Sequence[str]
    ) -> IssuedCertificate:
        """A serving certificate for the gateway's DNS names."""
        return await asyncio.to_thread(self._issue, connection, names)

    def _check(self, connection: VaultConnection, namespace: str, kek: str | None) -> None:
        for purpose in Purpose:
            self._login(connection, vault_role(purpose, namespace)).close()
        if kek is not None:
            self._prove(connection, namespace, kek)

    def _prove(self, connection: VaultConnection, namespace: str, kek: str) -> None:
        """A KEK that is missing or of another kind is found here, not after hours of queueing."""
        try:
            self._new_model_key(connection, namespace, kek, PROBE_CONTEXT)
        except (VaultDenied, VaultMisconfigured) as error:
            raise OutputKekUnusable(
                f"spec.output.kek: '{kek}' is no model KEK that namespace {namespace} may use"
                f" ({error.message})",
                fix="name one in a job of a new name, or have the platform admin run"
                f" 'securetrain vault setup' with --namespace {namespace} --model-kek {kek}",
            ) from None

    def _new_model_key(
        self, connection: VaultConnection, namespace: str, kek: str, context: bytes
    ) -> ModelKey:
        mount = connection.transit_mount
        with self._login(connection, vault_role(Purpose.TRAIN, namespace)) as client:
            wrapped = wrap.new_model_key(client, mount, kek, context)
        return ModelKey(mount=mount, kek=kek, wrapped=wrapped)

    def _wrap_keys(
        self, connection: VaultConnection, request: WrapRequest
    ) -> tuple[WrappedToken, ...]:
        issued: list[WrappedToken] = []
        role = vault_role(request.purpose, request.namespace)
        with self._login(connection, role) as client:
            try:
                for key in _wrapped_keys(request):
                    made = wrap.wrap_key(
                        client, key, ttl=request.ttl, correlation=request.correlation
                    )
                    issued.append(WrappedToken(made.grant, made.accessor))
            except SecuretrainError:
                self._burn_leftovers(connection, issued)
                raise
        return tuple(issued)

    def _burn_leftovers(self, connection: VaultConnection, issued: Sequence[WrappedToken]) -> None:
        """Nobody has these tokens, so one that cannot be burnt merely runs out."""
        for item in issued:
            try:
                self._burn(connection, item)
            except SecuretrainError as error:
                log.warning(
                    "a wrapping token was left to run out: %s",
                    error,
                    extra={"reason": error.reason, "accessor": item.accessor},
                )

    def _burn(self, connection: VaultConnection, item: WrappedToken) -> bool:
        token = Secret.from_text(item.grant.token)
        return wrap.burn(connection.address, connection.ca, token, deadline=self._deadline)

    def _sign(
        self, connection: VaultConnection, digest_for: DigestFor, correlation: str
    ) -> Signature:
        with self._login(connection, SIGN_ROLE) as client:
            made = signing.sign_digest(
                client, connection.transit_mount, connection.signing_key, digest_for, correlation
            )
        return Signature(made.der, made.key_version, made.public_key_pem)

    def _issue(self, connection: VaultConnection, names: Sequence[str]) -> IssuedCertificate:
        with self._login(connection, GATEWAY_ROLE) as client:
            return pki.issue_certificate(client, connection.pki_mount, connection.pki_role, names)

    def _login(self, connection: VaultConnection, role: str) -> VaultClient:
        client = VaultClient(connection.address, connection.ca, deadline=self._deadline)
        try:
            client.login_jwt(connection.auth_mount, role, self._token())
        except BaseException:
            client.close()
            raise
        return client

    def _token(self) -> Secret:
        try:
            with self._token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).strip()
        except OSError as error:
            raise BadConfiguration(
                f"the operator's token for Vault cannot be read ({type(error).__name__})",
                fix=f"mount a projected service account token at {self._token_file}",
            ) from None
        return Secret(token)


def _wrapped_keys(request: WrapRequest) -> list[WrappedKey]:
    keys = [
        WrappedKey.of_split(split, dek.mount, dek.kek, dek.wrapped, request.associated_data[split])
        for split, dek in request.deks.items()
    ]
    model = request.model_key
    context = request.model_context
    keys.append(WrappedKey.of_model(MODEL_KEY_NAME, model.mount, model.kek, model.wrapped, context))
    return keys
