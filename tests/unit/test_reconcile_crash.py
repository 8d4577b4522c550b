"""The process may die at any step of any run: the next run makes it good."""

from __future__ import annotations

import json

import pytest

from securetrain.api.names import Purpose
from securetrain.audit.chain import verify_chain
from securetrain.errors import VaultUnavailable
from support.fakes import BATCH_JOBS, Crash, Tripwire
from support.world import World


async def persist(world: World) -> None:
    """Run until a run ends by itself; each death starts the operator anew."""
    for _ in range(5):
        try:
            if await world.run() != 1.0:
                return
        except Crash:
            world.trip.crash_at = None
            world.reconciler = world.new_reconciler()
    raise AssertionError("the job does not come to rest")


async def whole_life(world: World) -> None:
    """From apply to Succeeded, whatever happens to the operator."""
    await persist(world)
    pod = world.put_pod(Purpose.TRAIN)
    world.grant(Purpose.TRAIN, pod)
    await persist(world)
    world.results(Purpose.TRAIN)
    world.end_job(Purpose.TRAIN)
    await persist(world)
    certifier = world.put_pod(Purpose.CERTIFY)
    world.grant(Purpose.CERTIFY, certifier)
    world.results(Purpose.CERTIFY)
    world.end_job(Purpose.CERTIFY)
    await persist(world)
    await persist(world)


async def steps_of_a_whole_life() -> int:
    world = World()
    await whole_life(world)
    return world.trip.steps


def launched(world: World, purpose: Purpose) -> list[str]:
    """UIDs of the Jobs of a purpose whose pods could ever get keys."""
    events = [json.loads(line) for line in world.record.audit]
    kind = f"dev.securetrain.{purpose}.launched"
    return [event["data"]["childUid"] for event in events if event["type"] == kind]


async def test_dying_at_any_step_launches_each_phase_once_and_keeps_the_audit_whole() -> None:
    total = await steps_of_a_whole_life()
    assert total > 50
    for step in range(1, total + 1):
        world = World(Tripwire(crash_at=step))
        await whole_life(world)
        where = f"died at step {step}: {world.trip.log[step - 1]}"
        record = world.record
        assert world.status["phase"] == "Succeeded", where
        verify_chain(record.audit, record.genesis)
        assert record.head_signature is not None, where
        assert world.records.sink == list(record.audit), where
        for purpose in Purpose:
            assert launched(world, purpose) == [record.children[purpose].uid], where
            alive = world.child(purpose)
            assert alive is not None, where
            assert alive["metadata"]["uid"] == record.children[purpose].uid, where
        assert len(world.cluster.of_kind(BATCH_JOBS)) == 2, where
        mirror = world.cluster.objects[("v1/configmaps", "team-a", "digits-v7-audit")]
        assert mirror["data"]["audit.jsonl"].splitlines() == list(record.audit), where


async def test_dying_at_any_step_of_a_suspension_leaves_no_job_behind() -> None:
    for step in range(1, 40):
        world = World()
        await persist(world)
        world.change_spec(suspend=True)
        world.trip.steps, world.trip.crash_at = 0, step
        await persist(world)
        assert world.child(Purpose.TRAIN) is None
        assert world.status["phase"] == "Suspended"
        world.change_spec(suspend=False)
        world.trip.steps, world.trip.crash_at = 0, step
        await persist(world)
        assert world.record.attempt == 2
        assert world.child(Purpose.TRAIN)["metadata"]["uid"] == launched(world, Purpose.TRAIN)[-1]
        verify_chain(world.record.audit, world.record.genesis)


async def test_a_job_that_fails_during_a_launch_gets_no_keys_and_its_job_goes() -> None:
    world = World()
    create = world.cluster.create

    async def overtaken(kind: str, namespace: str, body: dict[str, object]) -> dict[str, object]:
        created = await create(kind, namespace, body)
        if kind == BATCH_JOBS:
            failed = world.record.failed("PolicyDenied", "no", world.clock.rfc3339())
            world.records.set(failed)
        return created

    world.cluster.create = overtaken  # type: ignore[method-assign]
    assert await world.run() == 1.0
    await persist(world)
    assert world.record.children == {}
    assert world.child(Purpose.TRAIN) is None
    assert world.status["phase"] == "Failed"


@pytest.mark.parametrize("calls", range(1, 4))
async def test_vault_going_away_in_the_middle_of_a_life_is_waited_out(calls: int) -> None:
    world = World()
    await world.train()
    world.vault.fault = VaultUnavailable("Vault does not answer")
    world.results(Purpose.CERTIFY)
    world.end_job(Purpose.CERTIFY)
    for _ in range(calls):
        assert await world.run() is not None
    assert world.status["phase"] == "Succeeded"
    assert world.record.head_signature is None
    world.vault.fault = None
    await world.run()
    assert world.record.head_signature is not None
