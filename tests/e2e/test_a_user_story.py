"""The whole path as people walk it: the demo, then every command of the four pages.

The pages tell the demo's story, so their job is the one that the demo has run: the same again
changes nothing, and the commands around it are run on a job that has ended well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localcluster.cluster import Cluster
from localcluster.demo import WORK
from localcluster.platform import ROOT, Platform
from securetrain.signing.head import verify_head
from securetrain.signing.verify import verify_model
from support import openssf
from support.pages import Block, blocks
from support.raw_audit import RawAudit
from support.witness import Witness

PAGES = ("docs/platform-admin.md", "docs/data-owner.md", "docs/ml-engineer.md", "docs/auditor.md")
JOB = "digits-v7"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, witness: Witness, vault_secrets: RawAudit) -> Platform:
    """The demo's own: other volumes, and an operator that the demo installs."""
    return Platform(cluster, WORK)


@pytest.fixture(scope="module")
def desk(platform: Platform) -> Path:
    """A folder with what a reader of the pages has: the chart, values for the cluster, the data."""
    folder = ROOT / "build" / "e2e" / "desk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "charts").symlink_to(ROOT / "charts")
    shutil.copy(platform.values(), folder / "values.yaml")
    shutil.copy(ROOT / "examples/digits/digits.npz", folder)
    return folder


@pytest.mark.usefixtures("platform")
def test_make_demo_ends_with_a_signed_model_and_three_failed_thefts() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "localcluster.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
    )
    print(demo.stdout, demo.stderr)
    assert demo.returncode == 0
    assert demo.stdout.count("✓ stopped:") == 3
    left = {"kubeconfig", "dataset", "model", "signing-key.pem", "audit.jsonl", "vault-audit.log"}
    assert left <= {path.name for path in WORK.iterdir()}


@pytest.mark.parametrize("block", blocks(*PAGES), ids=str)
def test_every_command_of_the_pages_works(platform: Platform, desk: Path, block: Block) -> None:
    result = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block.script],
        cwd=desk,
        env=platform.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
    )
    print(result.stdout, result.stderr)
    assert result.returncode == 0, f"{block.script}\n{result.stdout}\n{result.stderr}"


def status(platform: Platform) -> dict[str, Any]:
    job = json.loads(platform.cluster.kubectl("get", "stj", JOB, "-n", "team-a", "-o", "json"))
    found: dict[str, Any] = job["status"]
    return found


@pytest.mark.usefixtures("desk")
def test_the_status_follows_kstatus_and_reports_the_accuracy(platform: Platform) -> None:
    found = status(platform)
    conditions = {entry["type"]: entry["status"] for entry in found["conditions"]}
    assert found["phase"] == "Succeeded"
    assert {name for name, value in conditions.items() if value == "True"} >= {
        "Ready",
        "Complete",
        "Accepted",
        "KeysGranted",
        "Trained",
        "Certified",
        "Signed",
    }
    assert not {"Reconciling", "Stalled", "Failed"} & conditions.keys()
    metrics = {metric["name"]: float(metric["value"]) for metric in found["model"]["metrics"]}
    assert metrics["accuracy"] >= 0.97
    assert [gate["passed"] for gate in found["gates"]] == [True]
    assert [grant["role"] for grant in found["grants"]] == ["train", "certify"]


def test_the_stored_model_is_whole_and_signed(platform: Platform, desk: Path) -> None:
    folder = platform.volume("team-a", "models") / JOB
    pem = (desk / "signing-key.pem").read_bytes()
    verified = verify_model(folder, pem)
    assert verified.claim["verdict"] == "certified"
    assert {path.name for path in folder.iterdir()} == {
        "audit.jsonl",
        "key.json",
        "model.json",
        "model.sig",
        "policy.json",
        "report.html",
        "report.json",
        "weights.safetensors.sealed",
    }
    assert not list(folder.parent.glob("*.partial"))
    flipped = desk / "flipped" / JOB
    shutil.copytree(folder, flipped)
    report = (flipped / "report.json").read_bytes()
    (flipped / "report.json").write_bytes(bytes([report[0] ^ 1]) + report[1:])
    assert openssf.accepts(folder, desk / "signing-key.pem")
    assert not openssf.accepts(flipped, desk / "signing-key.pem")
    view = platform.cluster.kubectl(
        "get", "configmap", f"{JOB}-audit", "-n", "team-a", "-o", "json"
    )
    head = json.loads(view)["data"]["head.dsse.json"]
    assert verify_head(head, pem).records == status(platform)["audit"]["records"]


def test_the_opened_weights_are_the_ones_that_were_certified(
    platform: Platform, desk: Path
) -> None:
    claim = verify_model(
        platform.volume("team-a", "models") / JOB, (desk / "signing-key.pem").read_bytes()
    ).claim
    opened = (desk / "digits.safetensors").read_bytes()
    assert hashlib.sha256(opened).hexdigest() == claim["plaintextSha256"]
