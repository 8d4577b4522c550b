"""The signed head of an audit chain: proof, for failed jobs too, that nothing was cut off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from securetrain.api.gateway import JobRef
from securetrain.errors import SignatureInvalid
from securetrain.signing import dsse

PREDICATE_TYPE: Final = "https://securetrain.dev/audit-head/v1"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """What a head statement says."""

    job: JobRef
    genesis: str
    head: str
    records: int


def head_statement(job: JobRef, *, genesis: str, head: str, records: int) -> bytes:
    """In-toto statement over the digest of a chain's last record.

    Args:
        job: the job that the chain belongs to.
        genesis: the `prev` of its first record, SHA-256 hex.
        head: SHA-256 hex of its last record.
        records: its length.
    """
    statement = {
        "_type": dsse.STATEMENT_TYPE,
        "subject": [{"name": "audit-head", "digest": {"sha256": head}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"job": job.to_wire(), "genesis": genesis, "records": records},
    }
    return json.dumps(statement, separators=(",", ":")).encode()


def verify_head(text: str, public_key_pem: bytes) -> SignedHead:
    """Verify a signed head with the pinned public key; raises SignatureInvalid."""
    try:
        signed = dsse.parse_envelope(json.loads(text))
    except (ValueError, RecursionError):
        raise SignatureInvalid("the signed audit head is not JSON") from None
    dsse.verify(signed, public_key_pem)
    try:
        statement = json.loads(signed.payload)
        if statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError("another predicate")
        predicate = statement["predicate"]
        (subject,) = statement["subject"]
        return SignedHead(
            JobRef.model_validate(predicate["job"]),
            predicate["genesis"],
            subject["digest"]["sha256"],
            predicate["records"],
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SignatureInvalid("the signed statement is not an audit head") from None
