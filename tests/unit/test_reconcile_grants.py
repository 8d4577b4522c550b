"""What becomes of grants: pods that gave up, stolen tokens, and the cap."""

from __future__ import annotations

import json
from typing import Any

import pytest

from securetrain.api.gateway import KeyGrant
from securetrain.api.names import Purpose
from securetrain.errors import VaultUnavailable
from securetrain_operator.ports import HeldTokens, WrappedToken
from support.fakes import PODS
from support.world import NAME, NAMESPACE, TIME, World, settings, warnings_of


async def gave_up(
    world: World, *, held: bool = True, exit_code: int = 11, **fault: Any
) -> dict[str, Any] | None:
    """A pod ends after its grant; what the audit then says of it."""
    await world.run()
    pod = world.put_pod(Purpose.TRAIN)
    world.grant(Purpose.TRAIN, pod)
    if held:
        told = {"creation_path": "transit/decrypt/k", "creation_time": TIME, "ttl": 30}
        tokens = [
            WrappedToken(KeyGrant(name=name, token=f"token-{name}", **told), f"accessor-{name}")
            for name in ("train", "model")
        ]
        connection = world.settings.vault_connections[0]
        until = world.clock.now() + 30
        world.board.hold(
            pod["metadata"]["uid"], HeldTokens(connection, tokens, until), world.clock.now()
        )
    world.end_pod(pod, exit_code)
    world.clock.advance(fault.get("later", 5))
    world.vault.fault = fault.get("fault")
    await world.run()
    await world.run()
    found = [json.loads(line) for line in world.record.audit]
    lost = [line["data"] for line in found if line["type"].endswith("grant.lost")]
    assert len(lost) <= 1, "once per grant"
    assert "token-" not in json.dumps([*world.record.audit, *world.events.emitted])
    return lost[0] if lost else None


async def test_the_unspent_tokens_of_a_pod_that_gave_up_are_burnt() -> None:
    world = World()
    found = await gave_up(world)
    assert found is not None
    assert (found["spent"], found["burnt"], found["unknown"]) == ([], ["train", "model"], [])
    assert found["podName"] == f"stj-{NAME}-train-1"
    assert found["podUID"] == world.record.grants[0].pod_uid
    assert len(world.vault.burnt) == 2
    assert "burnt unspent: train, model" in warnings_of(world)["GrantLost"]


async def test_a_spent_token_of_a_pod_that_gave_up_is_an_incident() -> None:
    world = World()
    world.vault.spent = {"train"}
    found = await gave_up(world)
    assert found is not None
    assert (found["spent"], found["burnt"], found["unknown"]) == (["train"], ["model"], [])
    told = warnings_of(world)["GrantSpent"]
    assert "treat the key as stolen until the audit log shows the pod's own address" in told


@pytest.mark.parametrize(
    ("held", "fault"),
    [(False, {}), (True, {"fault": VaultUnavailable("away")}), (True, {"later": 30})],
    ids=["the operator restarted", "Vault is away", "they ran out"],
)
async def test_what_became_of_tokens_may_be_unknown(held: bool, fault: dict[str, Any]) -> None:
    world = World()
    world.vault.spent = {"train", "model"}
    found = await gave_up(world, held=held, **fault)
    assert found is not None
    assert found["spent"] == found["burnt"] == []
    assert set(found["unknown"]) == ({"train", "model"} if "later" in fault else {"model"})
    assert "GrantSpent" not in warnings_of(world)
    assert "unknown" in warnings_of(world)["GrantLost"]


@pytest.mark.parametrize("exit_code", [0, 1, 12])
async def test_a_pod_that_ended_otherwise_has_lost_no_grant(exit_code: int) -> None:
    world = World()
    assert await gave_up(world, exit_code=exit_code) is None
    assert world.vault.burnt == []


async def test_grants_are_capped_once_no_pod_is_left_that_has_keys() -> None:
    world = World()
    world.settings = settings(maxGrantsPerPhase=2)
    world.reconciler = world.new_reconciler()
    await world.run()
    first = world.put_pod(Purpose.TRAIN, 1)
    world.grant(Purpose.TRAIN, first)
    world.end_pod(first, 11)
    second = world.put_pod(Purpose.TRAIN, 2)
    world.grant(Purpose.TRAIN, second)
    world.store.freeze()
    world.store.frozen.pop((PODS, NAMESPACE, second["metadata"]["name"]))
    await world.run()
    assert world.record.phase == "Training", "the second pod is at work, though the watch lags"
    world.store.thaw()
    world.end_pod(second, 11)
    await world.run()
    assert world.reason == "GrantsExhausted"
