"""Signatures of models, judged by OpenSSF's own verifier."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import FileDigest, JobRef
from securetrain.audit import chain
from securetrain.errors import AuditBroken, ModelCorrupt, SignatureInvalid
from securetrain.signing import bundle, dsse, head
from securetrain.signing.statement import build_statement
from securetrain.signing.verify import verify_model
from support import openssf

JOB = {"namespace": "team-a", "name": "digits", "uid": "uid-1", "specSha256": "ab" * 32}


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    return key.sign(dsse.pae(dsse.INTOTO_TYPE, payload), ec.ECDSA(hashes.SHA256()))


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def model(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    folder = tmp_path / "digits-v7"
    (folder / "variants").mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    (folder / "variants" / "a.sealed").write_bytes(b"\x28" * 100)
    (folder / "variants.json").write_text("sorts after variants/ by path parts")
    (folder / "key.json").write_text("replaceable, so not signed")
    line = chain.make_line(
        job_uid="uid-1",
        seq=1,
        prev=chain.genesis("team-a", "digits", "uid-1", "ab" * 32),
        kind="verdict",
        time="2026-01-01T00:00:00Z",
        data={"outcome": "certified"},
    )
    (folder / "audit.jsonl").write_text(line + "\n")
    files = [
        FileDigest(
            path=path.relative_to(folder).as_posix(),
            sha256=sha256_hex(path.read_bytes()),
            bytes=path.stat().st_size,
        )
        for path in folder.rglob("*")
        if path.is_file()
    ]
    claim = {"job": JOB, "audit": {"records": 1, "head": chain.line_sha256(line)}}
    payload = build_statement(folder.name, files, claim)
    (folder / "model.sig").write_text(bundle.build_bundle(payload, sign(key, payload), pem(key)))
    (tmp_path / "key.pem").write_bytes(pem(key))
    return folder


@pytest.mark.timeout(600)
def test_openssf_verifier_accepts_the_folder_and_refuses_it_after_one_flipped_byte(
    model: Path,
) -> None:
    assert openssf.accepts(model, model.parent / "key.pem")
    (model / "key.json").write_text("re-wrapped under another version")
    assert openssf.accepts(model, model.parent / "key.pem")
    sealed = model / "variants" / "a.sealed"
    sealed.write_bytes(bytes([sealed.read_bytes()[0] ^ 1]) + sealed.read_bytes()[1:])
    assert not openssf.accepts(model, model.parent / "key.pem")


def test_the_whole_folder_verifies(model: Path, key: ec.EllipticCurvePrivateKey) -> None:
    verified = verify_model(model, pem(key))
    assert verified.claim["job"] == JOB
    assert [record.seq for record in verified.records] == [1]


@pytest.mark.parametrize("path", ["model.json", "variants/a.sealed", "audit.jsonl"])
def test_a_changed_file_is_named(model: Path, key: ec.EllipticCurvePrivateKey, path: str) -> None:
    (model / path).write_bytes((model / path).read_bytes() + b" ")
    with pytest.raises(ModelCorrupt, match=path):
        verify_model(model, pem(key))


def test_an_added_missing_or_linked_file_is_named(
    model: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    (model / "extra").write_text("x")
    with pytest.raises(ModelCorrupt, match="extra was added"):
        verify_model(model, pem(key))
    (model / "extra").unlink()
    (model / "extra").symlink_to("model.json")
    with pytest.raises(ModelCorrupt, match="extra is a link"):
        verify_model(model, pem(key))
    (model / "extra").unlink()
    (model / "model.json").unlink()
    with pytest.raises(ModelCorrupt, match=r"model\.json is missing"):
        verify_model(model, pem(key))


def test_another_key_and_no_signature_are_refused(model: Path) -> None:
    with pytest.raises(SignatureInvalid, match="not made by this key"):
        verify_model(model, pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(SignatureInvalid, match="not an ECDSA P-256"):
        verify_model(model, pem(ec.generate_private_key(ec.SECP384R1())))
    (model / "model.sig").unlink()
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify_model(model, b"")


def test_a_chain_that_is_not_the_signed_one_is_refused(
    model: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    line = (model / "audit.jsonl").read_text().strip()
    files = [FileDigest(path="audit.jsonl", sha256=sha256_hex((line + "\n").encode()), bytes=1)]
    claim = {"job": JOB, "audit": {"records": 2, "head": chain.line_sha256(line)}}
    payload = build_statement(model.name, files, claim)
    for path in ("model.json", "variants.json", "variants/a.sealed"):
        (model / path).unlink()
    (model / "model.sig").write_text(bundle.build_bundle(payload, sign(key, payload), pem(key)))
    with pytest.raises(AuditBroken, match="does not end at the head"):
        verify_model(model, pem(key))


def test_a_signed_head_verifies_and_a_changed_one_does_not(
    key: ec.EllipticCurvePrivateKey,
) -> None:
    job = JobRef(namespace="team-a", name="digits", uid="uid-1")
    payload = head.head_statement(job, genesis="0" * 64, head="1" * 64, records=3)
    text = dsse.envelope(dsse.INTOTO_TYPE, payload, sign(key, payload))
    assert head.verify_head(text, pem(key)) == head.SignedHead(job, "0" * 64, "1" * 64, 3)
    other = head.head_statement(job, genesis="0" * 64, head="2" * 64, records=3)
    with pytest.raises(SignatureInvalid):
        head.verify_head(dsse.envelope(dsse.INTOTO_TYPE, other, sign(key, payload)), pem(key))
