"""Verification of a stored model with nothing but its folder and a pinned public key."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from securetrain.audit import chain
from securetrain.errors import AuditBroken, ModelCorrupt, SignatureInvalid
from securetrain.sealed import files
from securetrain.sealed.model import (
    AUDIT_FILE,
    MAX_AUDIT_BYTES,
    MAX_WEIGHTS_BYTES,
    SIGNATURE_FILE,
)
from securetrain.signing.bundle import verify_bundle
from securetrain.signing.dsse import MAX_ENVELOPE
from securetrain.signing.statement import UNSIGNED_FILES, SignedModel

MAX_DEPTH: Final = 8


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
    if not os.path.lexists(folder / SIGNATURE_FILE):
        raise SignatureInvalid(
            f"{folder} holds no {SIGNATURE_FILE}: the model was not signed",
            fix="see report.json: a model that missed a gate is sealed and reported, not signed",
        )
    bundle = files.read(folder, SIGNATURE_FILE, MAX_ENVELOPE, SignatureInvalid)
    signed = verify_bundle(bundle.decode(errors="replace"), public_key_pem)
    compare_files(folder, signed.files)
    return VerifiedModel(signed, verify_audit(folder, signed.certification))


def compare_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare all files below a folder with signed digests; raises ModelCorrupt."""
    found = {path for path in walk(folder) if path not in UNSIGNED_FILES}
    for path in sorted(found ^ expected.keys()):
        state = "is missing" if path in expected else "was added after signing"
        raise ModelCorrupt(f"{path} {state}", fix="restore the folder as it was signed")
    for path, digest in sorted(expected.items()):
        if files.digest(folder, path, MAX_WEIGHTS_BYTES, ModelCorrupt)[1] != digest:
            raise ModelCorrupt(
                f"{path} was changed after signing", fix="restore the folder as it was signed"
            )


def walk(folder: Path) -> list[str]:
    """Relative paths of all files below a folder; raises ModelCorrupt for a link or device."""
    paths: list[str] = []

    def unreadable(failure: OSError) -> NoReturn:
        raise ModelCorrupt(f"{failure.filename} cannot be looked at, or changes meanwhile")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        for name in (*folders, *names):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if relative.count("/") > MAX_DEPTH:
                raise ModelCorrupt(f"{relative:.80} lies deeper than any file of a model")
            try:
                mode = path.lstat().st_mode
            except OSError as failure:
                unreadable(failure)
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ModelCorrupt(f"{relative} is a link or a special file")
            if stat.S_ISREG(mode):
                paths.append(relative)
    return paths


def verify_audit(folder: Path, claim: Mapping[str, Any]) -> tuple[chain.Record, ...]:
    """Check audit.jsonl against the signed claim; raises AuditBroken."""
    data = files.read(folder, AUDIT_FILE, MAX_AUDIT_BYTES, AuditBroken)
    try:
        job, audit = claim["job"], claim["audit"]
        first = chain.genesis(job["namespace"], job["name"], job["uid"], job["specSha256"])
        records = chain.verify_chain(chain.split_lines(data.decode()), first)
        whole = (len(records), records[-1].sha256) == (audit["records"], audit["head"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise AuditBroken("the signed claim does not name an audit trail that fits") from None
    if not whole:
        raise AuditBroken("audit.jsonl does not end at the head that was signed")
    return records
