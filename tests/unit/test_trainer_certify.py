"""Certification: what is published, signed, repeated and refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.types import Gate, ModelSpec
from securetrain.audit.chain import genesis, make_line
from securetrain.errors import (
    AuditBroken,
    GatesMissed,
    ModelCorrupt,
    OutputExists,
    SignatureInvalid,
    VaultUnavailable,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain_trainer import training
from securetrain_trainer.certify import run_certification
from support.sealed_folders import sealed_model
from support.trained import Trained, contents, staging
from support.trainer_kit import SPEC_SHA, UID, FakeOperator, GivenKeys, missed, run_spec, signed

pytestmark = pytest.mark.timeout(600)


def test_a_good_model_is_reported_signed_and_published(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    operator = trained.certify(tmp_path)
    assert not staging(tmp_path).exists()
    files = contents(tmp_path / "out" / "model")
    assert set(files) == {
        "model.json", "weights.safetensors.sealed", "policy.json", "key.json",
        "report.json", "report.html", "audit.jsonl", "model.sig",
    }  # fmt: skip
    [request] = operator.requests
    sent = {f.path: f.sha256 for f in request.files}
    assert sent.keys() == files.keys() - {"key.json", "audit.jsonl", "model.sig"}
    for name, digest in sent.items():
        assert digest == hashlib.sha256(files[name]).hexdigest()
    report = json.loads(files["report.json"])
    assert report["verdict"] == "certified"
    told = {m.name: m.value for m in request.metrics}
    assert {m["name"]: m["value"] for m in report["evaluation"]["metrics"]} == told
    assert float(told["accuracy"]) > 0.9
    assert b"Certified" in files["report.html"]
    assert files["model.sig"] == b'{"signed":true}'


def test_a_certify_pod_that_died_anywhere_is_repeated(trained: Trained, tmp_path: Path) -> None:
    folder = trained.copy(tmp_path)
    for name in ("report.json", "audit.jsonl", "model.sig", ".report.html.tmp"):
        (folder / name).write_text("left behind")
    trained.certify(tmp_path)
    first = contents(tmp_path / "out" / "model")
    trained.certify(tmp_path)  # the folder has its final name already
    assert contents(tmp_path / "out" / "model") == first


def test_a_published_model_stays_signed_while_vault_or_the_operator_is_away(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    trained.certify(tmp_path)
    final = tmp_path / "out" / "model"
    first, written = contents(final), (final / "model.sig").stat().st_ino

    def away(*_: object) -> Any:
        raise VaultUnavailable("Vault is away")

    class NoKeys(GivenKeys):
        acquire = away

    keys = NoKeys(trained.keys.deks, trained.keys.model)
    with pytest.raises(VaultUnavailable):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)
    with pytest.raises(VaultUnavailable):
        trained.certify(tmp_path, away)
    trained.certify(tmp_path)
    assert contents(final) == first
    assert (final / "model.sig").stat().st_ino == written


@pytest.mark.parametrize("name", ["report.json", "audit.jsonl", "model.sig", "left"])
def test_what_differs_in_a_published_model_is_done_again(
    trained: Trained, tmp_path: Path, name: str
) -> None:
    trained.copy(tmp_path)
    trained.certify(tmp_path)
    final = tmp_path / "out" / "model"
    first = contents(final)
    (final / name.replace("left", ".report.html.tmp")).write_text("changed")
    trained.certify(tmp_path)
    assert contents(final) == first


def test_only_a_line_feed_ends_an_audit_line(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    first = genesis("team-a", "rows-v1", UID, SPEC_SHA)
    line = make_line(
        job_uid=UID, seq=1, prev=first, kind="x", time="", data={"message": "a\u2028b\x85c"}
    )
    answer = {"audit": line + "\n"}
    trained.certify(tmp_path, lambda r: signed(r).model_copy(update=answer))
    assert contents(tmp_path / "out" / "model")["audit.jsonl"].decode() == line + "\n"


def test_missed_gates_leave_the_model_unsigned(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    gates = (Gate(metric="accuracy", min=1.1),)
    with pytest.raises(GatesMissed, match="accuracy") as caught:
        trained.certify(tmp_path, missed, gates=gates)
    assert caught.value.exit_code == 14
    files = contents(tmp_path / "out" / "model")
    assert "model.sig" not in files
    assert json.loads(files["report.json"])["verdict"] == "gatesMissed"


def test_a_better_model_is_never_replaced_by_one_that_missed(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    final = sealed_model(tmp_path / "out" / "model")
    good = contents(final)
    gates = (Gate(metric="accuracy", min=1.1),)
    with pytest.raises(GatesMissed):
        trained.certify(tmp_path, missed, gates=gates, replace_output=True)
    assert contents(final) == good
    assert (staging(tmp_path) / "report.json").exists()
    trained.certify(tmp_path, replace_output=True)
    assert "model.sig" in contents(final)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model"}


def test_the_operators_verdict_must_be_the_reports(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    with pytest.raises(AuditBroken):
        trained.certify(tmp_path, missed)
    with pytest.raises(SignatureInvalid):
        trained.certify(tmp_path, lambda r: signed(r).model_copy(update={"bundle": None}))
    with pytest.raises(AuditBroken):
        trained.certify(tmp_path, lambda r: signed(r).model_copy(update={"audit": "{}\n"}))
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    "harm", ["flip", "link", "missing", "extra", "policy", "manifest", "folder link"]
)
def test_a_stored_model_that_was_tampered_with_gets_no_key(
    trained: Trained, tmp_path: Path, harm: str
) -> None:
    folder = trained.copy(tmp_path)
    weights = folder / "weights.safetensors.sealed"
    if harm == "flip":
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "link":
        weights.rename(tmp_path / "aside")
        weights.symlink_to(tmp_path / "aside")
    elif harm == "missing":
        weights.unlink()
    elif harm == "extra":
        (folder / "saved_model.pb").write_bytes(b"x")
    elif harm == "policy":
        (folder / "policy.json").write_bytes(b"{}")
    elif harm == "manifest":
        text = (folder / "model.json").read_text()
        (folder / "model.json").write_text(text.replace("rows-v1", "rows-v2"))
    else:
        folder.rename(tmp_path / "aside")
        folder.symlink_to(tmp_path / "aside")
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    with pytest.raises(ModelCorrupt):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)
    assert keys.asked == 0


def test_another_jobs_model_is_refused_even_with_its_own_digests(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    with pytest.raises(ModelCorrupt, match="specSha256"):
        trained.certify(tmp_path, spec_sha256="00" * 32)
    with pytest.raises(ModelCorrupt, match=r"model\.json: model "):
        trained.certify(tmp_path, model=ModelSpec(architecture="mlp"))


def test_a_model_sealed_under_another_key_is_refused(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    keys = GivenKeys(trained.keys.deks, Secret(os.urandom(32)))
    with pytest.raises(WrongKey):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)


def test_the_final_name_is_checked_before_a_key_is_asked_for(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    final = tmp_path / "out" / "model"
    final.mkdir()
    (final / "theirs").write_text("x")
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    phases: list[Callable[[], None]] = [
        lambda: training.run_training(run_spec(tmp_path), keys, FakeOperator(), lambda: 1),
        lambda: run_certification(
            trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1
        ),
    ]
    for phase in phases:
        with pytest.raises(OutputExists) as caught:
            phase()
        assert caught.value.exit_code == 13
    assert keys.asked == 0
