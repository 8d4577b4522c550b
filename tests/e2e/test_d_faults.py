"""Faults of a real node: processes that are killed, and a kubelet that is away for a while.

Two jobs are struck while they run, and a victim that trains all along stands by: both jobs must
end as if nothing had happened, with nothing done twice that was done, and the trail whole.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from localcluster.platform import OPERATOR_NAMESPACE, Platform
from securetrain.errors import ExitCode
from support import node
from support.api import eventually
from support.outcomes import NAMESPACE, watch

pytestmark = pytest.mark.usefixtures("stricken")
PATIENCE = 120.0


def pod_of(platform: Platform, job: str, purpose: str) -> node.RunningPod:
    labels = f"securetrain.dev/job={job},securetrain.dev/purpose={purpose}"
    return node.running_pod(platform, NAMESPACE, labels)


def grants(platform: Platform, job: str, purpose: str) -> list[Any]:
    """Pods of a phase that were given keys."""
    granted = node.record_of(platform, NAMESPACE, job)["grants"]
    return [grant["podUid"] for grant in granted if grant["purpose"] == purpose]


def operator_pod(platform: Platform) -> dict[str, Any]:
    (pod,) = node.get(platform, "pods", OPERATOR_NAMESPACE)["items"]
    found: dict[str, Any] = pod
    return found


def test_a_killed_training_pod_is_followed_by_a_new_one_with_keys_of_its_own(
    platform: Platform,
) -> None:
    eventually(lambda: len(grants(platform, "killed", "train")) == 1, "keys", seconds=PATIENCE)
    first = pod_of(platform, "killed", "train")
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: len(grants(platform, "killed", "train")) == 2, "keys", seconds=PATIENCE)
    assert grants(platform, "killed", "train")[0] == first.uid
    ended = node.get(platform, "pod", NAMESPACE, first.name)["status"]["containerStatuses"][0]
    assert ended["state"]["terminated"]["exitCode"] == 128 + signal.SIGKILL


def test_training_that_ends_while_the_kubelet_is_away_counts(platform: Platform) -> None:
    """The pod of the second attempt works on without it, and is certified once it is back."""
    platform.cluster.node.kubelet.stop()
    try:
        assert "train" not in node.record_of(platform, NAMESPACE, "killed")["results"]
        eventually(
            lambda: "train" in node.record_of(platform, NAMESPACE, "killed")["results"],
            "the results of training",
            seconds=PATIENCE,
        )
    finally:
        platform.cluster.node.start()
    assert len(grants(platform, "killed", "train")) == 2


def test_a_lost_certify_pod_alone_is_repeated(platform: Platform) -> None:
    eventually(lambda: len(grants(platform, "bereft", "certify")) == 1, "keys", seconds=PATIENCE)
    os.kill(pod_of(platform, "bereft", "certify").pid, signal.SIGKILL)
    trained = node.record_of(platform, NAMESPACE, "bereft")["results"]["train"]
    eventually(lambda: len(grants(platform, "bereft", "certify")) == 2, "keys", seconds=PATIENCE)
    record = node.record_of(platform, NAMESPACE, "bereft")
    assert record["results"]["train"] == trained
    assert len(grants(platform, "bereft", "train")) == 1


def test_an_operator_that_is_killed_comes_back_and_finds_the_same_pod_training(
    platform: Platform, victim: node.RunningPod
) -> None:
    pod = operator_pod(platform)
    killed = pod["status"]["containerStatuses"][0]["restartCount"]
    record = node.record_of(platform, NAMESPACE, "victim")
    os.kill(node.process_of(platform, pod["metadata"]["uid"], "operator"), signal.SIGKILL)

    def is_back() -> bool:
        status = operator_pod(platform)["status"]["containerStatuses"][0]
        return bool(status["ready"] and status["restartCount"] == killed + 1)

    eventually(is_back, "the operator", seconds=PATIENCE)
    before = node.progress(platform, NAMESPACE, "victim")
    eventually(
        lambda: node.progress(platform, NAMESPACE, "victim") != before, "progress", seconds=PATIENCE
    )
    assert node.get(platform, "pod", NAMESPACE, victim.name)["metadata"]["uid"] == victim.uid
    assert node.record_of(platform, NAMESPACE, "victim") == record


@pytest.mark.parametrize(("job", "pods"), [("killed", (2, 1)), ("bereft", (1, 2))])
def test_what_was_struck_still_ends_well_and_its_trail_is_whole(
    platform: Platform, job: str, pods: tuple[int, int]
) -> None:
    code, said = watch(platform, job)
    assert code == ExitCode.OK, said
    assert (len(grants(platform, job, "train")), len(grants(platform, job, "certify"))) == pods
    key = platform.work / "signing-key.pem"
    key.write_text(platform.run("securetrain", "vault", "public-key").stdout)
    model = platform.volume(NAMESPACE, "models") / job
    platform.run("securetrain", "verify", str(model), "--key", str(key))
    verify(platform, job, key)


def verify(platform: Platform, job: str, key: Path) -> None:
    """Our trail and Vault's log agree both ways; raises ClusterError if they do not."""
    log = ["--vault-log", str(platform.cluster.openbao.audit_log), "--vault-device", "file"]
    platform.run("securetrain", "audit", "verify", job, "-n", NAMESPACE, "--key", str(key), *log)
