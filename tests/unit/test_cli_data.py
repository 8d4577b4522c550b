"""What a data owner sees: commands, their output, their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from securetrain.cli import main as cli
from securetrain.errors import ExitCode, TryAgain
from securetrain.sealed.model import KEY_FILE, MODEL_FILE, WEIGHTS_FILE
from securetrain.sealed.strict_json import dump
from support.sealed_folders import POLICY, sealed_dataset, sealed_model

JOB = """
apiVersion: securetrain.dev/v1alpha1
kind: SecureTrainingJob
metadata: {name: digits-v1, namespace: team-a}
spec:
  datasets: [{name: digits, uri: pvc://datasets/digits}]
  model: {architecture: cnn}
  output: {uri: pvc://models/digits-v1, kek: team-a-models}
"""


@pytest.fixture(autouse=True)
def _no_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT", cli.DEBUG_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A valid policy file."""
    path = tmp_path / "policy.json"
    path.write_bytes(dump(POLICY))
    return path


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job that the policy allows."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    for command in ("seal", "inspect", "policy", "new"):
        assert command in out
    assert run(capsys, "--version")[1].startswith("securetrain 0.")


@pytest.mark.parametrize(
    "arguments", [["nope"], ["seal"], ["seal", "--nope"], ["policy"], ["inspect", "x", "-o", "xml"]]
)
def test_usage_errors_exit_with_2_and_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "fix"]


def test_our_errors_have_their_exit_code_and_say_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TryAgain("it is raining\x1b[2J", fix="wait")

    monkeypatch.setattr("securetrain.cli.data.inspect_folder", fail)
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == ExitCode.TRY_AGAIN
    assert err == "error: it is raining\\x1b[2J\nfix: wait\n"


def test_a_bug_is_one_line_without_what_it_was_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("hvs.secret")

    monkeypatch.setattr("securetrain.cli.data.inspect_folder", fail)
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == ExitCode.BUG
    assert "KeyError" in err
    assert "hvs.secret" not in err
    assert len(err.splitlines()) == 2
    assert "Traceback" in run(capsys, "--debug", "inspect", tmp_path)[2]
    monkeypatch.setenv(cli.DEBUG_ENV, "1")
    assert "Traceback" in run(capsys, "inspect", tmp_path)[2]


def test_inspect_a_dataset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    code, out, _ = run(capsys, "inspect", written.folder, "--deep")
    assert code == 0
    for text in (written.sha256, "4×3×1", "transit/team-a-digits", "team-a-models", "digests"):
        assert text in out
    code, out, _ = run(capsys, "inspect", written.folder, "-o", "json")
    assert code == 0
    value: dict[str, Any] = json.loads(out)
    assert value["kind"] == "dataset"
    assert value["digest"] == f"sha256:{written.sha256}"
    assert sum(value["splits"].values()) == 300
    assert value["checked"] == "sizes"


def test_inspect_names_the_damaged_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    shard = sorted((written.folder / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert run(capsys, "inspect", written.folder)[0] == 0
    code, out, err = run(capsys, "inspect", written.folder, "--deep")
    assert (code, out) == (ExitCode.INTEGRITY, "")
    assert shard.name in err
    (written.folder / "train.index.jsonl").unlink()
    code, _, err = run(capsys, "inspect", written.folder)
    assert code == ExitCode.INTEGRITY
    assert "train.index.jsonl" in err


def test_inspect_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == ExitCode.CONFIGURATION
    assert "neither dataset.json nor model.json" in err


def test_seal_without_vault_says_what_to_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    options = ["seal", "x.npz", "out", "--kek", "k", "--policy", policy]
    code, _, err = run(capsys, *options)
    assert code == ExitCode.USAGE
    assert "VAULT_ADDR" in err
    monkeypatch.setenv("VAULT_ADDR", "https://vault:8200")
    code, _, err = run(capsys, *options)
    assert code == ExitCode.USAGE
    assert "vault login" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dest": "gs://bucket/x"}, "write pvc://<claim>/<path> or s3://<bucket>/<prefix>"),
        ({"dest": "pvc://datasets/../x"}, "write pvc://<claim>/<path> or s3://<bucket>/<prefix>"),
        ({"dest": "s3://bucket"}, "write s3://bucket/NAME"),
        ({"--staging": "elsewhere"}, "leave it out: DEST is the folder itself"),
        ({"--split": "80/20"}, "80/10/10"),
        ({"--policy": "none.json"}, "new policy"),
    ],
)
def test_seal_refuses_bad_arguments_before_it_works(
    capsys: pytest.CaptureFixture[str], policy: Path, change: dict[str, str], says: str
) -> None:
    options = {"--kek": "k", "--policy": str(policy), **change}
    dest = options.pop("dest", "out")
    pairs = [part for pair in options.items() for part in pair]
    code, _, err = run(capsys, "seal", "x.npz", dest, *pairs)
    assert code == ExitCode.CONFIGURATION
    assert says in err


def test_inspect_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = sealed_model(tmp_path / "model")
    code, out, _ = run(capsys, "inspect", folder, "--deep")
    assert code == 0
    assert "team-a/digits-v1" in out
    assert json.loads(run(capsys, "inspect", folder, "-o", "json")[1])["kind"] == "model"


@pytest.mark.parametrize("name", [MODEL_FILE, KEY_FILE, "policy.json", WEIGHTS_FILE])
def test_inspect_finds_a_changed_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    file = sealed_model(tmp_path / "model") / name
    file.write_bytes(file.read_bytes().replace(b"w", b"v"))
    code, out, err = run(capsys, "inspect", file.parent, "--deep")
    assert (code, out) == (ExitCode.INTEGRITY, "")
    assert name in err
