"""Faults of a real node: processes that are killed, and a kubelet that is away for a while.

Three jobs are struck while they run, and a victim that trains all along stands by: the jobs must
end as if nothing had happened, with nothing done twice that was done, and the trail whole.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from localcluster.platform import OPERATOR_NAMESPACE, Platform
from securetrain.errors import ExitCode
from securetrain.signing.verify import verify_model
from support import leftovers, node
from support.api import eventually
from support.outcomes import NAMESPACE, signing_key, verify_trail
from support.reaper import Reaper

PATIENCE = 300.0


def grants(platform: Platform, job: str, purpose: str) -> list[Any]:
    """Pods of a phase that were given keys."""
    granted = node.record_of(platform, NAMESPACE, job)["grants"]
    return [grant["podUid"] for grant in granted if grant["purpose"] == purpose]


def operator_pod(platform: Platform) -> dict[str, Any]:
    (pod,) = node.get(platform, "pods", OPERATOR_NAMESPACE)["items"]
    found: dict[str, Any] = pod
    return found


def pods_of(platform: Platform, job: str, purpose: str) -> dict[str, dict[str, Any]]:
    """All pods of a phase, by UID."""
    labels = f"securetrain.dev/job={job},securetrain.dev/purpose={purpose}"
    pods = node.get(platform, "pods", NAMESPACE, "-l", labels)["items"]
    return {pod["metadata"]["uid"]: pod for pod in pods}


def exit_code(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])


def test_a_killed_training_pod_is_followed_by_a_new_one_with_keys_of_its_own(
    platform: Platform, submitted: Reaper
) -> None:
    eventually(lambda: len(grants(platform, "killed", "train")) == 2, "keys", seconds=PATIENCE)
    killed = submitted.struck["stj-killed-train"].pod_uid
    assert grants(platform, "killed", "train")[0] == killed
    assert exit_code(pods_of(platform, "killed", "train")[killed]) == 128 + signal.SIGKILL


def test_training_that_ends_while_the_kubelet_is_away_counts(
    platform: Platform, submitted: Reaper
) -> None:
    """The pod stands still until the kubelet is gone."""

    def results() -> Any:
        return node.record_of(platform, NAMESPACE, "left-alone")["results"]

    prey = "stj-left-alone-train"
    eventually(lambda: prey in submitted.struck, "keys", seconds=PATIENCE)
    platform.cluster.node.kubelet.stop()
    try:
        assert "train" not in results()
        os.kill(submitted.struck[prey].pid, signal.SIGCONT)
        eventually(lambda: "train" in results(), "the results of training", seconds=PATIENCE)
    finally:
        platform.cluster.node.start()


def test_what_a_helm_that_was_killed_has_left_is_in_nobodys_way(platform: Platform) -> None:
    """It lay there when the operator was installed."""
    secrets = node.get(platform, "secrets", OPERATOR_NAMESPACE)["items"]
    releases = {item["metadata"]["name"] for item in secrets if item["type"].startswith("helm.sh")}
    assert releases
    assert leftovers.PENDING_RELEASE["metadata"]["name"] not in releases


def test_an_operator_that_is_killed_comes_back_and_finds_the_same_pod_training(
    platform: Platform, victim: node.RunningPod
) -> None:
    pod = operator_pod(platform)
    killed = pod["status"]["containerStatuses"][0]["restartCount"]
    record = node.record_of(platform, NAMESPACE, "victim")
    os.kill(node.process_of(platform, pod["metadata"]["uid"], "operator"), signal.SIGKILL)

    def is_back() -> bool:
        status = operator_pod(platform)["status"]["containerStatuses"][0]
        return bool(status["ready"] and status["restartCount"] > killed)

    eventually(is_back, "the operator", seconds=PATIENCE)
    before = node.progress(platform, NAMESPACE, "victim")
    eventually(
        lambda: node.progress(platform, NAMESPACE, "victim") != before, "progress", seconds=PATIENCE
    )
    assert node.get(platform, "pod", NAMESPACE, victim.name)["metadata"]["uid"] == victim.uid
    assert node.record_of(platform, NAMESPACE, "victim") == record


@pytest.fixture(scope="module")
def vault_log(platform: Platform) -> Path:
    """Vault's log but for what came from the node itself: the thefts of other tests."""
    log = platform.work / "vault-log-of-pods.jsonl"
    with platform.cluster.openbao.audit_log.open() as lines, log.open("w") as kept:
        for line in lines:
            whole = line.endswith("\n")
            if whole and json.loads(line)["request"].get("remote_address") != "127.0.0.1":
                kept.write(line)
    return log


@pytest.mark.parametrize(
    ("job", "pods"), [("killed", (2, 1)), ("bereft", (1, 2)), ("left-alone", (1, 1))]
)
def test_what_was_struck_still_ends_well_and_its_trail_is_whole(
    platform: Platform, submitted: Reaper, job: str, pods: tuple[int, int]
) -> None:
    """A lost training pod costs one more, a lost certify pod alone is repeated."""
    complete = ["--for=condition=Complete", "--timeout=600s"]
    platform.cluster.kubectl("wait", f"stj/{job}", "-n", NAMESPACE, *complete)
    assert tuple(len(pods_of(platform, job, purpose)) for purpose in ("train", "certify")) == pods
    key = signing_key(platform)
    model = platform.volume(NAMESPACE, "models") / job
    assert verify_model(model, key.read_bytes()).claim["verdict"] == "evaluated"


def test_the_trails_of_what_was_struck_agree_with_vaults_log_both_ways(
    platform: Platform, submitted: Reaper, vault_log: Path
) -> None:
    for job in ("killed", "bereft", "left-alone"):
        verified = verify_trail(platform, job, signing_key(platform), vault_log)
        assert verified.returncode == ExitCode.OK, verified.stderr
