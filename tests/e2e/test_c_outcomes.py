"""Jobs that must not succeed, and how they say so: status, exit code, what lies in storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from localcluster.platform import Platform
from localcluster.volumes import give_to_pods
from securetrain.errors import ExitCode
from support import node, sealing

NAMESPACE = "team-e2e"


@pytest.fixture(scope="module")
def dataset(platform: Platform) -> Path:
    """A sealed dataset of a few hundred digits."""
    source = sealing.some_digits(platform.work / "hundreds.npz", 800)
    return sealing.seal(platform, NAMESPACE, source, "hundreds")


def run(platform: Platform, name: str, dataset: str, **changes: Any) -> tuple[int, str]:
    """Submit a small job, follow it to its end: exit code and what was printed."""
    manifest = sealing.job(platform, NAMESPACE, name, dataset, **changes)
    result = platform.run(
        "securetrain", "submit", str(manifest), "-n", NAMESPACE, "--watch", check=False
    )
    print(result.stdout, result.stderr)
    return result.returncode, result.stdout + result.stderr


def failure(platform: Platform, name: str) -> tuple[str, str]:
    """Phase and reason of a job that has failed."""
    status = node.get(platform, "stj", NAMESPACE, name)["status"]
    conditions = {entry["type"]: entry for entry in status["conditions"]}
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Ready"]["status"] == "False"
    return status["phase"], conditions["Failed"]["reason"]


def copy_of(platform: Platform, dataset: Path, name: str) -> Path:
    """A copy of a dataset in the volume, for somebody to change."""
    target = platform.volume(NAMESPACE, "datasets") / name
    shutil.copytree(dataset, target)
    give_to_pods(target.parent)
    return target


def test_a_flipped_byte_in_a_shard(platform: Platform, dataset: Path) -> None:
    shard = next((copy_of(platform, dataset, "flipped") / "shards").glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, said = run(platform, "flipped", "flipped")
    assert code == ExitCode.INTEGRITY
    assert failure(platform, "flipped") == ("Failed", "ShardCorrupt")
    assert shard.name in said


def test_an_edited_policy(platform: Platform, dataset: Path) -> None:
    policy = copy_of(platform, dataset, "edited") / "policy.json"
    content = json.loads(policy.read_text())
    policy.write_text(json.dumps({**content, "notAfter": "2099-01-01T00:00:00Z"}))
    code, said = run(platform, "edited", "edited")
    assert code == ExitCode.INTEGRITY
    assert failure(platform, "edited") == ("Failed", "WrongKey")
    assert "policy.json" in said


def test_a_job_that_the_owner_does_not_allow(platform: Platform) -> None:
    source = platform.work / "hundreds.npz"
    sealing.seal(platform, NAMESPACE, source, "others", namespaces=["team-b"])
    code, said = run(platform, "others", "others")
    assert code == ExitCode.REFUSED
    assert failure(platform, "others") == ("Failed", "PolicyDenied")
    assert "team-b" in said


@pytest.mark.usefixtures("dataset")
def test_a_missed_gate_is_sealed_and_reported_but_not_signed(platform: Platform) -> None:
    gates = {"gates": [{"metric": "accuracy", "min": 0.9999}]}
    code, _ = run(platform, "missed", "hundreds", certification=gates)
    assert code == ExitCode.GATES_MISSED
    assert failure(platform, "missed") == ("Failed", "GatesMissed")
    model = platform.volume(NAMESPACE, "models") / "missed"
    assert {"weights.safetensors.sealed", "report.json", "report.html", "audit.jsonl"} <= {
        path.name for path in model.iterdir()
    }
    assert not (model / "model.sig").exists()
    verified = platform.run("securetrain", "verify", str(model), "--key", __file__, check=False)
    assert verified.returncode == ExitCode.INTEGRITY


@pytest.mark.usefixtures("dataset")
def test_an_output_that_exists_is_left_alone(platform: Platform) -> None:
    there = platform.volume(NAMESPACE, "models") / "there"
    there.mkdir()
    (there / "precious").write_text("do not touch")
    give_to_pods(there)
    code, _ = run(platform, "there", "hundreds")
    assert code == ExitCode.CONFIGURATION
    assert failure(platform, "there") == ("Failed", "OutputExists")
    assert [path.name for path in there.iterdir()] == ["precious"]
    record = node.launch_record(
        platform, node.get(platform, "stj", NAMESPACE, "there")["metadata"]["uid"]
    )
    assert record["grants"] == []


def test_a_missing_claim_is_waited_for_and_named(platform: Platform) -> None:
    manifest = sealing.job(platform, NAMESPACE, "waiting", "hundreds")
    content = json.loads(manifest.read_text())
    content["spec"]["datasets"][0]["uri"] = "pvc://nowhere/hundreds"
    manifest.write_text(json.dumps(content))
    platform.run("securetrain", "submit", str(manifest), "-n", NAMESPACE)
    kubectl = platform.cluster.kubectl
    reason = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ClaimMissing"
    kubectl("wait", "stj/waiting", "-n", NAMESPACE, f"--for={reason}", "--timeout=30s")
    assert node.get(platform, "jobs", NAMESPACE, "-l", "securetrain.dev/job=waiting")["items"] == []
    kubectl("delete", "stj", "waiting", "-n", NAMESPACE)
