"""What is lost or taken away while a job runs: answers of the gateway, records, policies, unity.

The gateway's answers are lost on their way to pods that speak the trainer's own protocol; what
then becomes of the keys is found by the operator at the real Vault.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api import names
from securetrain.api.names import Purpose, child_job
from securetrain.audit import chain
from securetrain.errors import ExitCode
from securetrain_operator.build.network import DEFAULT_DENY
from support import faults, faulty, stage
from support.api import Object
from support.chart import OPERATOR_NAMESPACE, OPERATOR_USER
from support.fault_proxy import FaultProxy, Matches, Request
from support.played_pod import PlayedPod, PodEnds
from support.stage import Stage

TEAM = "faults-underway"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{TEAM}/networkpolicies"
KEYS = ["train", "validation", "model"]


@dataclass
class Scene:
    """An operator at work, and a proxy between pods and its gateway."""

    stage: Stage
    gateway: FaultProxy

    def said(self, name: str, kind: str) -> list[Object]:
        """Data of the audit records of a kind."""
        record = self.stage.record(self.stage.job(name)["metadata"]["uid"])
        assert record is not None
        lines = map(chain.parse_line, record.audit)
        return [dict(line.data) for line in lines if line.type == chain.TYPE_PREFIX + kind]

    def told(self, name: str, reason: str) -> str:
        """What a job's Events of a reason say: a line each."""
        path = f"/api/v1/namespaces/{TEAM}/events"
        items = self.stage.admin.get(path).expect()["items"]
        found = [e for e in items if (e["involvedObject"]["name"], e["reason"]) == (name, reason)]
        return "\n".join(event["message"] for event in found)

    def hold(self, job: str, where: str) -> threading.Event:
        """Let the first train pod of a job wait at a stage until the returned event is set."""
        go = threading.Event()

        def hook(pod: PlayedPod, at: str) -> None:
            if (pod.job, at, pod.number) == (job, where, 1):
                while not go.wait(0.05):
                    pod.check()

        self.stage.player.hook = hook
        return go

    def train_pod(self, job: str, where: str) -> PlayedPod:
        """The first train pod of a job, once it has come to a stage."""

        def found() -> PlayedPod | None:
            pods = self.stage.player.of(job, Purpose.TRAIN)
            return next((pod for pod in pods if where in pod.stages), None)

        pod = self.stage.until(found, f"a pod of {job} comes to {where}")
        assert isinstance(pod, PlayedPod)
        return pod


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults-underway")
    with (
        stage.opened(
            control_plane, openbao, folder, TEAM, guards=True, wrapTtlSeconds=60
        ) as opened,
        opened.operator.running(),
        faulty.before_the_gateway(opened, folder, opened.operator) as gateway,
    ):
        opened.operator.wait_ready()
        opened.player.gateway_port = lambda _: gateway.port
        yield Scene(opened, gateway)


@pytest.fixture(autouse=True)
def honest(scene: Scene) -> Iterator[None]:
    yield
    scene.gateway.clear()
    scene.stage.player.hook = lambda pod, at: None


def test_under_all_guards_an_undisturbed_job_is_trained_certified_and_signed(scene: Scene) -> None:
    scene.stage.apply("undisturbed")
    scene.stage.until(lambda: scene.stage.ended("undisturbed"), "the job ends")
    assert [pod.exit_code for pod in scene.stage.player.of("undisturbed")] == [0, 0]
    faulty.check_trained_once(scene.stage, "undisturbed")


def asks(path: str, purpose: Purpose) -> Matches:
    """Calls of the gateway for a purpose."""

    def matches(request: Request) -> bool:
        return bool(request.path == path and request.json.get("purpose") == purpose)

    return matches


def test_keys_whose_answer_is_lost_before_the_unwrap_are_burnt_and_a_new_pod_gets_new_ones(
    scene: Scene,
) -> None:
    scene.gateway.on(asks("/v1/grants", Purpose.TRAIN), faults.cut)
    scene.stage.apply("lost")
    scene.stage.until(lambda: scene.stage.ended("lost"), "the job ends")
    first, second = scene.stage.player.of("lost", Purpose.TRAIN)
    assert (first.exit_code, second.exit_code) == (ExitCode.TRY_AGAIN, 0)
    assert "keys" not in first.stages
    (lost,) = scene.said("lost", "grant.lost")
    assert lost["podUID"] == first.uid
    assert (lost["burnt"], lost["spent"], lost["unknown"]) == (KEYS, [], [])
    assert "burnt unspent" in scene.told("lost", "GrantLost")
    assert scene.stage.phase("lost") == "Succeeded"


def test_a_pod_that_dies_after_the_unwrap_is_an_incident_and_a_new_pod_gets_new_keys(
    scene: Scene,
) -> None:
    def hook(pod: PlayedPod, at: str) -> None:
        if (pod.purpose, at, pod.number) == (Purpose.TRAIN, "keys", 1):
            raise PodEnds(ExitCode.TRY_AGAIN, "GatewayUnavailable")

    scene.stage.player.hook = hook
    scene.stage.apply("spent")
    scene.stage.until(lambda: scene.stage.ended("spent"), "the job ends")
    (lost,) = scene.said("spent", "grant.lost")
    assert (lost["burnt"], lost["spent"], lost["unknown"]) == ([], KEYS, [])
    assert "treat the key as stolen" in scene.told("spent", "GrantSpent")
    faulty.check_trained_once(scene.stage, "spent", keys=2)


def test_results_whose_answer_is_lost_are_asked_for_again_and_taken_once(scene: Scene) -> None:
    rules = [scene.gateway.on(asks("/v1/results", p), faults.drop_after) for p in Purpose]
    scene.stage.apply("repeated")
    scene.stage.until(lambda: scene.stage.ended("repeated"), "the job ends")
    assert [len(rule.hits) for rule in rules] == [1, 1]
    faulty.check_trained_once(scene.stage, "repeated")
    for kind in ("results.train", "results.certify", "signed"):
        assert len(scene.said("repeated", kind)) == 1


def test_a_launch_record_deleted_under_way_ends_the_job_and_nothing_is_trained_again(
    scene: Scene,
) -> None:
    play = scene.stage
    go = scene.hold("unrecorded", "keys")
    uid = play.apply("unrecorded")
    pod = scene.train_pod("unrecorded", "keys")
    play.until(lambda: play.phase("unrecorded") == "Training", "the status says so")
    record = names.launch_record(uid)
    play.admin.delete(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/{record}").expect()
    play.until(lambda: pod.stop.is_set(), "the pod, which has keys, is stopped")
    go.set()
    play.until(lambda: play.phase("unrecorded") == "Failed", "the job fails")
    conditions = {c["type"]: c["reason"] for c in play.job("unrecorded")["status"]["conditions"]}
    assert conditions["Ready"] == "LaunchRecordLost"
    assert play.player.of("unrecorded") == [pod]
    assert not play.model("unrecorded").exists()


def test_a_pod_without_its_network_policy_waits_for_keys_until_it_is_made_again(
    scene: Scene,
) -> None:
    play = scene.stage
    go = scene.hold("unguarded", "started")
    play.apply("unguarded")
    first = scene.train_pod("unguarded", "started")
    for policy in ("stj-unguarded", DEFAULT_DENY):
        play.admin.as_user(OPERATOR_USER).delete(f"{POLICIES}/{policy}").expect()
    go.set()

    def told() -> bool:
        said = play.job("unguarded").get("status", {}).get("conditions", [])
        return any(c["reason"] == "NotReady" and "NetworkPolicy" in c["message"] for c in said)

    play.until(told, "the status names the policy")
    assert "keys" not in first.stages
    train = child_job("unguarded", Purpose.TRAIN)
    operator = play.admin.as_user(OPERATOR_USER)
    operator.delete(
        f"/apis/batch/v1/namespaces/{TEAM}/jobs/{train}", propagationPolicy="Background"
    ).expect()
    play.until(lambda: play.ended("unguarded"), "the job ends")
    assert "keys" not in first.stages
    faulty.check_trained_once(play, "unguarded")


def check_one_result(play: Stage, name: str) -> None:
    """One pod of each phase has reported, and all that had keys are on record, each once.

    One operator may take the other's Job away while its pod asks: then a pod is gone with its
    grant, and another one trains.
    """
    assert play.phase(name) == "Succeeded", play.job(name)["status"]
    record = play.record(play.job(name)["metadata"]["uid"])
    assert record is not None
    for purpose in Purpose:
        pods = play.player.of(name, purpose)
        assert len([pod for pod in pods if "reported" in pod.stages]) == 1
        grants = [grant.pod_uid for grant in record.grants_of(purpose)]
        assert len(grants) == len(set(grants))
        assert {pod.uid for pod in pods if "keys" in pod.stages} <= set(grants)


def test_two_operators_by_mistake_launch_each_job_once_and_keep_one_chain(
    scene: Scene, tmp_path: Path
) -> None:
    play, jobs = scene.stage, [f"twice-{number}" for number in range(3)]
    twin = faulty.second(play.operator, tmp_path / "twin")
    with twin.running(), faulty.before_the_gateway(play, twin.folder, twin) as second:
        twin.wait_ready()
        ports = [scene.gateway.port, second.port]
        play.player.gateway_port = lambda _: ports[len(play.player.pods) % 2]
        for name in jobs:
            play.apply(name)
        for name in jobs:
            play.until(lambda: play.ended(name), f"{name} ends")  # noqa: B023 used at once
    play.player.gateway_port = lambda _: scene.gateway.port
    assert "reconcile failed" not in twin.log
    for name in jobs:
        check_one_result(play, name)
        for kind in ("job.accepted", "signed", "job.finished"):
            assert len(scene.said(name, kind)) == 1


def test_all_that_was_said_meanwhile_is_in_plain_words_and_holds_no_token(scene: Scene) -> None:
    faulty.check_words(scene.stage)
