"""Guards that are taken away under way: the real pod waits, its job is not harmed, and goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import GUARDS, NAMESPACE_LABEL
from securetrain_operator.adapters import kube
from support.api import Api, Object
from support.chart import named
from support.gateway_stage import GatewayStage
from support.imitators import call
from support.installed import ADMISSION, chart_installed
from support.real_gateway import staged

JOB = "guarded"
POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
PATHS = {
    POLICY: f"{ADMISSION}/validatingadmissionpolicies",
    BINDING: f"{ADMISSION}/validatingadmissionpolicybindings",
}
Change = Callable[[Object], Any]


@pytest.fixture(scope="module")
def chart(control_plane: ControlPlane) -> Iterator[list[Object]]:
    with chart_installed(Api(control_plane.kubeconfig)) as objects:
        yield objects


@pytest.fixture(scope="module")
def stage(
    chart: list[Object],
    control_plane: ControlPlane,
    openbao: OpenBao,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayStage]:
    folder = tmp_path_factory.mktemp("guards")
    with (
        pytest.MonkeyPatch.context() as patch,
        staged(control_plane, openbao, folder, "guards", require_guards=True) as made,
    ):
        patch.setattr(kube, "GUARDS_FRESH_SECONDS", 0.0)
        yield made


@pytest.fixture(scope="module")
def pod(stage: GatewayStage) -> Iterator[Object]:
    """The job's pod, which gets its keys when all guards are back."""
    (launched,) = stage.launch(JOB)
    yield launched
    assert len(stage.keys(launched).splits) == 2
    stage.reconcile(stage.uid(JOB))
    assert "GuardMissing" not in reasons(stage)


def reasons(stage: GatewayStage) -> set[str]:
    status = stage.admin.get(stage.job_path(JOB)).expect()["status"]
    return {condition["reason"] for condition in status["conditions"]}


def put_off(stage: GatewayStage, pod: Object) -> str:
    """What the pod is told that waits for a guard."""
    stage.clock.ahead += 1  # it may ask twice a second
    with stage.unharmed(JOB, woken=True):
        answer = call(stage, pod, stage.request(pod), stage.kubelet_token(pod))
    assert (answer.status, answer.body["reason"]) == (503, "GuardMissing")
    assert "keys" not in answer.body
    return str(answer.body["detail"])


@pytest.mark.parametrize(
    ("kind", "guard"), [*((BINDING, guard) for guard in GUARDS), (POLICY, GUARDS[0])]
)
def test_while_a_guard_is_gone_no_key_is_given(
    stage: GatewayStage, chart: list[Object], pod: Object, kind: str, guard: str
) -> None:
    stage.admin.delete(f"{PATHS[kind]}/{guard}").expect()
    try:
        assert guard in put_off(stage, pod)
    finally:
        stage.admin.apply(named(chart, kind, guard)).expect()


WEAKENED: dict[str, tuple[str, Change]] = {
    "only warns": (BINDING, lambda b: b["spec"].update(validationActions=["Warn", "Audit"])),
    "holds elsewhere": (
        BINDING,
        lambda b: b["spec"].update(
            matchResources={"namespaceSelector": {"matchLabels": {"team": "x"}}}
        ),
    ),
    "spares some objects": (
        BINDING,
        lambda b: (
            b["spec"]
            .setdefault("matchResources", {})
            .update(objectSelector={"matchLabels": {"spared": "no"}})
        ),
    ),
    "lets pass when it breaks": (POLICY, lambda p: p["spec"].update(failurePolicy="Ignore")),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_while_a_guard_is_weakened_no_key_is_given(
    stage: GatewayStage, chart: list[Object], pod: Object, name: str
) -> None:
    kind, change = WEAKENED[name]
    honest = named(chart, kind, GUARDS[1])
    weak = copy.deepcopy(honest)
    change(weak)
    stage.admin.apply(weak).expect()
    try:
        assert GUARDS[1] in put_off(stage, pod)
    finally:
        stage.admin.apply(honest).expect()


def test_while_no_guard_holds_in_the_namespace_no_key_is_given_and_the_status_says_so(
    stage: GatewayStage, pod: Object
) -> None:
    path = f"/api/v1/namespaces/{stage.namespace}"
    stage.admin.patch(path, {"metadata": {"labels": {NAMESPACE_LABEL: None}}}).expect()
    try:
        assert NAMESPACE_LABEL in put_off(stage, pod)
        stage.reconcile(stage.uid(JOB))
        assert "GuardMissing" in reasons(stage)
    finally:
        label = {"metadata": {"labels": {NAMESPACE_LABEL: "enabled"}}}
        stage.admin.patch(path, label).expect()
