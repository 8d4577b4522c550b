"""NetworkPolicies add up: what others put beside ours can open the real pod, or take ours away.

No guard is installed, so anybody may write any policy. The pod is put off while it is open; its job
is not harmed, and goes on as soon as the opening is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import JOB_LABEL, MANAGED_BY_LABEL, PURPOSE_LABEL
from securetrain_operator.build.network import DEFAULT_DENY
from support.api import Answer, Object
from support.gateway_stage import GatewayStage
from support.imitators import call
from support.real_gateway import staged
from support.samples import network_policy

JOB = "watched"
OURS = f"stj-{JOB}"
GROUP = "networking.k8s.io/v1"
ANYWHERE: Object = {"ipBlock": {"cidr": "0.0.0.0/0"}}
BY_LABEL = {"matchLabels": {JOB_LABEL: JOB}}


@pytest.fixture(scope="module")
def stage(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayStage]:
    folder = tmp_path_factory.mktemp("network")
    with staged(control_plane, openbao, folder, "network") as made:
        yield made


@pytest.fixture(scope="module")
def pod(stage: GatewayStage) -> Iterator[Object]:
    """The job's pod, which gets its keys when all is over, beside policies that open nothing."""
    (launched,) = stage.launch(JOB)
    yield launched
    with written(stage, HARMLESS):
        assert len(stage.keys(launched).splits) == 2
    stage.reconcile(stage.uid(JOB))
    assert "KeysGranted" in shown(stage)


def shown(stage: GatewayStage) -> dict[str, str]:
    """Reason of each condition of the job's status that is true."""
    status = stage.admin.get(stage.job_path(JOB)).expect()["status"]
    return {c["type"]: c["reason"] for c in status["conditions"] if c["status"] == "True"}


def egress(selector: Object, *to: Object, **more: Any) -> Object:
    rule = {"to": list(to), **more} if to or more else {}
    return {"podSelector": selector, "policyTypes": ["Egress"], "egress": [rule]}


def ingress(selector: Object, *sources: Object) -> Object:
    rule = {"from": list(sources)} if sources else {}
    return {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule]}


def expression(key: str, operator: str, *values: str) -> Object:
    entry: Object = {"key": key, "operator": operator} | (
        {"values": list(values)} if values else {}
    )
    return {"matchExpressions": [entry]}


OPENINGS: dict[str, Sequence[Object]] = {
    "egress for all pods": [egress({})],
    "ingress for all pods": [ingress({})],
    "egress by pod label": [egress(BY_LABEL, ANYWHERE)],
    "ingress by pod label": [ingress(BY_LABEL, {"podSelector": {}})],
    "to one address": [egress({}, {"ipBlock": {"cidr": "192.0.2.66/32"}})],
    "to one namespace": [
        egress({}, {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}})
    ],
    "from all namespaces": [ingress({}, {"namespaceSelector": {}})],
    "to one port": [egress({}, ports=[{"port": 53, "protocol": "UDP"}])],
    "where a label is": [egress(expression(PURPOSE_LABEL, "Exists"), ANYWHERE)],
    "where a label is one of several": [egress(expression(PURPOSE_LABEL, "In", "train", "x"))],
    "where a label is not": [ingress(expression("app", "DoesNotExist"))],
    "where a label is another": [ingress(expression(PURPOSE_LABEL, "NotIn", "certify"))],
    "without policy types": [{"podSelector": {}, "ingress": [{}]}],
    "two that open one way each": [egress(BY_LABEL, ANYWHERE), ingress({})],
    "one that closes and one that opens": [
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        egress(expression(JOB_LABEL, "Exists"), ANYWHERE),
    ],
}
HARMLESS: Sequence[Object] = [
    {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    egress({"matchLabels": {JOB_LABEL: "another"}}),
    ingress({"matchLabels": {JOB_LABEL: JOB, "app": "x"}}),
    egress(expression(PURPOSE_LABEL, "NotIn", "train")),
    egress(expression("app", "Exists")),
]


@contextmanager
def written(stage: GatewayStage, specs: Sequence[Object]) -> Iterator[list[str]]:
    """Policies of somebody else; their names."""
    names = [f"theirs-{number}" for number in range(len(specs))]
    for name, spec in zip(names, specs, strict=True):
        body = network_policy(name, stage.namespace) | {"spec": spec}
        stage.admin.create(body).expect()
    yield names
    for name in names:
        stage.admin.delete(policy_path(stage, name)).expect()


def policy_path(stage: GatewayStage, name: str) -> str:
    return stage.path("networkpolicies", name, GROUP)


def asked(stage: GatewayStage, pod: Object) -> Answer:
    """The pod's request, from which no key comes and no harm to its job."""
    stage.clock.ahead += 1  # it may ask twice a second
    with stage.unharmed(JOB, woken=True):
        answer = call(stage, pod, stage.request(pod))
    assert answer.status == 503
    assert "keys" not in answer.body
    return answer


@pytest.mark.parametrize("name", OPENINGS)
def test_a_pod_that_others_open_to_the_network_is_put_off(
    stage: GatewayStage, pod: Object, name: str
) -> None:
    specs = OPENINGS[name]
    with written(stage, specs) as names:
        answer = asked(stage, pod)
    assert answer.body["reason"] == "NotIsolated"
    opening = [n for n, spec in zip(names, specs, strict=True) if {"egress", "ingress"} & set(spec)]
    assert f"pod: {', '.join(opening)}." in answer.body["detail"]


def test_what_the_pod_waits_for_is_shown_in_the_jobs_status(
    stage: GatewayStage, pod: Object
) -> None:
    with written(stage, [egress({})]):
        asked(stage, pod)
        stage.reconcile(stage.uid(JOB))
        status = stage.admin.get(stage.job_path(JOB)).expect()["status"]
    waiting = [c for c in status["conditions"] if c["reason"] == "NotIsolated"]
    assert waiting
    assert "theirs-0" in waiting[0]["message"]
    assert "Fix: delete them" in waiting[0]["message"]
    assert status["phase"] == "Training"


OTHERWISE: dict[str, tuple[str, Callable[[Object], Any]]] = {
    "ours is widened": (OURS, lambda policy: policy["spec"]["egress"].append({})),
    "ours lets somebody in": (OURS, lambda policy: policy["spec"].update(ingress=[{}])),
    "ours is of one way only": (OURS, lambda policy: policy["spec"].update(policyTypes=["Egress"])),
    "ours selects other pods": (
        OURS,
        lambda policy: policy["spec"].update(podSelector={"matchLabels": {"app": "x"}}),
    ),
    "the one for all jobs selects other pods": (
        DEFAULT_DENY,
        lambda policy: policy["spec"].update(podSelector={"matchLabels": {"app": "x"}}),
    ),
    "the one for all jobs opens": (
        DEFAULT_DENY,
        lambda policy: policy["spec"].update(egress=[{}]),
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_pod_is_put_off_while_a_policy_of_ours_says_something_else(
    stage: GatewayStage, pod: Object, name: str
) -> None:
    target, change = OTHERWISE[name]
    path = policy_path(stage, target)
    before = stage.admin.get(path).expect()
    changed = copy.deepcopy(before)
    change(changed)
    stage.admin.call("PUT", path, changed).expect()
    try:
        answer = asked(stage, pod)
        assert answer.body["reason"] == "NotReady"
        assert (
            f"NetworkPolicy {target} is missing or is not as it was made" in answer.body["detail"]
        )
    finally:
        restore(stage, before)


@pytest.mark.parametrize("target", [OURS, DEFAULT_DENY])
def test_a_pod_is_put_off_while_a_policy_of_ours_is_gone(
    stage: GatewayStage, pod: Object, target: str
) -> None:
    path = policy_path(stage, target)
    before = stage.admin.get(path).expect()
    stage.admin.delete(path).expect()
    try:
        assert asked(stage, pod).body["reason"] == "NotReady"
    finally:
        restore(stage, before)


def restore(stage: GatewayStage, policy: Object) -> None:
    """Put a policy back as it was."""
    path = policy_path(stage, policy["metadata"]["name"])
    stage.admin.delete(path)
    metadata = {k: policy["metadata"].get(k) for k in ("name", "namespace", "labels")}
    metadata["ownerReferences"] = policy["metadata"].get("ownerReferences") or []
    assert MANAGED_BY_LABEL in metadata["labels"]
    stage.admin.create({**policy, "metadata": metadata}).expect()
