"""Dead Simple Signing Envelope (DSSE), version 1.

Specification: https://github.com/secure-systems-lab/dsse, protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from securetrain.api.digest import sha256_hex
from securetrain.errors import SignatureInvalid

INTOTO_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_ENVELOPE: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope with exactly one signature."""

    payload_type: str
    payload: bytes
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes whose SHA-256 is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def digest(payload_type: str, payload: bytes) -> bytes:
    """SHA-256 of the pre-authentication encoding, 32 bytes: what a signer of digests is given."""
    return hashlib.sha256(pae(payload_type, payload)).digest()


def envelope(payload_type: str, payload: bytes, signature: bytes, key_id: str = "") -> str:
    """An envelope as JSON text.

    Args:
        payload_type: media type of the payload.
        payload: what is signed.
        signature: ASN.1 DER over the payload's pre-authentication encoding.
        key_id: a hint without meaning for trust.
    """
    return json.dumps(envelope_fields(payload_type, payload, signature, key_id))


def envelope_fields(
    payload_type: str, payload: bytes, signature: bytes, key_id: str = ""
) -> dict[str, Any]:
    """The envelope's JSON fields."""
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": key_id}],
    }


def parse_envelope(fields: Any) -> Envelope:
    """Parse an envelope's JSON fields; raises SignatureInvalid if they are not one."""
    try:
        (signature,) = fields["signatures"]
        fields["payloadType"].encode()  # a lone surrogate has no bytes that could be signed
        return Envelope(
            fields["payloadType"],
            base64.b64decode(fields["payload"], validate=True),
            base64.b64decode(signature["sig"], validate=True),
        )
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error):
        raise SignatureInvalid(
            "the signature file is not a DSSE envelope with one signature"
        ) from None


def key_hint(public_key_pem: bytes) -> str:
    """SHA-256 of a public key's PEM text: a name for the key, not a proof of anything."""
    return sha256_hex(public_key_pem)


def verify(signed: Envelope, public_key_pem: bytes) -> None:
    """Check the signature with an ECDSA P-256 public key; raises SignatureInvalid."""
    try:
        key = serialization.load_pem_public_key(public_key_pem)
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureInvalid("the public key is not in PEM format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SignatureInvalid("the public key is not an ECDSA P-256 key")
    message = pae(signed.payload_type, signed.payload)
    try:
        key.verify(signed.signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureInvalid("the signature was not made by this key over this content") from None
