"""The statement that is signed for a model: OpenSSF model signing v1.0 with our own claim.

Format: in-toto Statement v1, predicate `https://model_signing/signature/v1.0`; resources are all
signed files, sorted by the parts of their paths; the subject's digest is the SHA-256 over the
concatenated file digests in that order. The predicate has one more field, which verifiers of the
format tolerate: our certification claim under its own URL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import FileDigest
from securetrain.errors import SignatureInvalid
from securetrain.sealed.model import KEY_FILE, SIGNATURE_FILE
from securetrain.signing.dsse import STATEMENT_TYPE

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
CERTIFICATION: Final = "https://securetrain.dev/certification/v1"
UNSIGNED_FILES: Final = (KEY_FILE, SIGNATURE_FILE)


@dataclass(frozen=True, slots=True)
class SignedModel:
    """What a signature says about a model."""

    name: str
    digest: str
    files: Mapping[str, str]
    """SHA-256 hex by relative path."""
    certification: Mapping[str, Any]


def ordered(files: Sequence[FileDigest]) -> list[FileDigest]:
    """The signed files in the format's order: by path parts, so that `a/b` precedes `a.json`."""
    return sorted(
        (file for file in files if file.path not in UNSIGNED_FILES),
        key=lambda file: file.path.split("/"),
    )


def folder_digest(files: Sequence[FileDigest]) -> str:
    """The digest that stands for the whole folder."""
    return sha256_hex(b"".join(bytes.fromhex(file.sha256) for file in ordered(files)))


def build_statement(
    model_name: str, files: Sequence[FileDigest], certification: Mapping[str, Any]
) -> bytes:
    """The statement's bytes; they are signed and stored as they are.

    Args:
        model_name: name of the model's folder.
        files: every file of the folder; `key.json` and `model.sig` are left out.
        certification: our claim; JSON values.
    """
    resources = [
        {"name": file.path, "algorithm": "sha256", "digest": file.sha256} for file in ordered(files)
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": model_name, "digest": {"sha256": folder_digest(files)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(UNSIGNED_FILES),
            },
            "resources": resources,
            CERTIFICATION: dict(certification),
        },
    }
    return json.dumps(statement, separators=(",", ":"), ensure_ascii=False).encode()


def parse_statement(payload: bytes) -> SignedModel:
    """Read a verified statement; raises SignatureInvalid if it is not one of ours."""
    try:
        statement = json.loads(payload)
        predicate = statement["predicate"]
        (subject,) = statement["subject"]
        files = [
            FileDigest(path=entry["name"], sha256=entry["digest"], bytes=0)
            for entry in predicate["resources"]
        ]
        known = (
            statement["_type"] == STATEMENT_TYPE
            and statement["predicateType"] == PREDICATE_TYPE
            and predicate["serialization"]["hash_type"] == "sha256"
            and sorted(predicate["serialization"]["ignore_paths"]) == sorted(UNSIGNED_FILES)
            and subject["digest"]["sha256"] == folder_digest(files)
        )
        model = SignedModel(
            subject["name"],
            subject["digest"]["sha256"],
            {file.path: file.sha256 for file in files},
            predicate[CERTIFICATION],
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise SignatureInvalid(
            "the signed statement is not a securetrain model signature"
        ) from None
    if not known or len(model.files) != len(files):
        raise SignatureInvalid(
            "the signed statement is of an unknown version or contradicts itself"
        )
    return model
