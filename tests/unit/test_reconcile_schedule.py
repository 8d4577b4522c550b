"""Suspending, resuming, new attempts, deadlines and times to live."""

from __future__ import annotations

import pytest

from securetrain.api.names import Purpose
from securetrain.errors import VaultSealed
from support.fakes import BATCH_JOBS, JOBS
from support.world import NAME, NAMESPACE, UID, World, kinds_of


async def test_suspend_deletes_the_train_job_and_resume_makes_the_next_attempt() -> None:
    world = World()
    await world.run()
    first = world.record.children[Purpose.TRAIN].uid
    world.change_spec(suspend=True)
    await world.run()
    assert world.child(Purpose.TRAIN) is None
    assert Purpose.TRAIN not in world.record.children
    assert world.status["phase"] == "Suspended"
    assert world.condition("Suspended")["status"] == "True"
    assert world.condition("Ready") is None
    await world.run()
    assert world.child(Purpose.TRAIN) is None

    world.change_spec(suspend=False)
    await world.run()
    assert world.record.attempt == 2
    assert world.record.children[Purpose.TRAIN].uid != first
    assert world.condition("Suspended") is None
    assert world.status["observedGeneration"] == 3


async def test_a_job_that_is_born_suspended_makes_nothing() -> None:
    world = World(suspend=True)
    await world.run()
    assert world.status["phase"] == "Suspended"
    assert world.cluster.created == []
    assert UID not in world.records.stored


async def test_suspend_does_not_touch_certify() -> None:
    world = World()
    await world.train()
    world.change_spec(suspend=True)
    await world.run()
    assert world.child(Purpose.CERTIFY) is not None
    assert world.status["phase"] == "Certifying"


async def test_a_deleted_child_is_made_again_as_a_new_attempt_but_never_after_the_end() -> None:
    world = World()
    await world.run()
    world.cluster.remove(BATCH_JOBS, NAMESPACE, f"stj-{NAME}-train")
    await world.run()
    assert (world.record.attempt, world.launches(Purpose.TRAIN)) == (2, 2)

    world.end_job(Purpose.TRAIN, "Failed", "BackoffLimitExceeded")
    await world.run()
    world.cluster.remove(BATCH_JOBS, NAMESPACE, f"stj-{NAME}-train")
    await world.run()
    assert world.launches(Purpose.TRAIN) == 2
    assert world.status["phase"] == "Failed"


async def test_starting_deadline_counts_from_acceptance_or_resume_and_not_once_it_has_run() -> None:
    world = World(startingDeadlineSeconds=100, suspend=True)
    await world.run()
    world.clock.advance(500)
    world.change_spec(suspend=False)
    world.vault.fault = VaultSealed("Vault is sealed")
    again = await world.run()
    assert world.status["phase"] == "Pending"
    assert again == world.settings.resync_seconds
    world.clock.advance(90)
    assert await world.run() == pytest.approx(10)
    world.clock.advance(11)
    await world.run()
    assert world.reason == "StartingDeadlineExceeded"
    assert "VaultSealed" in world.status["conditions"][0]["message"]


async def test_a_running_job_does_not_miss_its_starting_deadline() -> None:
    world = World(startingDeadlineSeconds=100)
    await world.run()
    world.put_pod(Purpose.TRAIN)
    world.clock.advance(1000)
    await world.run()
    assert world.status["phase"] == "Training"


async def test_a_changed_active_deadline_reaches_the_running_job() -> None:
    world = World(activeDeadlineSeconds=100)
    await world.run()
    assert world.child(Purpose.TRAIN)["spec"]["activeDeadlineSeconds"] == 100
    world.change_spec(activeDeadlineSeconds=900)
    await world.run()
    assert world.child(Purpose.TRAIN)["spec"]["activeDeadlineSeconds"] == 900
    assert world.launches(Purpose.TRAIN) == 1


async def test_children_go_after_their_time_and_the_job_only_if_it_says_so() -> None:
    world = World(childTTLSecondsAfterFinished=100)
    await world.train()
    await world.certify()
    world.clock.advance(60)
    assert await world.run() == pytest.approx(40)
    world.clock.advance(41)
    await world.run()
    assert world.child(Purpose.TRAIN) is None
    assert world.child(Purpose.CERTIFY) is None
    world.clock.advance(10**6)
    assert await world.run() is None
    assert world.status["phase"] == "Succeeded"


async def test_a_jobs_own_ttl_waits_for_the_signed_head_and_then_forgets_everything() -> None:
    world = World(ttlSecondsAfterFinished=10)
    await world.train()
    world.results(Purpose.CERTIFY)
    world.end_job(Purpose.CERTIFY)
    world.vault.fault = VaultSealed("Vault is sealed")
    await world.run()
    assert world.status["phase"] == "Succeeded"
    world.clock.advance(100)
    assert await world.run() is not None
    assert world.record.head_signature is None
    assert (JOBS, NAMESPACE, NAME) in world.cluster.objects
    world.vault.fault = None
    await world.run()
    await world.run()
    assert (JOBS, NAMESPACE, NAME) not in world.cluster.objects
    await world.run()
    assert world.records.stored == {}


async def test_the_children_of_a_job_that_the_gateway_failed_are_stopped_after_a_grace() -> None:
    world = World()
    await world.run()
    world.records.set(
        world.record.failed("PolicyDenied", "the owner says no", "2027-01-15T08:00:00Z")
    )
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "PolicyDenied")
    assert world.child(Purpose.TRAIN) is not None
    assert kinds_of(world)[-2:] == ["job.failed", "job.finished"]
    world.clock.advance(61)
    await world.run()
    assert world.child(Purpose.TRAIN) is None
