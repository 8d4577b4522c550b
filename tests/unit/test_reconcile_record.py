"""The launch record and its mirror: deleted jobs, lost or broken records, forged status."""

from __future__ import annotations

from typing import Any

import pytest

from securetrain.api.names import JOB_UID_LABEL, Purpose
from securetrain.audit.chain import verify_chain
from securetrain.errors import AuditBroken, VaultDenied
from support.fakes import BATCH_JOBS, JOBS, PODS
from support.world import NAME, NAMESPACE, TIME, UID, World, job_object, warnings_of


async def test_a_deleted_job_is_forgotten_and_the_same_name_is_another_job() -> None:
    world = World()
    await world.run()
    world.cluster.remove(JOBS, NAMESPACE, NAME)
    assert world.child(Purpose.TRAIN) is None
    again = job_object()
    again["metadata"]["uid"] = "another-uid"
    world.cluster.put(JOBS, NAMESPACE, again)
    await world.run()
    assert world.records.stored == {}
    await world.reconciler.reconcile("another-uid")
    assert list(world.records.stored) == ["another-uid"]
    assert world.child(Purpose.TRAIN)["metadata"]["labels"][JOB_UID_LABEL] == "another-uid"


async def test_that_a_running_job_was_deleted_is_said_before_its_record_goes() -> None:
    world = World()
    await world.run()
    last = world.record
    world.cluster.remove(JOBS, NAMESPACE, NAME)
    await world.run()
    assert world.records.stored == {}
    *before, said = verify_chain(world.records.sink, last.genesis)
    assert [record.line for record in before] == list(last.audit)
    assert said.type == "dev.securetrain.job.deleted"
    assert said.data["phase"] == "Training"


async def test_that_an_ended_job_was_deleted_adds_nothing_to_its_closed_trail() -> None:
    world = World()
    await world.train()
    await world.certify()
    trail = list(world.record.audit)
    world.cluster.remove(JOBS, NAMESPACE, NAME)
    await world.run()
    assert world.records.stored == {}
    assert world.records.sink == trail


async def test_a_record_is_kept_while_only_the_watch_has_lost_its_job() -> None:
    world = World()
    await world.run()
    world.store.frozen = {}
    assert await world.run() == world.settings.resync_seconds
    assert UID in world.records.stored


async def test_a_spec_that_changed_after_acceptance_fails_the_job() -> None:
    world = World()
    await world.run()
    world.change_spec(certification={"gates": []})
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "SpecChanged")


async def test_the_pods_of_a_broken_launch_record_are_stopped_and_status_keeps_what_is_known() -> (
    None
):
    world = World()
    await world.run()
    world.grant(Purpose.TRAIN, world.put_pod(Purpose.TRAIN))
    await world.run()
    known = dict(world.status)
    granted = world.condition("KeysGranted")

    async def broken(uid: str) -> None:
        raise AuditBroken("the launch record was changed")

    world.records.get = broken  # type: ignore[method-assign,assignment]
    world.store.freeze()
    made = len(world.cluster.created)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "AuditBroken")
    assert len(world.cluster.created) == made
    assert world.cluster.of_kind(BATCH_JOBS) == world.cluster.of_kind(PODS) == []
    assert world.condition("KeysGranted") == granted
    for field in ("startTime", "jobs", "grants", "datasets", "audit", "attempts"):
        assert world.status[field] == known[field]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_job_whose_launch_record_is_lost_is_never_launched_again(ended: bool) -> None:
    world = World()
    await world.train()
    if ended:
        await world.certify()
    started, text = world.status["startTime"], world.records.stored.pop(UID)
    made = len(world.cluster.created)
    for _ in range(3):
        await world.run()
        assert (world.status["phase"], world.reason) == ("Failed", "LaunchRecordLost")
        assert f"restore ConfigMap launch-{UID}" in world.status["conditions"][0]["message"]
        assert world.status["startTime"] == started
    assert world.records.stored == {}
    assert len(world.cluster.created) == made
    assert world.cluster.of_kind(BATCH_JOBS) == []

    world.records.stored[UID] = text
    await world.run()
    assert world.status["phase"] == ("Succeeded" if ended else "Certifying")


@pytest.mark.parametrize("told", [{"phase": "Succeeded"}, {"startTime": TIME}])
async def test_a_forged_status_launches_nothing(told: dict[str, Any]) -> None:
    world = World()
    world.job["status"] = told
    await world.run()
    assert world.reason == "LaunchRecordLost"
    assert world.records.stored == {}
    assert world.cluster.created == []


async def test_a_config_map_that_is_not_the_jobs_is_never_overwritten_and_that_is_told_once() -> (
    None
):
    world = World()
    name = f"{NAME}-audit"
    theirs = {"metadata": {"name": name}, "data": {"precious": "x"}}
    before = world.cluster.put("v1/configmaps", NAMESPACE, theirs)
    await world.train()
    await world.certify()
    assert world.status["phase"] == "Succeeded"
    assert world.cluster.objects[("v1/configmaps", NAMESPACE, name)] == before
    told = [said for reason, said, _ in world.events.emitted if reason == "AuditHidden"]
    assert len(told) == 1
    assert name in told[0]
    world.cluster.remove("v1/configmaps", NAMESPACE, name)
    await world.run()
    assert ("v1/configmaps", NAMESPACE, name) in world.cluster.objects


async def test_the_mirror_of_an_earlier_job_of_that_name_is_waited_for() -> None:
    world = World()
    name = f"{NAME}-audit"
    owner = {"kind": "SecureTrainingJob", "name": NAME, "uid": "earlier", "controller": True}
    world.cluster.put(
        "v1/configmaps", NAMESPACE, {"metadata": {"name": name, "ownerReferences": [owner]}}
    )
    await world.run()
    assert "AuditHidden" not in warnings_of(world)
    world.cluster.remove("v1/configmaps", NAMESPACE, name)
    await world.run()
    mirror = world.cluster.objects[("v1/configmaps", NAMESPACE, name)]
    assert mirror["data"]["audit.jsonl"].splitlines() == list(world.record.audit)


async def test_a_mirror_that_cannot_be_written_holds_nothing_up() -> None:
    world = World()
    create = world.cluster.create

    async def denied(kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind == "v1/configmaps":
            raise VaultDenied("not allowed")
        return await create(kind, namespace, body)

    world.cluster.create = denied  # type: ignore[method-assign]
    await world.train()
    assert world.status["phase"] == "Certifying"
