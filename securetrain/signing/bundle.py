"""The file `model.sig`: a Sigstore bundle v0.3 around a DSSE envelope, as OpenSSF writes it."""

from __future__ import annotations

import json
from typing import Final

from securetrain.errors import SignatureInvalid
from securetrain.signing import dsse
from securetrain.signing.statement import SignedModel, parse_statement

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def build_bundle(payload: bytes, signature: bytes, public_key_pem: bytes) -> str:
    """The text of model.sig.

    Args:
        payload: the statement's bytes.
        signature: ASN.1 DER over the payload's pre-authentication encoding.
        public_key_pem: SubjectPublicKeyInfo PEM; only its hash is stored, as a hint.
    """
    return json.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": dsse.key_hint(public_key_pem)},
                "tlogEntries": [],
            },
            "dsseEnvelope": dsse.envelope_fields(dsse.INTOTO_TYPE, payload, signature),
        }
    )


def verify_bundle(text: str, public_key_pem: bytes) -> SignedModel:
    """What a bundle says, once verified with the pinned public key; raises SignatureInvalid."""
    if len(text) > dsse.MAX_ENVELOPE:
        raise SignatureInvalid(f"model.sig has {len(text)} bytes, more than {dsse.MAX_ENVELOPE}")
    try:
        fields = json.loads(text)
        media_type, envelope = fields["mediaType"], fields["dsseEnvelope"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SignatureInvalid("model.sig is not a signature bundle") from None
    signed = dsse.parse_envelope(envelope)
    if media_type != MEDIA_TYPE or signed.payload_type != dsse.INTOTO_TYPE:
        raise SignatureInvalid("model.sig is a bundle of an unknown type")
    dsse.verify(signed, public_key_pem)
    return parse_statement(signed.payload)
