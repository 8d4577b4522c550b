"""Pod and Job statuses become one reason, one sentence and a fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from securetrain.api.types import PodSpec
from securetrain_operator.core import diagnose
from securetrain_operator.core.diagnose import Diagnosis
from support.world import running, terminated, waiting


def pod(phase: str = "Pending", *containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "stj-a-train-x", "uid": "1"},
        "status": {"phase": phase, "containerStatuses": list(containers)} | status,
    }


def failed(exit_code: int, message: str = "", **more: Any) -> dict[str, Any]:
    return pod("Failed", terminated(exit_code, message, **more))


def told(reason: Any, message: Any = "what happened") -> str:
    return json.dumps({"reason": reason, "message": message})


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod("Pending", conditions=[condition])


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (pod("Pending", waiting("ImagePullBackOff")), "ImagePullFailed"),
        (pod("Pending", waiting("ErrImagePull")), "ImagePullFailed"),
        (pod("Pending", waiting("InvalidImageName")), "ImagePullFailed"),
        (pod("Pending", waiting("CreateContainerConfigError")), "ContainerNotCreated"),
        (pod("Pending", waiting("ContainerCreating")), "PodStarting"),
        (unscheduled("0/1 nodes are available"), "Unschedulable"),
        (unscheduled("", "SchedulingGated"), "Queued"),
    ],
)
def test_why_a_pod_does_not_run(seen: dict[str, Any], reason: str) -> None:
    found = diagnose.waiting([seen], suspended=False, age=0)
    assert found is not None
    assert found.reason == reason


def test_a_running_pod_waits_for_nothing_whatever_became_of_the_others() -> None:
    pods = [failed(11), pod("Running", running())]
    assert diagnose.waiting(pods, suspended=False, age=0) is None


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (failed(11, told("StorageUnavailable")), "StorageUnavailable"),
        (failed(11, told("PolicyDenied")), "PodStarting"),
        (failed(11), "PodStarting"),
        (failed(1, told("StorageUnavailable")), "PodStarting"),
    ],
)
def test_between_two_pods_the_last_ones_own_reason_is_shown(
    last: dict[str, Any], reason: str
) -> None:
    found = diagnose.waiting([failed(1), last], suspended=False, age=0)
    assert found is not None
    assert found.reason == reason


@pytest.mark.parametrize(
    ("suspended", "age", "reason"),
    [(True, 0, "Queued"), (False, 5, "PodStarting"), (False, 31, "PodsMissing")],
)
def test_a_job_without_pods(suspended: bool, age: float, reason: str) -> None:
    found = diagnose.waiting([], suspended=suspended, age=age)
    assert found is not None
    assert found.reason == reason


def test_where_no_pod_can_be_made_the_jobs_classes_are_named() -> None:
    pod = PodSpec(runtime_class_name="gvisor")
    found = diagnose.with_classes(diagnose.waiting([], suspended=False, age=31), pod)
    assert found is not None
    assert "; the cluster may lack spec.pod.runtimeClassName gvisor. Fix: see" in found.text


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (failed(137, reason="OOMKilled"), "OOMKilled"),
        (failed(137), "Killed"),
        (failed(1), "TrainerCrashed"),
        (failed(139), "TrainerCrashed"),
        (failed(10), "Refused"),
        (failed(12), "IntegrityError"),
        (failed(13), "BadConfiguration"),
        (failed(14), "GatesMissed"),
        (failed(12, told("ShardCorrupt")), "ShardCorrupt"),
        (failed(10, told("PolicyDenied")), "PolicyDenied"),
        (pod("Failed", reason="Evicted", message="no memory left"), "Evicted"),
        (pod("Failed"), "PodFailed"),
    ],
)
def test_why_a_pod_failed(seen: dict[str, Any], reason: str) -> None:
    assert diagnose.failure([seen], "BackoffLimitExceeded").reason == reason


@pytest.mark.parametrize(
    "message",
    [
        told("Succeeded"),
        told("PolicyDenied"),
        told("../../etc"),
        told(7),
        told(["ShardCorrupt"]),
        told("ShardCorrupt", 7),
        "not JSON",
        "[" * 4000,
        '"text"',
        json.dumps({"reason": "ShardCorrupt"}),
    ],
)
def test_a_pod_cannot_choose_a_reason_that_is_not_its_own(message: str) -> None:
    assert diagnose.failure([failed(12, message)], "PodFailurePolicy").reason == "IntegrityError"


def test_what_a_pod_says_is_shown_on_one_short_line() -> None:
    said = told("ShardCorrupt", "bad\x1b[31m\nnews\u202e " + "x" * 10_000)
    found = diagnose.failure([failed(12, said[:4096])], "PodFailurePolicy")
    assert found.reason == "IntegrityError"  # cut by the kubelet: no JSON any more
    short = told("ShardCorrupt", "bad\x1b[31m\nnews\u202e " + "x" * 1000)
    found = diagnose.failure([failed(12, short)], "PodFailurePolicy")
    assert found.message.startswith("bad [31m news")
    assert found.message.isprintable()
    assert len(found.message) <= diagnose.MAX_TEXT


def test_the_pod_that_ended_the_job_is_the_one_that_is_named() -> None:
    pods = [failed(1), failed(12, told("ShardCorrupt")), failed(11)]
    assert diagnose.failure(pods, "PodFailurePolicy").reason == "ShardCorrupt"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("BackoffLimitExceeded", "BackoffLimitExceeded"),
        ("", "JobFailed"),
        ("bad reason", "JobFailed"),
        ("DeadlineExceeded", "DeadlineExceeded"),
    ],
)
def test_without_pods_the_job_itself_is_asked(said: str, reason: str) -> None:
    assert diagnose.failure([], said).reason == reason


def test_a_diagnosis_says_what_to_do() -> None:
    assert Diagnosis("A", "it broke.", "mend it").text == "it broke. Fix: mend it"
