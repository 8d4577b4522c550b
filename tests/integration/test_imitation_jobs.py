"""Pods that the Job controller itself takes for a job's own, and pods of a job that is made again.

No guard is installed, so anybody may label pods as they like and orphan a job's children.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import JOB_UID_LABEL, Purpose, child_job
from securetrain.errors import ExitCode
from support.api import Object, eventually
from support.gateway_stage import GatewayStage, job_controller_asleep
from support.imitators import (
    EVIL,
    PATHS,
    Change,
    address,
    call,
    container,
    imitating,
    imitation,
    refusal,
)
from support.real_gateway import staged


@pytest.fixture(scope="module")
def stage(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayStage]:
    folder = tmp_path_factory.mktemp("adopted")
    with staged(control_plane, openbao, folder, "adopted") as made:
        yield made


def end(stage: GatewayStage, pod: Object, code: int) -> None:
    (status,) = pod["status"]["containerStatuses"]
    ended = {"exitCode": code, "finishedAt": "2026-01-01T00:00:01Z"}
    status |= {"state": {"terminated": ended}, "ready": False}
    stage.report(pod, phase="Failed", containerStatuses=[status])


def test_a_bare_pod_that_the_job_controller_adopts_during_back_off_gets_nothing(
    stage: GatewayStage, control_plane: ControlPlane
) -> None:
    (first,) = stage.launch("adopted")
    body = imitation(first, lambda pod: container(pod).update(image=EVIL))
    del body["metadata"]["ownerReferences"]
    with job_controller_asleep(control_plane):  # both before it makes the next pod
        end(stage, first, ExitCode.TRY_AGAIN)
        thief = stage.admin.create(body).expect()
    eventually(lambda: stage.live(thief)["metadata"].get("ownerReferences"), "it is adopted")
    assert stage.live(thief)["metadata"]["ownerReferences"] == first["metadata"]["ownerReferences"]
    thief = stage.started(thief, address())
    with stage.unharmed("adopted"):
        for path in PATHS:
            answer = call(stage, thief, stage.request(first), path=path)
            status, reason, told = refusal(stage, answer)
            assert (status, reason) == (403, "NotOurPod")
            assert "containers[0].image: differs" in told
    stage.remove(thief)
    known = [pod["metadata"]["uid"] for pod in (first, thief)]
    real = stage.started(stage.pod_of("adopted", but=known))
    assert len(stage.keys(real).splits) == 2


def test_pods_of_a_deleted_job_get_nothing_of_the_job_that_is_made_again_under_its_name(
    stage: GatewayStage, control_plane: ControlPlane
) -> None:
    (old,) = stage.launch("remade")
    gone, token, body = stage.uid("remade"), stage.token(old), stage.request(old)
    orphaned = {"metadata": {"ownerReferences": None}}
    stage.admin.patch(child_path(stage), orphaned).expect()  # so Job and pod outlive their job
    stage.admin.delete(stage.job_path("remade")).expect()
    new = stage.apply("remade")

    # The operator has not looked yet: the old record, Job and pod are all there.
    record = stage.background(stage.operator.records.get(gone))
    with stage.unharmed("remade"):
        status, reason, told = refusal(stage, call(stage, old, body, token))
        assert (status, reason) == (403, "NotOurPod")
        assert "its job is gone" in told
    assert stage.background(stage.operator.records.get(gone)) == record

    eventually(lambda: relaunched(stage, gone, new), "the new job is launched")
    real = stage.started(stage.pod_of("remade", but=[old["metadata"]["uid"]]))
    with job_controller_asleep(control_plane):
        check_old_pods(stage, old, real)
    assert len(stage.keys(real).splits) == 2


def child_path(stage: GatewayStage) -> str:
    return stage.path("jobs", child_job("remade", Purpose.TRAIN), "batch/v1")


def relaunched(stage: GatewayStage, gone: str, new: str) -> bool:
    """Whether the operator has cleared up after the old job, and made the new one's Job."""
    stage.reconcile(gone, new)
    job = stage.admin.get(child_path(stage))
    return job.ok and job.body["metadata"]["labels"][JOB_UID_LABEL] == new


def check_old_pods(stage: GatewayStage, old: Object, real: Object) -> None:
    """The old pod as it was, under the new job's label, and under its new Job."""
    label = {JOB_UID_LABEL: real["metadata"]["labels"][JOB_UID_LABEL]}
    owners = real["metadata"]["ownerReferences"]
    changes: list[tuple[Change | None, int, str]] = [
        (None, 503, "NotReady"),
        (lambda pod: pod["metadata"]["labels"].update(label), 503, "NotReady"),
        (
            lambda pod: pod["metadata"].update(
                ownerReferences=owners, labels=real["metadata"]["labels"]
            ),
            403,
            "NotOurPod",
        ),
    ]
    for change, status, reason in changes:
        with imitating(stage, old, change) as thief, stage.unharmed("remade"):
            answer = call(stage, thief, stage.request(real))
            assert (answer.status, answer.body["reason"]) == (status, reason)


def test_a_pod_that_only_carries_a_jobs_labels_is_nothing_to_its_operator(
    stage: GatewayStage, control_plane: ControlPlane
) -> None:
    (real,) = stage.launch("labelled")
    uid = stage.uid("labelled")
    stage.reconcile(uid)
    with (
        job_controller_asleep(control_plane),
        imitating(stage, real, lambda pod: pod["metadata"].pop("ownerReferences")) as thief,
    ):
        end(stage, thief, ExitCode.INTEGRITY)
        with stage.unharmed("labelled"):
            stage.reconcile(uid)


def test_a_pod_with_a_forged_owner_changes_neither_record_nor_phase_nor_conditions(
    stage: GatewayStage, control_plane: ControlPlane
) -> None:
    """It counts as an attempt, to the Job controller too: that nobody makes one is a guard's."""
    (real,) = stage.launch("owned")
    uid = stage.uid("owned")
    stage.reconcile(uid)

    def told() -> tuple[object, ...]:
        status = stage.admin.get(stage.job_path("owned")).expect()["status"]
        return stage.record("owned"), status["phase"], status["conditions"]

    with job_controller_asleep(control_plane), imitating(stage, real) as thief:
        end(stage, thief, ExitCode.INTEGRITY)
        before = told()
        stage.reconcile(uid)
        assert told() == before
