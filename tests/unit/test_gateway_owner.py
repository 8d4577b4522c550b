"""What the owner of a dataset does not allow, and datasets that are not what was granted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from securetrain.api.names import Purpose
from support.gateway_pods import NAMESPACE
from support.gateway_world import JOB_UID, NETWORK_POLICIES, World, trained

Bend = Callable[[World], Any]


def bend_policy(**changes: Any) -> Bend:
    return lambda world: world.policy.update(changes)


def add_policy(name: str, spec: dict[str, Any]) -> Bend:
    return lambda world: world.cluster.put(
        NETWORK_POLICIES, NAMESPACE, {"metadata": {"name": name}, "spec": spec}
    )


OPEN = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
FATAL: dict[str, tuple[Bend, int, str, str]] = {
    "namespace": (bend_policy(namespaces=["team-b"]), 403, "PolicyDenied", "namespaces"),
    "image": (bend_policy(images=["sha256:" + "f" * 64]), 403, "PolicyDenied", "images"),
    "KEK": (bend_policy(outputKeks=["other"]), 403, "PolicyDenied", "outputKeks"),
    "date": (bend_policy(notAfter="2026-01-01T00:00:00Z"), 403, "PolicyDenied", "notAfter"),
    "gates": (
        bend_policy(gates=[{"metric": "accuracy", "min": "0.99"}]),
        403,
        "PolicyDenied",
        "gates",
    ),
    "field": (bend_policy(extra=1), 422, "ManifestInvalid", "policy.json"),
    "format": (bend_policy(format="securetrain/policy/v2"), 422, "ManifestInvalid", "format"),
    "no date": (lambda world: world.policy.pop("notAfter"), 422, "ManifestInvalid", "notAfter"),
}


@pytest.mark.parametrize("name", FATAL)
async def test_what_the_owner_does_not_allow_ends_the_job(name: str) -> None:
    bend, expected, reason, word = FATAL[name]
    world = World()
    pod = world.pod()
    bend(world)
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (expected, reason)
    record = world.record
    assert record.failure is not None
    assert (record.phase, record.failure.reason) == ("Failed", reason)
    assert word in record.failure.message
    assert world.kinds[-1] == "job.failed"
    assert (record.grants, world.vault.wrapped) == ((), [])
    assert world.wakeup.woken == [JOB_UID]


async def test_the_digest_of_the_attested_image_can_be_allowed_by_itself() -> None:
    world = World()
    pod = world.pod()
    world.policy["images"] = ["sha256:" + "a" * 64]
    async with world.client() as client:
        assert (await client.grant(pod))[0] == 200


async def test_an_opening_that_somebody_made_is_waited_for_and_is_not_the_jobs_fault() -> None:
    world = World()
    pod = world.pod()
    add_policy("theirs", OPEN)(world)
    before = world.record_text
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "NotIsolated")
        assert "theirs" in problem["detail"]
        assert world.record_text == before
        world.cluster.remove(NETWORK_POLICIES, NAMESPACE, "theirs")
        assert (await client.grant(pod))[0] == 200


async def test_what_the_owner_does_not_allow_is_not_put_off_by_an_opening() -> None:
    world = World()
    pod = world.pod()
    add_policy("theirs", OPEN)(world)
    world.policy["notAfter"] = "2026-01-01T00:00:00Z"
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "PolicyDenied")
    assert "networkIsolation" not in problem["detail"]


async def test_an_opening_does_not_matter_where_the_owner_does_not_demand_isolation() -> None:
    world = World()
    pod = world.pod()
    world.policy["networkIsolation"] = False
    add_policy("theirs", OPEN)(world)
    async with world.client() as client:
        assert (await client.grant(pod))[0] == 200


def pinned(world: World) -> None:
    spec = world.spec.model_copy(
        update={
            "datasets": (world.spec.dataset.model_copy(update={"digest": "sha256:" + "e" * 64}),)
        }
    )
    world.__init__(spec=spec.to_wire())  # type: ignore[misc]


async def test_a_dataset_other_than_the_pinned_one_ends_the_job() -> None:
    world = World()
    pinned(world)
    pod = world.pod()
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "DatasetChanged")
    assert world.record.failure is not None
    assert world.record.failure.reason == "DatasetChanged"


@pytest.mark.parametrize(
    "change",
    [
        lambda world: world.policy.update(notAfter="2029-01-01T00:00:00Z"),
        lambda world: setattr(
            world, "policy", world.policy | {"images": ["builtin", "sha256:" + "9" * 64]}
        ),
    ],
)
async def test_an_older_looser_policy_after_the_first_grant_ends_the_job(change: Bend) -> None:
    world = World()
    async with world.client() as client:
        await client.grant(world.pod())
        trained(world)
        change(world)
        status, problem = await client.grant(world.pod(Purpose.CERTIFY, "fghij"))
    assert (status, problem["reason"]) == (403, "DatasetChanged")
    assert world.record.phase == "Failed"


async def test_another_manifest_after_the_first_grant_ends_the_job() -> None:
    world = World()
    async with world.client() as client:
        await client.grant(world.pod())
        status, problem = await client.grant(world.pod(suffix="fghij"), datasetSha256="e" * 64)
    assert (status, problem["reason"]) == (403, "DatasetChanged")
