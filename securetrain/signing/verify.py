"""Verification of a stored model with nothing but its folder and a pinned public key."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetrain.audit import chain
from securetrain.errors import AuditBroken, ModelCorrupt, SignatureInvalid
from securetrain.sealed.model import AUDIT_FILE, SIGNATURE_FILE
from securetrain.signing.bundle import verify_bundle
from securetrain.signing.statement import UNSIGNED_FILES, SignedModel


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model whose signature, files and audit trail hold."""

    signed: SignedModel
    records: tuple[chain.Record, ...]

    @property
    def claim(self) -> Mapping[str, Any]:
        """The certification claim that was signed."""
        return self.signed.certification


def verify_model(folder: Path, public_key_pem: bytes) -> VerifiedModel:
    """Check a model folder against its signature.

    Raises:
        SignatureInvalid: there is no signature, or it does not fit the key.
        ModelCorrupt: a file is missing, added, changed, or not a plain file; it is named.
        AuditBroken: audit.jsonl is not the chain whose head was signed.
    """
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise SignatureInvalid(
            f"{folder} holds no {SIGNATURE_FILE}: the model was not signed",
            fix="see report.json: a model that missed a gate is sealed and reported, not signed",
        )
    signed = verify_bundle(signature.read_text(errors="replace"), public_key_pem)
    compare_files(folder, signed.files)
    return VerifiedModel(signed, verify_audit(folder / AUDIT_FILE, signed.certification))


def compare_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare all files below a folder with signed digests; raises ModelCorrupt."""
    found = {path for path in walk(folder) if path not in UNSIGNED_FILES}
    for path in sorted(found ^ expected.keys()):
        state = "is missing" if path in expected else "was added after signing"
        raise ModelCorrupt(f"{path} {state}", fix="restore the folder as it was signed")
    for path, digest in sorted(expected.items()):
        if file_sha256(folder / path) != digest:
            raise ModelCorrupt(
                f"{path} was changed after signing", fix="restore the folder as it was signed"
            )


def walk(folder: Path) -> list[str]:
    """Relative paths of all files below a folder; raises ModelCorrupt for a link or device."""
    paths: list[str] = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ModelCorrupt(f"{relative} is a link or a special file")
            if stat.S_ISREG(mode):
                paths.append(relative)
    return paths


def file_sha256(path: Path) -> str:
    """SHA-256 hex of a file, read without following a link."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_audit(path: Path, claim: Mapping[str, Any]) -> tuple[chain.Record, ...]:
    """Check audit.jsonl against the signed claim; raises AuditBroken."""
    try:
        job, audit = claim["job"], claim["audit"]
        first = chain.genesis(job["namespace"], job["name"], job["uid"], job["specSha256"])
        records = chain.verify_chain(chain.split_lines(path.read_text()), first)
        whole = (len(records), records[-1].sha256) == (audit["records"], audit["head"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise AuditBroken("the signed claim does not name an audit trail that fits") from None
    if not whole:
        raise AuditBroken("audit.jsonl does not end at the head that was signed")
    return records
