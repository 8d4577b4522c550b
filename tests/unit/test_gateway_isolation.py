"""NetworkPolicies add up: ours must be as built, and no other may open the pod."""

from __future__ import annotations

from typing import Any

import pytest

from securetrain_operator.gateway.isolation import intact, openings, selects
from support.gateway_world import World

LABELS = {"securetrain.dev/job": "digits-v7", "app": "x"}
OURS: dict[str, Any] = {
    "metadata": {"name": "stj-digits-v7"},
    "spec": {
        "podSelector": {"matchLabels": {"securetrain.dev/job": "digits-v7"}},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}]}],
    },
}


def other(selector: Any, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "theirs"}, "spec": {"podSelector": selector, **spec}}


SELECTORS: list[tuple[Any, bool]] = [
    (None, True),
    ({}, True),
    ({"matchLabels": {"app": "x"}}, True),
    ({"matchLabels": {"app": "y"}}, False),
    ({"matchLabels": {"app": "x", "b": "c"}}, False),
    ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["x"]}]}, False),
    ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, False),
    ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["x"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "Future"}]}, True),
]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS)
def test_selectors_select_as_kubernetes_does(selector: Any, expected: bool) -> None:
    assert selects(selector, LABELS) is expected


@pytest.mark.parametrize(("selector", "selected"), SELECTORS)
@pytest.mark.parametrize("opening", [{"egress": [{}]}, {"ingress": [{}]}])
def test_a_policy_that_selects_the_pod_and_opens_is_named(
    selector: Any, selected: bool, opening: dict[str, Any]
) -> None:
    policies = [OURS, other(selector, **opening)]
    assert openings(LABELS, policies, OURS) == (("theirs",) if selected else ())


def test_a_policy_that_only_closes_opens_nothing() -> None:
    policies = [OURS, other({}, policyTypes=["Ingress"]), other({}, ingress=[], egress=None)]
    assert openings(LABELS, policies, OURS) == ()


def test_ours_must_be_there_select_the_pod_and_say_what_was_built() -> None:
    assert intact(LABELS, [OURS], OURS)
    assert intact(LABELS, [{**OURS, "spec": OURS["spec"] | {"ingress": []}}], OURS)
    assert not intact(LABELS, [], OURS)
    assert not intact({"app": "x"}, [OURS], OURS)
    wider = OURS["spec"] | {"egress": [*OURS["spec"]["egress"], {}]}
    assert not intact(LABELS, [{**OURS, "spec": wider}], OURS)
    assert not intact(LABELS, [{**OURS, "spec": OURS["spec"] | {"policyTypes": ["Egress"]}}], OURS)


def test_the_policies_that_the_operator_builds_are_intact_for_its_own_pods() -> None:
    world = World()
    pod = world.pod()
    built = world.cluster.of_kind("networking.k8s.io/v1/networkpolicies")
    assert len(built) == 2
    for ours in built:
        assert intact(pod["metadata"]["labels"], built, ours)
    assert openings(pod["metadata"]["labels"], built, built[0]) == ()
