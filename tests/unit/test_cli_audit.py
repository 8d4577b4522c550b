"""`audit verify` against trails that somebody cut, and what it says of Vault's log."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from securetrain import jobs
from securetrain.api.digest import canonical_sha256
from securetrain.api.gateway import JobRef
from securetrain.api.names import AUDIT_KEY, HEAD_KEY
from securetrain.api.types import JobSpec
from securetrain.audit import chain
from securetrain.cli import kube
from securetrain.cli.main import main
from securetrain.errors import ExitCode
from securetrain.signing import dsse
from securetrain.signing.head import head_statement
from support.samples import training_job

REF = JobRef(namespace="team-a", name="digits-v7", uid="uid-1")
KEY = ec.generate_private_key(ec.SECP256R1())
GRANT = {"podUID": "p", "podIP": "10.0.0.9", "keys": [{"name": "train", "kek": "kek"}]}
KINDS = [("job.accepted", {}), ("grant.recorded", GRANT), ("job.finished", {})]


@dataclass
class Cluster:
    """A job with its status, and the ConfigMap that mirrors its trail."""

    key: Path
    phase: str = "Succeeded"
    lines: list[str] = field(default_factory=list)
    head: str | None = None

    def __post_init__(self) -> None:
        self._spec = training_job()["spec"]
        spec_sha256 = canonical_sha256(JobSpec.model_validate(self._spec).run_content())
        self.genesis = chain.genesis(REF.namespace, REF.name, REF.uid, spec_sha256)
        prev = self.genesis
        for seq, (kind, data) in enumerate(KINDS, start=1):
            line = chain.make_line(
                job_uid=REF.uid, seq=seq, prev=prev, kind=kind, time="2026-01-01T00:00:00Z",
                data=data,
            )  # fmt: skip
            self.lines.append(line)
            prev = chain.line_sha256(line)
        self.audit = {"records": len(self.lines), "head": prev}
        self.sign()

    def sign(self) -> None:
        """Sign the head of the trail."""
        head, records = chain.line_sha256(self.lines[-1]), len(self.lines)
        payload = head_statement(REF, genesis=self.genesis, head=head, records=records)
        signature = KEY.sign(dsse.pae(dsse.INTOTO_TYPE, payload), ec.ECDSA(hashes.SHA256()))
        self.head = dsse.envelope(dsse.INTOTO_TYPE, payload, signature)

    def read(self, *_: object) -> dict[str, Any]:
        metadata = {"namespace": REF.namespace, "name": REF.name, "uid": REF.uid}
        status = {"phase": self.phase, "audit": self.audit}
        return {"metadata": metadata, "spec": self._spec, "status": status}

    def mirror(self, *_: object) -> dict[str, str]:
        text = "".join(f"{line}\n" for line in self.lines)
        return {AUDIT_KEY: text, **({HEAD_KEY: self.head} if self.head else {})}

    def verify(self, *more: str) -> int:
        return main(["audit", "verify", REF.name, "-n", "team-a", "--key", str(self.key), *more])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A job that has ended, with a whole trail."""
    key = tmp_path / "key.pem"
    key.write_bytes(
        KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    cluster = Cluster(key)
    monkeypatch.setattr(kube, "api", lambda context=None: None)
    monkeypatch.setattr(jobs, "read", cluster.read)
    monkeypatch.setattr(jobs, "audit_data", cluster.mirror)
    return cluster


def test_a_whole_trail_holds(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.verify() == 0
    assert "…, signed" in capsys.readouterr().out


def test_the_head_of_a_job_that_has_ended_is_signed(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.head = None
    for cluster.phase in ("Succeeded", "Failed"):
        assert cluster.verify() == ExitCode.INTEGRITY
        assert "no signed head" in capsys.readouterr().err
    cluster.phase = "Training"
    assert cluster.verify() == 0


def test_a_trail_without_its_end_is_found(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.lines.pop()
    assert cluster.verify() == ExitCode.INTEGRITY
    cluster.head, cluster.phase = None, "Certifying"
    assert cluster.verify() == ExitCode.INTEGRITY
    assert "status tells of 3: records were cut off" in capsys.readouterr().err


def test_a_trail_that_ends_otherwise_is_found(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.head, cluster.phase = None, "Training"
    last = chain.parse_line(cluster.lines[-1])
    cluster.lines[-1] = chain.make_line(
        job_uid=REF.uid, seq=3, prev=last.prev, kind="other", time=last.time, data={}
    )
    assert cluster.verify() == ExitCode.INTEGRITY
    assert "record 3 of the trail is not the one" in capsys.readouterr().err


def test_a_status_may_lag_behind_the_trail(cluster: Cluster) -> None:
    cluster.head, cluster.phase = None, "Training"
    cluster.audit = {"records": 2, "head": chain.line_sha256(cluster.lines[1])}
    assert cluster.verify() == 0
    cluster.audit = {"records": 2, "head": chain.line_sha256(cluster.lines[2])}
    assert cluster.verify() == ExitCode.INTEGRITY


def decrypt(policy: str) -> str:
    auth = {"policies": [policy]}
    request = {"path": "transit/decrypt/kek", "remote_address": "10.0.0.1"}
    call = {"type": "response", "time": "2026-01-01T00:00:00Z", "auth": auth, "request": request}
    return json.dumps(call)


def test_owners_may_decrypt(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "vault.log"
    log.write_text(decrypt("st-owner-team-a") + "\n")
    assert cluster.verify("--vault-log", str(log)) == 0
    out = capsys.readouterr().out
    assert "✓ Vault log  0 decrypts, 0 signatures, 0 unwraps: each has its record" in out
    assert "; owner decrypts 1\n" in out


def test_all_findings_are_listed(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "vault.log"
    log.write_text("\n".join(map(decrypt, ("st-train-team-a", "st-certify-team-a", "root"))))
    asked = ("--vault-log", str(log))
    assert cluster.verify(*asked) == ExitCode.INTEGRITY
    text = capsys.readouterr()
    assert text.out.count("✗ Vault answered a decrypt at transit/decrypt/kek") == 2
    assert "disagree in 2 ways" in text.err
    assert cluster.verify(*asked, "--output", "json") == ExitCode.INTEGRITY
    found = json.loads(capsys.readouterr().out)["vault"]
    assert found["ownerDecrypts"] == 1
    assert [sorted(finding) for finding in found["findings"]] == [["fix", "what"]] * 2
