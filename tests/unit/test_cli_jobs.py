"""What an ML engineer sees: jobs described, submitted and watched."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from securetrain import jobs
from securetrain.cli import kube
from securetrain.cli.jobs import last_line
from securetrain.cli.main import main
from securetrain.errors import ExitCode
from support.samples import training_job

NEW = ["new", "job", "--name", "digits-v7", "--dataset", "pvc://datasets/digits"]
NEW += ["--output-uri", "pvc://models/digits-v7", "--kek", "team-a-models", "-n", "team-a"]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The namespaces that jobs were sent to."""
    sent: list[str] = []

    def submit(api: object, namespace: str, manifest: dict[str, Any]) -> tuple[Any, bool]:
        sent.append(namespace)
        return {"metadata": {**manifest["metadata"], "uid": "uid-1"}}, True

    monkeypatch.setattr(kube, "api", lambda context=None: None)
    monkeypatch.setattr(jobs, "submit", submit)
    return sent


def test_a_new_job_is_yaml_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(NEW) == 0
    text = capsys.readouterr().out
    assert main([*NEW, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(text)
    assert yaml.safe_load(text)["spec"]["output"]["uri"] == "pvc://models/digits-v7"
    assert main([*NEW, "--output", "pvc://models/digits-v7"]) == ExitCode.USAGE


def test_a_new_policy_is_json_in_either_form(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["new", "policy", "--namespace", "team-a", "--output-kek", "team-a-models"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert main([*asked, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(text)


@pytest.mark.parametrize(
    ("own", "asked", "used"),
    [
        ("team-a", None, "team-a"),
        ("team-a", "team-a", "team-a"),
        (None, "team-b", "team-b"),
        ("team-a", "team-b", None),
        (7, None, None),
    ],
)
def test_two_namespaces_must_not_contradict_each_other(
    submitted: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    own: Any,
    asked: str | None,
    used: str | None,
) -> None:
    job = training_job()
    job["metadata"] = {"name": "digits-v7", **({"namespace": own} if own else {})}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    where = ["-n", asked] if asked else []
    code = main(["submit", str(tmp_path / "job.yaml"), *where])
    assert submitted == ([used] if used else [])
    assert code == (0 if used else ExitCode.CONFIGURATION)
    assert ("metadata.namespace" in capsys.readouterr().err) is (used is None)


def test_durations_do_not_know_summer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    job = training_job()
    job["metadata"]["uid"] = "uid-1"
    times = {"startTime": "2026-03-29T01:30:00Z", "completionTime": "2026-03-29T03:31:05Z"}
    job["status"] = {"phase": "Succeeded", **times}
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Europe/Berlin")
            time.tzset()
            assert "121:05" in last_line(jobs.view(job))
    finally:
        time.tzset()
