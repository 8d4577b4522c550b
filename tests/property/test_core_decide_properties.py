"""Random lives of a job: whatever happens in whatever order, some things never do."""

from __future__ import annotations

import asyncio
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetrain.api.names import Purpose
from securetrain.audit.chain import verify_chain
from securetrain.errors import VaultSealed
from support.fakes import BATCH_JOBS, JOBS, PODS
from support.world import NAMESPACE, World

EVENTS = (
    "seal",
    "unseal",
    "lose guard",
    "find guard",
    "suspend",
    "resume",
    "pod",
    "grant",
    "results",
    "complete",
    "fail",
    "lose child",
    "policy denied",
    "freeze",
    "thaw",
    "restart",
    "wait",
)


def current(world: World) -> Purpose | None:
    """The purpose whose child Job is at work."""
    stored = world.records.stored
    record = world.record if stored else None
    if record is None or record.terminal:
        return None
    purpose = Purpose.CERTIFY if record.phase == "Certifying" else Purpose.TRAIN
    return purpose if world.child(purpose) else None


def happen(world: World, event: str) -> None:
    """Let something happen around the operator."""
    purpose = current(world)
    if event in ("seal", "unseal"):
        world.vault.fault = VaultSealed("Vault is sealed") if event == "seal" else None
    elif event in ("lose guard", "find guard"):
        world.cluster.guards_missing = ("securetrain-job",) if event == "lose guard" else ()
    elif event in ("suspend", "resume"):
        world.change_spec(suspend=event == "suspend")
    elif event == "restart":
        world.reconciler = world.new_reconciler()
    elif event == "freeze":
        world.store.freeze()
    elif event == "thaw":
        world.store.thaw()
    elif event == "wait":
        world.clock.advance(40)
    elif purpose is not None:
        happen_to_child(world, event, purpose)


def happen_to_child(world: World, event: str, purpose: Purpose) -> None:
    """Let something happen to the child Job that is at work."""
    pods = [pod for pod in world.cluster.of_kind(PODS) if str(purpose) in pod["metadata"]["name"]]
    if event == "pod":
        world.put_pod(purpose, number=len(pods) + 1)
    elif event == "grant" and pods:
        world.grant(purpose, pods[-1])
    elif event == "results" and purpose in world.record.children:
        world.results(purpose)
    elif event == "complete":
        world.end_job(purpose)
    elif event == "fail":
        world.end_job(purpose, "Failed", "BackoffLimitExceeded")
    elif event == "lose child":
        world.cluster.remove(BATCH_JOBS, NAMESPACE, f"stj-digits-v7-{purpose}")
    elif event == "policy denied":
        time = world.clock.rfc3339()
        world.records.set(world.record.failed("PolicyDenied", "the owner says no", time))


async def live(events: list[str]) -> None:
    """One life, with all promises checked after every run."""
    world = World()
    outcome: str | None = None
    for event in events:
        happen(world, event)
        made = len(world.cluster.created)
        blocked = world.vault.fault is not None or bool(world.cluster.guards_missing)
        await world.run()
        new = [name for kind, name in world.cluster.created[made:] if kind == BATCH_JOBS]
        assert not (blocked and new), "nothing is launched while Vault or a guard is away"
        assert not (outcome and new), "nothing is launched after the end"
        if world.records.stored:
            outcome = check_record(world, outcome)
    world.store.thaw()
    await at_rest(world)


def check_record(world: World, outcome: str | None) -> str | None:
    """The chain holds, each attempt launches once, and an outcome never changes."""
    record = world.record
    verify_chain(record.audit, record.genesis)
    launched = [
        (data["purpose"], data["attempt"])
        for event in map(json.loads, record.audit)
        if event["type"].endswith("train.launched")
        for data in [event["data"]]
    ]
    assert len(launched) == len(set(launched)), "one launch per attempt"
    if outcome is not None:
        assert record.phase == outcome, "terminal is sticky"
    return record.phase if record.terminal else None


async def at_rest(world: World) -> None:
    """A second run with nothing changed does nothing."""
    for _ in range(3):
        await world.run()
    before = (world.records.stored.copy(), len(world.cluster.created), world.cluster.status_writes)
    versions = {key: item["metadata"]["resourceVersion"] for key, item in objects(world)}
    await world.run()
    assert before == (
        world.records.stored,
        len(world.cluster.created),
        world.cluster.status_writes,
    )
    assert versions == {key: item["metadata"]["resourceVersion"] for key, item in objects(world)}
    assert world.job["metadata"]["name"] == "digits-v7"
    assert (JOBS, NAMESPACE, "digits-v7") in world.cluster.objects


def objects(world: World) -> list[tuple[object, dict[str, dict[str, str]]]]:
    return list(world.cluster.objects.items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=25))
def test_promises_hold_in_any_life(events: list[str]) -> None:
    asyncio.run(live(events))
