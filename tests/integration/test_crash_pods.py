"""Pods are lost in every way: another one takes over, and only what the pod did wrong counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import Purpose, launch_record
from support import stage
from support.api import Api, Object
from support.chart import OPERATOR_NAMESPACE
from support.played_pod import PlayedPod, PodEnds
from support.stage import Stage
from support.trails import Trails

TRAIN, CERTIFY = Purpose
KILLED = 137
NODE_SECONDS = 90.0
"""The collector of lost nodes' pods may have to look twice."""

pytestmark = pytest.mark.timeout(600)


def deleted(pod: PlayedPod, admin: Api) -> None:
    """Somebody deletes the pod; the trainer ends at SIGTERM."""
    admin.delete(pod.path).expect()
    pod.stop.wait(120)


def evicted(pod: PlayedPod, admin: Api) -> None:
    """The node is drained, and the container is killed for being slow."""
    metadata = {"name": pod.name, "namespace": pod.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    admin.call("POST", f"{pod.path}/eviction", body).expect()
    assert pod.stop.wait(120)
    raise PodEnds(KILLED, "OOMKilled")


def gave_up(_pod: PlayedPod, _admin: Api) -> None:
    """The trainer asks for a new pod."""
    raise PodEnds(11, "GrantLost")


def broke(_pod: PlayedPod, _admin: Api) -> None:
    """A bug, or the memory's end."""
    raise PodEnds(1, "InternalError")


def waits(pod: PlayedPod, _admin: Api) -> None:
    """Nothing happens to the pod but what the test does next."""
    pod.stop.wait(300)


Fate = Callable[[PlayedPod, Api], None]
FATES: Mapping[str, tuple[Purpose, Fate]] = {
    "train-deleted": (TRAIN, deleted),
    "train-evicted": (TRAIN, evicted),
    "train-gave-up": (TRAIN, gave_up),
    "certify-deleted": (CERTIFY, deleted),
    "certify-evicted": (CERTIFY, evicted),
    "certify-gave-up": (CERTIFY, gave_up),
    "certify-broke": (CERTIFY, broke),
}
NODES: Mapping[str, tuple[Purpose, Fate]] = {
    "train-node": (TRAIN, waits),
    "certify-node": (CERTIFY, waits),
}
OTHERS: Mapping[str, tuple[Purpose, Fate]] = {
    "train-broke": (TRAIN, broke),
    "unrecorded": (TRAIN, waits),
}
ALL = {**FATES, **NODES, **OTHERS}


@pytest.fixture(scope="module")
def play(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """All jobs at once: the first pod of each meets its fate when it has its keys."""
    folder = tmp_path_factory.mktemp("pods")
    with stage.opened(control_plane, openbao, folder, "team-pods") as opened:

        def hook(pod: PlayedPod, at: str) -> None:
            purpose, fate = ALL[pod.job]
            if (pod.purpose, pod.number, at) == (purpose, 1, "keys"):
                fate(pod, opened.admin)

        opened.player.hook = hook
        with opened.operator.running():
            for name in NODES:
                opened.apply(name, backoffLimit=0)
            for name, (purpose, _) in NODES.items():
                wait_for_keys(opened, name, purpose)
            opened.player.lose_node()
            for name in {**FATES, **OTHERS}:
                opened.apply(name, backoffLimit=0)
            opened.until(lambda: evicted_from_node(opened), "the lost node's pods are evicted", 120)
            look_now(control_plane)
            yield opened


def evicted_from_node(play: Stage) -> bool:
    """Whether the node's controller has told the pods to go, which no kubelet hears."""
    lost = [play.player.of(name, purpose)[0] for name, (purpose, _) in NODES.items()]
    answers = [play.admin.get(pod.path) for pod in lost]
    return all(answer.status == 404 or is_told_to_go(answer.body) for answer in answers)


def is_told_to_go(pod: Object) -> bool:
    """Whether the pod is being deleted, and says that it is no fault of its own."""
    said = {(c["type"], c.get("reason")) for c in pod["status"]["conditions"]}
    evicted = ("DisruptionTarget", "DeletionByTaintManager") in said
    return evicted and "deletionTimestamp" in pod["metadata"]


def look_now(control_plane: ControlPlane) -> None:
    """The collector of lost nodes' pods looks when it starts, and then every 20 seconds."""
    control_plane.processes[-1].stop()
    control_plane.start()


def wait_for_keys(play: Stage, name: str, purpose: Purpose) -> None:
    def have() -> bool:
        return any("keys" in pod.stages for pod in play.player.of(name, purpose))

    play.until(have, f"the {purpose} pod of {name} has keys", 120)


def pods(play: Stage, name: str, purpose: Purpose) -> int:
    return len(play.player.of(name, purpose))


def uid(play: Stage, name: str) -> str:
    return str(play.job(name)["metadata"]["uid"])


def test_without_its_launch_record_a_job_stops_at_once_and_never_trains_again(play: Stage) -> None:
    wait_for_keys(play, "unrecorded", TRAIN)
    record = launch_record(uid(play, "unrecorded"))
    path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/{record}"
    play.admin.delete(path).expect()
    play.until(lambda: play.child("unrecorded", TRAIN) is None, "the train Job goes")
    play.until(lambda: play.phase("unrecorded") == "Failed", "the job has failed")
    reasons = {c["type"]: c["reason"] for c in play.job("unrecorded")["status"]["conditions"]}
    assert reasons["Failed"] == "LaunchRecordLost"
    assert pods(play, "unrecorded", TRAIN) == 1
    assert not play.admin.get(path).ok


@pytest.mark.parametrize("name", [*FATES, *NODES])
def test_a_lost_pod_is_replaced_by_one_more_and_no_retry_is_used_up(play: Stage, name: str) -> None:
    play.until(lambda: play.ended(name), f"{name} ends", 120 + NODE_SECONDS)
    purpose, _ = ALL[name]
    assert Trails([play]).faults(play, name, uid(play, name)) == []
    assert {p: pods(play, name, p) for p in Purpose} == {
        TRAIN: 2 if purpose is TRAIN else 1,
        CERTIFY: 2 if purpose is CERTIFY else 1,
    }


def test_a_pod_that_fails_by_itself_uses_up_its_retries(play: Stage) -> None:
    play.until(lambda: play.ended("train-broke"), "the job ends", 120)
    faults = Trails([play]).faults(play, "train-broke", uid(play, "train-broke"), phase="Failed")
    assert faults == []
    assert pods(play, "train-broke", TRAIN) == 1
