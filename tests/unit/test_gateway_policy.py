"""Every rule of the owner's policy at the gateway: who says no, to what, and what would pass."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from securetrain.api.names import Purpose
from support.gateway_world import POLICY, SPEC, World, trained

FOREIGN = "registry.example/theirs@sha256:" + "b" * 64
DIGEST = FOREIGN.rpartition("@")[2]


@dataclass(frozen=True)
class Case:
    """A job and a policy that differ from what fits in one point."""

    policy: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    denied: tuple[str, str, str, str] | None = None
    """Rule, what the job says, what would pass, what to change; None if it is allowed."""

    def world(self) -> World:
        world = World(spec={**SPEC, **self.spec})
        world.policy.update(self.policy)
        return world


def gates(*found: dict[str, Any]) -> dict[str, Any]:
    return {"certification": {"gates": list(found)}}


ACCURACY = {"metric": "accuracy", "min": 0.97}
GATES = ("gates", "spec.certification.gates")
CASES: dict[str, Case] = {
    "all that is agreed": Case(),
    "another namespace": Case(
        policy={"namespaces": ["team-b", "team-c"]},
        denied=("namespaces", "team-a", "team-b, team-c", "metadata.namespace"),
    ),
    "one namespace of several": Case(policy={"namespaces": ["team-b", "team-a"]}),
    "a namespace that only begins alike": Case(
        policy={"namespaces": ["team-ab", "team"]},
        denied=("namespaces", "team-a", "team-ab, team", "metadata.namespace"),
    ),
    "another image where only ours may": Case(
        spec={"pod": {"image": FOREIGN}},
        denied=("images", FOREIGN, "builtin", "spec.pod.image"),
    ),
    "an image by its digest": Case(spec={"pod": {"image": FOREIGN}}, policy={"images": [DIGEST]}),
    "ours where only another may": Case(
        policy={"images": [DIGEST]}, denied=("images", "@sha256:aaa", DIGEST, "spec.pod.image")
    ),
    "another output key": Case(
        spec={"output": {**SPEC["output"], "kek": "mine"}},  # type: ignore[dict-item]
        denied=("outputKeks", "mine", "team-a-models", "spec.output.kek"),
    ),
    "no gates at all": Case(
        spec=gates(),
        denied=(GATES[0], "nothing of accuracy", "accuracy ≥ 0.95 or stricter", GATES[1]),
    ),
    "a weaker gate": Case(
        spec=gates({"metric": "accuracy", "min": 0.9499}),
        denied=(GATES[0], "accuracy ≥ 0.9499", "accuracy ≥ 0.95 or stricter", GATES[1]),
    ),
    "a gate of the same strength": Case(spec=gates({"metric": "accuracy", "min": 0.95})),
    "a gate that bounds the other side": Case(
        spec=gates({"metric": "accuracy", "max": 0.99}),
        denied=(GATES[0], "accuracy ≤ 0.99", "accuracy ≥ 0.95 or stricter", GATES[1]),
    ),
    "a gate on another metric": Case(
        spec=gates({"metric": "macroRecall", "min": 0.99}),
        denied=(GATES[0], "nothing of accuracy", "accuracy ≥ 0.95 or stricter", GATES[1]),
    ),
    "one of two gates": Case(
        policy={"gates": [*POLICY["gates"], {"metric": "loss", "max": "0.2"}]},
        spec=gates(ACCURACY),
        denied=(GATES[0], "nothing of loss", "loss ≤ 0.2 or stricter", GATES[1]),
    ),
    "no gates where none is asked for": Case(policy={"gates": []}, spec=gates()),
    "an ended policy": Case(
        policy={"notAfter": "2026-12-31T23:59:59Z"},
        denied=("notAfter", "2027-01-15", "use before 2026-12-31T23:59:59Z", "the time"),
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_rule_at_the_gateway(name: str) -> None:
    case = CASES[name]
    world = case.world()
    async with world.client() as client:
        status, problem = await client.grant(world.pod())
    if case.denied is None:
        assert (status, world.record.failure) == (200, None)
        return
    rule, said, allowed, change = case.denied
    assert (status, problem["reason"]) == (403, "PolicyDenied")
    failure = world.record.failure
    assert failure is not None
    assert failure.reason == "PolicyDenied"
    assert f"{rule}: the job says " in failure.message
    assert said in failure.message
    assert f"the data owner allows {allowed}" in failure.message
    assert f"Fix: change {change}, or ask the data owner" in failure.message
    assert failure.message.count("the job says") == 1
    assert world.vault.wrapped == []


async def test_all_rules_that_deny_are_told_at_once() -> None:
    world = World()
    world.policy |= {"namespaces": ["b"], "outputKeks": ["c"], "images": [DIGEST]}
    async with world.client() as client:
        _, problem = await client.grant(world.pod())
    assert problem["detail"].count("the job says") == 3
    assert "change metadata.namespace, spec.pod.image, spec.output.kek, or" in problem["detail"]


def at(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(("left", "status"), [(2, 200), (1, 403), (0, 403)])
async def test_a_policy_ends_to_the_second(left: int, status: int) -> None:
    world = World()  # whose clock goes on by one second with each call
    world.policy["notAfter"] = at(world.clock.now() + left)
    async with world.client() as client:
        assert (await client.grant(world.pod()))[0] == status


async def test_a_policy_that_ends_while_a_job_trains_gives_no_test_key() -> None:
    world = World()
    world.policy["notAfter"] = at(world.clock.now() + 600)
    async with world.client() as client:
        assert (await client.grant(world.pod()))[0] == 200
        trained(world)
        world.clock.advance(600)
        status, problem = await client.grant(world.pod(Purpose.CERTIFY, "fghij"))
    assert (status, problem["reason"]) == (403, "PolicyDenied")
    assert "notAfter" in problem["detail"]
    assert len(world.record.grants) == 1


@pytest.mark.parametrize(
    "rule",
    [
        {"maxEpsilon": "3"},
        {"entrypoints": ["my_models:create_model"]},
        {"notBefore": "2020-01-01T00:00:00Z"},
        {"maxUses": 3},
        {"network_isolation": True},
    ],
)
async def test_a_protection_that_is_not_known_is_refused_and_never_ignored(
    rule: dict[str, Any],
) -> None:
    world = World()
    world.policy.update(rule)
    async with world.client() as client:
        status, problem = await client.grant(world.pod())
    assert (status, problem["reason"]) == (422, "ManifestInvalid")
    assert next(iter(rule)) in problem["detail"]
    assert world.record.phase == "Failed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps(POLICY)[:-1] + ', "namespaces": ["team-b"]}', "twice"),
        (json.dumps(POLICY).replace('"0.95"', "0.95"), "decimals as text"),
        ("format: securetrain/policy/v1\n", "not JSON"),
        (json.dumps(POLICY)[:-1], "not JSON"),
        ("", "not JSON"),
    ],
)
async def test_only_strict_json_is_a_policy_at_the_gateway(text: str, says: str) -> None:
    world = World()
    async with world.client() as client:
        body = base64.b64encode(text.encode()).decode()
        status, problem = await client.grant(world.pod(), policy=body)
    assert (status, problem["reason"]) == (422, "ManifestInvalid")
    assert says in problem["detail"]
