"""The gateway's serving certificate: short-lived, from Vault's PKI, and only ever in memory.

Vault may be away when the operator starts or when a renewal is due. The server listens all the
same; without a certificate its handshakes fail, which pods treat like any lost connection, and
readiness is false.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from securetrain.errors import SecuretrainError, VaultMisconfigured, VaultUnavailable
from securetrain.vault.pki import IssuedCertificate
from securetrain_operator.ports import Clock

RENEW_AT: Final = 2 / 3
MIN_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class ServingCertificate:
    """Keeps a server's TLS context supplied with a valid certificate."""

    def __init__(self, issue: Callable[[], Awaitable[IssuedCertificate]], clock: Clock) -> None:
        self._issue = issue
        self._clock = clock
        self._current: tuple[ssl.SSLContext, str, float] | None = None
        self.context: Final = _server_context()
        """Hand this to the server once; new connections get the newest certificate."""
        # OpenSSL calls this for each handshake, with or without a server name.
        self.context.sni_callback = self._choose

    @property
    def valid(self) -> bool:
        """True while there is a certificate that has not ended."""
        return self._current is not None and self._clock.now() < self._current[2]

    def gateway_ca(self) -> str:
        """PEM bundle that pods trust the gateway by; VaultUnavailable while there is none."""
        if self._current is None:
            raise VaultUnavailable(
                "the key gateway has no certificate yet",
                fix="look at the operator's log for what Vault's PKI answered",
            )
        return self._current[1]

    async def run(self) -> None:
        """Get a certificate, and the next at two thirds of its life, until cancelled."""
        retry = MIN_SECONDS
        while True:
            try:
                issued = await self._issue()
                await asyncio.to_thread(self._install, issued)
            except SecuretrainError as error:
                log.warning("no gateway certificate: %s", error, extra={"reason": error.reason})
                await asyncio.sleep(retry)
                retry = min(MAX_RETRY_SECONDS, retry * 2)
                continue
            retry = MIN_SECONDS
            life = issued.not_after - self._clock.now()
            log.info("the gateway has a certificate for %d seconds", life)
            await asyncio.sleep(max(MIN_SECONDS, life * RENEW_AT))

    def _install(self, issued: IssuedCertificate) -> None:
        context = _server_context()
        try:
            _load(context, issued)
        except ssl.SSLError:
            raise VaultMisconfigured(
                "Vault's PKI answered with a certificate and key that do not fit together",
                fix="run 'securetrain vault setup' again",
            ) from None
        self._current = (context, issued.ca_pem, issued.not_after)

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext
    ) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current[0]
        return None


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # all clients are ours
    return context


def _load(context: ssl.SSLContext, issued: IssuedCertificate) -> None:
    """Load chain and key. Python takes a file only, so it is one in memory, without a name."""
    descriptor = os.memfd_create("", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(issued.key.reveal() + b"\n" + issued.chain_pem.encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
