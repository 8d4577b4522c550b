"""Which admission guards count as in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from securetrain.api.names import NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE
from securetrain_operator.adapters import guards

SCOPE = {"matchLabels": {NAMESPACE_LABEL: NAMESPACE_LABEL_VALUE}}
VICTIM = "securetrain-pod-create"


def policy(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {},
                "objectSelector": {},
                "resourceRules": [{"resources": ["pods"]}],
            },
            "validations": [{"expression": "false"}],
        },
    }


def binding(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny", "Audit"],
            "matchResources": {"namespaceSelector": SCOPE, "objectSelector": {}},
        },
    }


def missing_after(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> list[str]:
    policies = {name: policy(name) for name in guards.GUARDS}
    bindings = {name: binding(name) for name in guards.GUARDS}
    change(policies[VICTIM], bindings[VICTIM])
    return list(guards.missing(policies.values(), bindings.values()))


def test_all_in_place() -> None:
    assert missing_after(lambda p, b: None) == []
    assert missing_after(lambda p, b: b["spec"].pop("matchResources")) == []


def test_none_in_place() -> None:
    assert list(guards.missing([], [])) == list(guards.GUARDS)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p, b: p["metadata"].update(name="other"), id="absent policy"),
        pytest.param(lambda p, b: p["metadata"].update(deletionTimestamp="x"), id="going policy"),
        pytest.param(lambda p, b: p["spec"].update(failurePolicy="Ignore"), id="fails open"),
        pytest.param(lambda p, b: p["spec"].update(validations=[]), id="validates nothing"),
        pytest.param(lambda p, b: p["spec"].update(paramKind={"kind": "X"}), id="parameters"),
        pytest.param(
            lambda p, b: p["spec"]["matchConstraints"].update(
                namespaceSelector={"matchLabels": {"a": "b"}}
            ),
            id="policy narrowed by namespace",
        ),
        pytest.param(
            lambda p, b: p["spec"]["matchConstraints"].update(
                objectSelector={"matchLabels": {"a": "b"}}
            ),
            id="policy narrowed by object",
        ),
        pytest.param(lambda p, b: b["spec"].update(policyName="other"), id="absent binding"),
        pytest.param(lambda p, b: b["metadata"].update(deletionTimestamp="x"), id="going binding"),
        pytest.param(lambda p, b: b["spec"].update(validationActions=["Warn"]), id="only warns"),
        pytest.param(lambda p, b: b["spec"].update(paramRef={"name": "x"}), id="bound parameter"),
        pytest.param(
            lambda p, b: b["spec"]["matchResources"].update(
                excludeResourceRules=[{"resources": ["pods"]}]
            ),
            id="excludes",
        ),
        pytest.param(
            lambda p, b: b["spec"]["matchResources"].update(resourceRules=[{"resources": ["x"]}]),
            id="binding narrowed by resource",
        ),
        pytest.param(
            lambda p, b: b["spec"]["matchResources"].update(
                namespaceSelector={
                    "matchExpressions": [
                        {"key": NAMESPACE_LABEL, "operator": "NotIn", "values": ["enabled"]}
                    ]
                }
            ),
            id="binding of other namespaces",
        ),
    ],
)
def test_each_way_to_disarm_a_guard_is_noticed(
    change: Callable[[dict[str, Any], dict[str, Any]], object],
) -> None:
    assert missing_after(change) == [VICTIM]


def test_one_denying_binding_among_others_is_enough() -> None:
    weak = binding(VICTIM)
    weak["spec"]["validationActions"] = ["Audit"]
    policies = [policy(name) for name in guards.GUARDS]
    assert not guards.missing(policies, [weak, *(binding(name) for name in guards.GUARDS)])
