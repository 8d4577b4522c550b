"""What certify pods, `verify`, `inspect` and `open` do with a model that was tampered with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.names import Purpose
from securetrain.cli import main as cli
from securetrain.cli import models as commands
from securetrain.errors import ExitCode, ModelCorrupt
from securetrain.signing.verify import verify_model
from support import hostile
from support.hostile import HARMS, Pod, pod, tree
from support.signed_models import Job, Signer, new_job
from support.trained import contents
from support.trainer_kit import UID, FakeOperator, GivenKeys, policy, seal_dataset

__all__ = ["pod"]
Harm = Callable[[Path, Path], None]
TRAINED = ("model.json", "weights.safetensors.sealed", "policy.json", "key.json")
SIGNED = (
    "model.json", "weights.safetensors.sealed", "policy.json", "report.json", "report.html",
    "audit.jsonl",
)  # fmt: skip
HARM = pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)


@dataclass
class Models:
    """A job's signed model, and another's on the same dataset."""

    root: Path
    signer: Signer
    job: Job

    @property
    def model(self) -> Path:
        return self.root / "signed"

    @property
    def other(self) -> Path:
        return self.root / "other"

    @property
    def key_file(self) -> Path:
        return self.root / "key.pem"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root, signer = tmp_path_factory.mktemp("models"), Signer()
    signer.write_key(root / "key.pem")
    deks = seal_dataset(root / "ours/data", records=20)
    jobs = [new_job(root / "ours", deks), new_job(root / "theirs", deks, "other-" + UID[6:])]
    shutil.copytree(root / "ours", root / "theirs")
    (root / "theirs/data/policy.json").write_bytes(policy(notAfter="2098-01-01T00:00:00Z"))
    for job, name in zip(jobs, ("signed", "other"), strict=True):
        job.train()
        whole = job.copy(root / f"{name}-job")
        whole.certify(Signer(signer.key, job.uid))
        whole.final.rename(root / name)
    return Models(root, signer, jobs[0])


@pytest.fixture
def models(certified: Models, tmp_path: Path) -> Models:
    root = tmp_path / "storage"
    for name in ("signed", "other"):
        shutil.copytree(certified.root / name, root / name)
    shutil.copy(certified.key_file, root / "key.pem")
    return Models(root, certified.signer, certified.job)


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


# The certify pod.


@pytest.mark.parametrize("name", TRAINED)
@HARM
def test_every_harm_to_what_was_trained_ends_the_certify_pod_with_12(
    models: Models, tmp_path: Path, pod: Pod, name: str, harm: Harm
) -> None:
    job = models.job.copy(tmp_path / "job")
    harm(job.staging / name, models.other / name)
    before = tree(job.staging) if harm is not hostile.endless else {}
    operator = FakeOperator(models.signer)
    run = job.run(Purpose.CERTIFY)
    code, reason, message = pod.run(run, lambda run: job.certify_run(run, operator))
    assert (code, reason) == (ExitCode.INTEGRITY, "ModelCorrupt"), message
    assert name in message
    assert (job.keys.asked, operator.requests) == (0, [])  # no key, nothing to sign
    assert not job.final.exists()
    assert not before or tree(job.staging) == before


@pytest.mark.parametrize("moment", ["its keys are granted", "it is judged and signed"])
@pytest.mark.parametrize("what", ["weights", "folder"])
def test_a_model_swapped_under_way_is_not_what_gets_signed(
    models: Models, tmp_path: Path, moment: str, what: str
) -> None:
    """Certify reads once and signs what it hashed; whoever verifies sees the difference."""
    job, signer = models.job.copy(tmp_path / "job"), Signer(models.signer.key)

    def swap() -> None:
        if what == "weights":
            name = "weights.safetensors.sealed"
            (job.staging / name).write_bytes((models.other / name).read_bytes())
        else:
            job.staging.rename(tmp_path / "aside")
            shutil.copytree(models.other, job.staging)

    class Slow(GivenKeys):
        def acquire(self, run: Any, dataset: Any) -> Any:
            swap()
            return super().acquire(run, dataset)

    if moment == "it is judged and signed":
        signer.meanwhile = swap
    else:
        job.keys = Slow(job.keys.deks, job.keys.model)
    operator = job.certify(signer)
    told = {file.path: file.sha256 for file in operator.requests[0].files}
    trained = {file.path: file.sha256 for file in job.files}
    assert told["weights.safetensors.sealed"] == trained["weights.safetensors.sealed"]
    if what == "folder":  # the thief may have the signature as well: it is of other files
        shutil.copy(tmp_path / "aside" / "model.sig", job.final / "model.sig")
    with pytest.raises(ModelCorrupt, match=r"(weights\S+|audit\.jsonl) was changed after signing"):
        verify_model(job.final, signer.public_pem)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "file"])
def test_what_is_planted_where_the_report_will_be_is_replaced_and_leads_nowhere(
    models: Models, tmp_path: Path, kind: str
) -> None:
    job = models.job.copy(tmp_path / "job")
    (tmp_path / "precious").write_text("x")
    for name in ("report.json", "report.html", "audit.jsonl", "model.sig", ".model.sig.tmp"):
        path = job.staging / name
        if kind == "link":
            path.symlink_to(tmp_path / "precious")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            (path / "deeper").mkdir(parents=True)
            (path / "deeper" / "file").write_text("x")
        else:
            path.write_text("x")
    job.certify(models.signer)
    assert (tmp_path / "precious").read_text() == "x"
    assert verify_model(job.final, models.signer.public_pem).signed.files


# verify


def test_the_untouched_model_verifies(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (models.model, models.other):
        assert run_cli(capsys, "verify", folder, "--key", models.key_file)[0] == ExitCode.OK


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SIGNED)
@HARM
def test_verify_names_every_file_that_is_not_the_signed_one(
    models: Models, capsys: pytest.CaptureFixture[str], name: str, harm: Harm
) -> None:
    harm(models.model / name, models.other / name)
    code, error = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    assert code == ExitCode.INTEGRITY, error
    assert name in error


@pytest.mark.timeout(120)
@HARM
def test_verify_accepts_no_other_signature(
    models: Models, capsys: pytest.CaptureFixture[str], harm: Harm
) -> None:
    harm(models.model / "model.sig", models.other / "model.sig")
    code, error = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    assert code == ExitCode.INTEGRITY, error
    # Another model's signature is a good one: of other files.
    assert ("model.sig" in error) is (harm not in (hostile.swapped, hostile.edited))
    assert "sign" in error


@HARM
def test_a_harmed_key_file_costs_the_key_and_nothing_else(
    models: Models, capsys: pytest.CaptureFixture[str], harm: Harm
) -> None:
    """key.json is not signed: a re-wrap replaces it, and it opens only what the KEK allows."""
    harm(models.model / "key.json", models.other / "key.json")
    code, error = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    links = (hostile.linked, hostile.piped, hostile.device)
    assert code == (ExitCode.INTEGRITY if harm in links else ExitCode.OK), error
    assert code == ExitCode.OK or "key.json" in error


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "assets/run.py", ".hidden", "key.json.bak", "a/b/c/d/e/f/g/h/i/j/k"]
)
def test_verify_names_what_was_added(
    models: Models, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (models.model / name).parent.mkdir(parents=True, exist_ok=True)
    (models.model / name).write_text("x")
    code, error = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    assert code == ExitCode.INTEGRITY
    assert name[:16] in error


def test_verify_does_not_get_lost_in_folders_within_folders(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    at = os.open(models.model, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    code, error = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    assert code == ExitCode.INTEGRITY
    assert "deeper than any file" in error
    (models.model / "d").rename(models.root / "deep")
    subprocess.run(["rm", "-rf", models.root / "deep"], check=True)


def test_a_file_that_becomes_a_pipe_after_the_look_is_refused_and_not_waited_for(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from securetrain.signing import verify

    looked = verify.walk(models.model)
    monkeypatch.setattr(verify, "walk", lambda _folder: looked)
    hostile.piped(models.model / "report.json", models.model)
    with pytest.raises(ModelCorrupt, match=r"report\.json is not a regular file"):
        verify_model(models.model, models.signer.public_pem)


# inspect and open


@pytest.mark.parametrize("name", TRAINED)
@HARM
def test_inspect_deep_names_the_harmed_file_of_a_model(
    models: Models, capsys: pytest.CaptureFixture[str], name: str, harm: Harm
) -> None:
    otherwise = {
        ("model.json", hostile.removed): ExitCode.CONFIGURATION,  # no model's folder any more
        ("key.json", hostile.swapped): ExitCode.OK,  # one of its kind: for `verify` and Vault
    }
    harm(models.model / name, models.other / name)
    code, error = run_cli(capsys, "inspect", models.model, "--deep")
    expected = otherwise.get((name, harm), ExitCode.INTEGRITY)
    if (name, harm) == ("key.json", hostile.edited) and code == ExitCode.OK:
        expected = ExitCode.OK  # it hit a letter of the wrapped key, which Vault alone can judge
    assert code == expected, error
    assert code == ExitCode.OK or name in error or "model.json" in error


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors.sealed"])
@HARM
def test_open_writes_nothing_from_a_harmed_model(
    models: Models,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    harm: Harm,
) -> None:
    monkeypatch.setattr(commands, "model_key", lambda *_of: models.job.keys.model)
    destination = models.root / "weights.safetensors"
    assert run_cli(capsys, "open", models.model, destination)[0] == ExitCode.OK
    destination.unlink()
    harm(models.model / name, models.other / name)
    code, error = run_cli(capsys, "open", models.model, destination)
    if (name, harm) == ("model.json", hostile.edited) and code == ExitCode.OK:
        return  # a word of the description that nothing but the signature binds
    assert code == ExitCode.INTEGRITY, error
    assert name in error or "key" in error
    assert not destination.exists()


# report: shown without any key, so it is believed by nobody, but it must not harm its reader


@pytest.mark.timeout(120)
@pytest.mark.parametrize("output", ["text", "json"])
@HARM
def test_report_is_shown_or_refused_in_one_line(
    models: Models, capsys: pytest.CaptureFixture[str], harm: Harm, output: str
) -> None:
    harm(models.model / "report.json", models.other / "report.json")
    code, error = run_cli(capsys, "report", models.model, "-o", output)
    if harm not in (hostile.swapped, hostile.edited):
        assert code == ExitCode.INTEGRITY
        assert "report.json" in error
    assert code in (ExitCode.OK, ExitCode.INTEGRITY)


@pytest.mark.parametrize(
    "change",
    [
        {"gates": 5},
        {"gates": [{"metric": {}, "rule": [], "value": 1, "passed": "x"}]},
        {"gates": [{}]},
        {"evaluation": []},
        {"evaluation": {"metrics": [{"name": {}, "value": [1]}]}},
        {"evaluation": {"metrics": {"a": 1}}},
        {"evaluation": {"metrics": [{"name": "\x1b[2J", "value": "\x9b31m\u202e"}]}},
        {"note": "\ud800"},
    ],
)
def test_a_report_of_odd_content_is_no_bug(
    models: Models, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    file = models.model / "report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for output in ("text", "json"):
        code = cli.main(["report", str(models.model), "-o", output])
        shown = capsys.readouterr()
        assert code in (ExitCode.OK, ExitCode.INTEGRITY), shown.err
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown.out + shown.err) or output == "json"
    verify_is_no_better_off = run_cli(capsys, "verify", models.model, "--key", models.key_file)
    assert verify_is_no_better_off[0] == ExitCode.INTEGRITY


def test_nothing_of_a_report_page_can_run_or_call_home(models: Models) -> None:
    """The page is signed as it is; before that it is written by the certify pod alone."""
    page = contents(models.model)["report.html"].decode()
    assert "default-src 'none'" in page
    for word in ("<script", "http://", "https://", "javascript:", " onload=", "<iframe", "@import"):
        assert word not in page.lower()
