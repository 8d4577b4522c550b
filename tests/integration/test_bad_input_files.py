"""Wrong policies, datasets, settings, values, job files and command lines: one clear error each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from localcluster.pki import Authority
from securetrain.cli import main as cli
from securetrain.errors import ExitCode
from securetrain.sealed.strict_json import dump
from support import bad_files, chart, samples
from support.bad_files import Object, Wrong
from support.operator_process import ROOT, TRAINER
from support.sealed_folders import POLICY, sealed_dataset

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Exit code and standard error of a command, without Vault and cluster."""
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT", cli.DEBUG_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))

    def command(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return command


def check(row: Wrong, said: str) -> None:
    """Two lines: what is wrong, with field and value, and what to do."""
    lines = said.splitlines()
    assert len(lines) == 2, said
    error, fix = lines
    assert error.startswith("error: ")
    assert row.field in error
    assert row.value in error
    assert fix.startswith("fix: ")
    assert row.fix in fix


@pytest.mark.parametrize("row", bad_files.POLICIES, ids=lambda row: row.name)
def test_a_wrong_policy_is_refused(run: Run, tmp_path: Path, row: Wrong) -> None:
    file = tmp_path / "policy.json"
    file.write_text(row.applied(json.loads(dump(POLICY))))
    code, said = run("policy", "check", file)
    assert code == ExitCode.CONFIGURATION
    check(row, said)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sealed_dataset(tmp_path_factory.mktemp("sealed"), records=60)[0].folder
    return Path(folder)


@pytest.mark.parametrize("row", bad_files.FOLDERS, ids=lambda row: row.name)
def test_a_wrong_dataset_is_refused(run: Run, sealed: Path, row: Wrong) -> None:
    file = sealed / row.file
    good = file.read_text()
    content: Object = json.loads(good) if row.file.endswith(".json") else {}
    file.write_text(row.applied(content))
    try:
        code, said = run("inspect", sealed)
    finally:
        file.write_text(good)
    assert code == ExitCode.INTEGRITY
    check(row, said)


@pytest.mark.parametrize("row", bad_files.JOBS, ids=lambda row: row.name)
def test_a_wrong_job_file_is_refused_before_it_is_sent(
    run: Run, tmp_path: Path, row: Wrong
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(row.applied(samples.training_job()))
    code, said = run("submit", file)
    assert code == ExitCode.CONFIGURATION
    check(row, said)


@pytest.mark.parametrize(
    ("code", "arguments", "row"),
    bad_files.COMMANDS,
    ids=[row.name for _, _, row in bad_files.COMMANDS],
)
def test_a_wrong_command_line_is_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    arguments: list[str],
    row: Wrong,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, said = run(*arguments)
    assert found == code
    check(row, said)


OPERATOR = """
import os, sys
from securetrain_operator.__main__ import main
for path in sys.argv[1:]:
    os.environ["SECURETRAIN_SETTINGS"] = path
    print(main())
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[int, Object]]:
    """Exit code and log line of the operator's entry point, by row; one interpreter for all."""
    folder = tmp_path_factory.mktemp("settings")
    good = settings(Authority(folder, "ca").certificate.read_text())
    files = [folder / f"{row.name}.yaml" for row in bad_files.SETTINGS]
    for row, file in zip(bad_files.SETTINGS, files, strict=True):
        file.write_text(row.applied(good))
    done = subprocess.run(
        [sys.executable, "-c", OPERATOR, *map(str, files), str(folder / "absent")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    codes = [int(line) for line in done.stdout.splitlines()]
    names = [*(row.name for row in bad_files.SETTINGS), "absent"]
    return dict(zip(names, zip(codes, lines, strict=True), strict=True))


def settings(ca: str) -> Object:
    """Settings that are right."""
    return {
        "namespace": "securetrain-system",
        "audience": "a",
        "trainerImage": TRAINER,
        "gatewayUrl": "https://gateway.default.svc",
        "gatewayPort": 8443,
        "gatewayNames": ["gateway.default.svc"],
        "vaultConnections": [{"address": "https://vault:8200", "ca": ca}],
    }


ABSENT = Wrong("absent", {}, "settings", "cannot be read", "mount the chart's ConfigMap")


@pytest.mark.parametrize("row", [*bad_files.SETTINGS, ABSENT], ids=lambda row: row.name)
def test_wrong_settings_end_the_operator(
    ended: Mapping[str, tuple[int, Object]], row: Wrong
) -> None:
    code, line = ended[row.name]
    assert code == ExitCode.CONFIGURATION
    assert line["reason"] == "InvalidInput"
    error, _, fix = line["message"].partition(". Fix: ")
    assert row.field in error
    assert row.value in error
    assert row.fix in error + fix
    assert fix


@pytest.mark.parametrize("row", bad_files.VALUES, ids=lambda row: row.name)
def test_wrong_values_are_refused_by_helm(row: Wrong) -> None:
    values = yaml.safe_load(row.applied(chart.VALUES))
    with pytest.raises(chart.ChartError) as refused:
        chart.render(values)
    said = str(refused.value)
    for part in (row.field, row.value, row.fix):
        assert part in said
    assert "goroutine" not in said
