"""Signatures by a transit key that never leaves Vault, each verified before it is used."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from securetrain.errors import InvalidInput, SignatureInvalid, VaultMisconfigured
from securetrain.vault.answers import SETUP
from securetrain.vault.client import VaultClient, checked_segment

KEY_TYPE: Final = "ecdsa-p256"
DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One version of the signing key."""

    version: int
    key: ec.EllipticCurvePublicKey

    @property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo, PEM, always in the same form."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Signed:
    """A DER signature and the public key that verifies it."""

    der: bytes
    key_version: int
    public_key_pem: bytes


def public_key(client: VaultClient, mount: str, name: str) -> PublicKey:
    """The newest version of the signing key; raises VaultMisconfigured."""
    path = f"{checked_segment('transit mount', mount)}/keys/{checked_segment('key', name)}"
    data = client.read(path).data or {}
    version, versions = data.get("latest_version"), data.get("keys")
    if data.get("type") == KEY_TYPE and isinstance(version, int) and isinstance(versions, Mapping):
        key = _load(versions.get(str(version)))
        if key is not None:
            return PublicKey(version, key)
    raise VaultMisconfigured(
        f"the signing key {name} is not of type {KEY_TYPE}", fix=f"use another name and {SETUP}"
    )


def sign_digest(
    client: VaultClient,
    mount: str,
    name: str,
    digest_for: Callable[[int], bytes],
    correlation: str | None = None,
) -> Signed:
    """Have Vault sign a SHA-256 digest with the newest version of the key.

    The version is read first and pinned, so that a rotation in between cannot give a signature
    that another key verifies; what is signed may name it.

    Raises:
        SignatureInvalid: Vault's signature does not verify.
        SecuretrainError: what VaultClient raises.
    """
    key = public_key(client, mount, name)
    digest = digest_for(key.version)
    if len(digest) != DIGEST_BYTES:
        # Vault signs a digest of any length without complaint.
        raise InvalidInput("digest", f"{len(digest)} bytes", "is no SHA-256", fix="hash first")
    body = {
        "input": base64.b64encode(digest).decode(),
        "prehashed": True,
        "marshaling_algorithm": "asn1",
        "key_version": key.version,
    }
    answer = client.write(f"{mount}/sign/{name}/sha2-256", body, correlation=correlation)
    der = _der(answer.text("signature"), key.version)
    try:
        key.key.verify(der, digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        raise _invalid(key.version) from None
    return Signed(der, key.version, key.pem)


def _der(signature: str, version: int) -> bytes:
    prefix = f"vault:v{version}:"
    try:
        if signature.startswith(prefix):
            return base64.b64decode(signature.removeprefix(prefix), validate=True)
    except (ValueError, binascii.Error):
        pass
    raise _invalid(version)


def _load(entry: Any) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_pem_public_key(str(entry["public_key"]).encode())
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None


def _invalid(version: int) -> SignatureInvalid:
    return SignatureInvalid(
        f"Vault's signature does not verify with version {version} of its key",
        fix="check that nothing between operator and Vault changes answers",
    )
