"""The gateway's certificate, from a PKI mount of its own whose root key never leaves Vault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from securetrain.errors import InvalidInput, VaultMisconfigured
from securetrain.secret import Secret
from securetrain.vault.answers import SETUP, VaultAnswer
from securetrain.vault.client import VaultClient, checked_segment

TTL: Final = "72h"

_DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A serving certificate with its private key."""

    chain_pem: str
    """The certificate; the root issues it itself, so there are no intermediates."""
    key: Secret
    """The private key, PEM."""
    ca_pem: str
    """The root, which pods pin."""
    not_after: float
    """When it ends, in seconds since the epoch."""


def issue_certificate(
    client: VaultClient, mount: str, role: str, names: Sequence[str]
) -> IssuedCertificate:
    """Issue a serving certificate for exactly the given DNS names, for at most 72 hours.

    Raises VaultMisconfigured if the role does not allow the names or the answer is no
    certificate for them, and what VaultClient raises.
    """
    wanted = checked_names(names)
    path = f"{checked_segment('PKI mount', mount)}/issue/{checked_segment('PKI role', role)}"
    body = {"common_name": wanted[0], "alt_names": ",".join(wanted), "ttl": TTL}
    answer = client.write(path, body)
    try:
        return _certificate(answer, wanted)
    except (ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        raise VaultMisconfigured(
            f"Vault's PKI answered {path} with no certificate for {', '.join(wanted)}", fix=SETUP
        ) from None


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The DNS names without repetition; raises InvalidInput."""
    for name in names:
        if len(name) > 253 or not _DNS_NAME.fullmatch(name):
            raise InvalidInput(
                "gateway name", name, "is not a DNS name", fix="use <service>.<ns>.svc"
            )
    if not names:
        raise InvalidInput("gateway names", names, "are empty", fix="name the gateway's service")
    return tuple(dict.fromkeys(names))


def _certificate(answer: VaultAnswer, names: Sequence[str]) -> IssuedCertificate:
    leaf = x509.load_pem_x509_certificate(answer.text("certificate").encode())
    root = x509.load_pem_x509_certificate(answer.text("issuing_ca").encode())
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if set(found.get_values_for_type(x509.DNSName)) != set(names) or len(found) != len(names):
        raise ValueError
    leaf.verify_directly_issued_by(root)
    return IssuedCertificate(
        chain_pem=_pem(leaf),
        key=Secret.from_text(answer.text("private_key")),
        ca_pem=_pem(root),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
