"""Grants: what is refused, in which order things are written, and how many there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from securetrain.api.names import Purpose, correlation_id
from securetrain.audit import chain
from securetrain_operator.build.network import DEFAULT_DENY
from support.fakes import JOBS
from support.gateway_pods import NAMESPACE
from support.gateway_world import (
    DATASET_SHA256,
    JOB_UID,
    NETWORK_POLICIES,
    WRAPPED,
    World,
    train_results,
    trained,
)


async def test_an_honest_train_pod_gets_its_keys() -> None:
    world = World()
    pod = world.pod()
    async with world.client() as client:
        status, answer = await client.grant(pod)
    assert status == 200
    assert [key["name"] for key in answer["keys"]] == ["train", "validation", "model"]
    assert answer["wrappedModelKey"] == "vault:v1:" + "A" * 80
    assert world.kinds[-2:] == ["grant.recorded", "grant.issued"]
    (grant,) = world.record.grants
    assert grant.accessors == ("accessor-1-train", "accessor-1-validation", "accessor-1-model")
    assert world.wakeup.woken == [JOB_UID]
    assert [reason for reason, _, _ in world.events.emitted] == ["KeysGranted"]
    assert "token" not in json.dumps([*world.record.audit, *world.refused])


async def test_a_certify_pod_gets_the_test_split_and_the_same_model_key() -> None:
    world = World()
    async with world.client() as client:
        await client.grant(world.pod())
        trained(world)
        status, answer = await client.grant(world.pod(Purpose.CERTIFY, "fghij"))
    assert status == 200
    assert [key["name"] for key in answer["keys"]] == ["test", "model"]
    assert world.vault.trip.log.count("vault model key") == 1
    first, second = world.vault.wrapped
    assert first.model_key == second.model_key
    assert first.model_context == second.model_context


async def test_the_grant_is_recorded_and_anchored_before_vault_is_asked() -> None:
    world = World()
    pod = world.pod()
    async with world.client() as client:
        await client.grant(pod)
    (request,) = world.vault.wrapped
    line = world.record.audit[-2]
    recorded = chain.parse_line(line)
    assert recorded.type.endswith("grant.recorded")
    assert request.correlation == correlation_id(JOB_UID, recorded.seq, chain.line_sha256(line))
    data = recorded.data
    assert data["keys"] == [
        {"name": "train", "kek": "team-a-digits", "version": 3},
        {"name": "validation", "kek": "team-a-digits", "version": 3},
        {"name": "model", "kek": "team-a-models", "version": 1},
    ]
    assert (data["podUID"], data["podIP"], data["node"]) == ("pod-abcde", "127.0.0.1", "node-1")
    assert data["credentialID"].startswith("JTI=")
    assert data["image"].endswith("a" * 64)
    assert data["imageID"].endswith("b" * 64)
    assert data["datasetSha256"] == DATASET_SHA256
    ads = [ad.decode() for ad in request.associated_data.values()]
    assert ads == [
        f"securetrain/dek/v1|{split}|{DATASET_SHA256}|{data['policySha256']}"
        for split in ("train", "validation")
    ]


async def test_a_second_grant_for_the_same_pod() -> None:
    world = World()
    pod = world.pod()
    async with world.client() as client:
        await client.grant(pod)
        before = world.record_text
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (409, "AlreadyGranted")
    assert world.record_text == before
    assert len(world.vault.wrapped) == 1


async def test_of_two_grants_at_once_exactly_one_is_issued() -> None:
    world = World()
    pod = world.pod()
    gate = asyncio.Event()
    check = world.vault.check

    async def held(*args: Any) -> None:
        await gate.wait()
        await check(*args)

    world.vault.check = held  # type: ignore[method-assign]
    async with world.client() as client:
        both = [asyncio.create_task(client.grant(pod)) for _ in range(2)]
        await asyncio.sleep(0.1)
        gate.set()
        statuses = sorted([(await task)[0] for task in both])
    assert statuses == [200, 409]
    assert len(world.record.grants) == len(world.vault.wrapped) == 1


async def test_keys_are_exactly_those_of_the_purpose() -> None:
    world = World()
    pod = world.pod()
    keys = world.grant_body()["keys"]
    async with world.client() as client:
        for wrong in ({}, {"train": keys["train"]}, keys | {"test": keys["train"]}):
            status, problem = await client.grant(pod, keys=wrong)
            assert (status, problem["reason"]) == (422, "InvalidInput")
        body = world.grant_body(Purpose.CERTIFY)
        status, _ = await client.post("/v1/grants", world.token(pod), body)
        assert status == 403
    assert world.vault.wrapped == []
    assert world.record.failure is None


@pytest.mark.parametrize(
    "wrapped",
    ["vault:v0:" + "A" * 80, "vault:v1:" + "A" * 79, "vault:v1:../" + "A" * 77, WRAPPED + "\n"],
)
async def test_a_malformed_wrapped_key_is_never_sent(wrapped: str) -> None:
    world = World()
    pod = world.pod()
    keys = world.grant_body()["keys"]
    keys["train"]["wrapped"] = wrapped
    async with world.client() as client:
        status, problem = await client.grant(pod, keys=keys)
    assert status == 422
    assert "AAAA" not in json.dumps(problem)
    assert world.vault.trip.log == []


@pytest.mark.parametrize("name", ["stj-digits-v7", DEFAULT_DENY])
async def test_our_own_network_policies_must_be_as_they_were_made(name: str) -> None:
    world = World()
    pod = world.pod()
    ours = world.cluster.objects[(NETWORK_POLICIES, NAMESPACE, name)]
    ours["spec"].setdefault("egress", []).append({})
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "NotReady")
        world.cluster.remove(NETWORK_POLICIES, NAMESPACE, name)
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "NotReady")
    assert world.record.failure is None
    assert world.vault.wrapped == []


async def test_keys_of_another_mount_are_refused() -> None:
    world = World()
    pod = world.pod()
    keys = world.grant_body()["keys"]
    keys["validation"]["mount"] = "other"
    async with world.client() as client:
        status, problem = await client.grant(pod, keys=keys)
    assert (status, problem["reason"]) == (422, "ManifestInvalid")
    assert world.vault.trip.log == []


@pytest.mark.parametrize(
    "dataset",
    [
        {"name": "digits"},
        {"name": "d", "id": "x" * 99},
        {"name": "d", "id": JOB_UID, "records": -1},
    ],
)
async def test_a_dataset_id_or_count_that_is_none(dataset: dict[str, Any]) -> None:
    world = World()
    pod = world.pod()
    async with world.client() as client:
        status, problem = await client.grant(pod, dataset=dataset)
    assert (status, problem["reason"]) == (422, "ManifestInvalid")


async def test_missing_guards_are_waited_for_unless_settings_say_otherwise() -> None:
    for required, expected in ((True, 503), (False, 200)):
        world = World(require_guards=required)
        world.cluster.guards_missing = ("securetrain-token",)
        pod = world.pod()
        async with world.client() as client:
            status, answer = await client.grant(pod)
        assert status == expected
        if required:
            assert answer["reason"] == "GuardMissing"
            assert (world.record.grants, world.record.failure) == ((), None)


@pytest.mark.parametrize("require_guards", [True, False])
async def test_a_namespace_that_lost_its_label_gets_no_keys(require_guards: bool) -> None:
    world = World(require_guards=require_guards)
    pod = world.pod()
    namespace = world.cluster.objects[("v1/namespaces", None, NAMESPACE)]
    labels = namespace["metadata"].pop("labels")
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "GuardMissing")
        assert f"kubectl label namespace {NAMESPACE}" in problem["detail"]
        assert (world.record.grants, world.record.failure) == ((), None)
        namespace["metadata"]["labels"] = labels
        assert (await client.grant(pod))[0] == 200


async def test_grants_are_capped_per_phase() -> None:
    world = World(max_grants_per_phase=2)
    async with world.client() as client:
        for suffix in ("aaaaa", "bbbbb"):
            assert (await client.grant(world.pod(suffix=suffix)))[0] == 200
        status, problem = await client.grant(world.pod(suffix="ccccc"))
    assert (status, problem["reason"]) == (403, "GrantsExhausted")
    assert world.record.failure is not None
    assert len(world.record.grants) == 2


async def test_each_attempt_has_its_own_grants() -> None:
    world = World(max_grants_per_phase=1)
    async with world.client() as client:
        assert (await client.grant(world.pod(suffix="aaaaa")))[0] == 200
        world.change(lambda record: record.with_changes(attempt=2))
        assert (await client.grant(world.pod(suffix="bbbbb")))[0] == 200
        assert [grant.attempt for grant in world.record.grants] == [1, 2]
        assert (await client.grant(world.pod(suffix="ccccc")))[0] == 403


async def test_used_up_grants_do_not_fail_a_job_whose_results_are_stored() -> None:
    world = World(max_grants_per_phase=1)
    async with world.client() as client:
        pod = world.pod(suffix="aaaaa")
        await client.grant(pod)
        assert (await client.results(pod, train_results()))[0] == 200
        status, problem = await client.grant(world.pod(suffix="bbbbb"))
    assert (status, problem["reason"]) == (403, "GrantsExhausted")
    assert (world.record.phase, world.record.failure) == ("Training", None)


@pytest.mark.parametrize("room", [0, 1])
async def test_a_grant_that_there_is_no_room_to_record_ends_the_job(room: int) -> None:
    world = World()
    pod = world.pod()
    world.records.full_at = len(world.record.audit) + room
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "RecordFull")
    record = world.record
    assert record.failure is not None
    assert (record.phase, record.failure.reason) == ("Failed", "RecordFull")
    assert len(world.vault.burnt) == 3 * room, "what was issued is burnt"


async def test_there_must_be_something_to_certify() -> None:
    world = World()
    world.launch(Purpose.CERTIFY)
    async with world.client() as client:
        status, _ = await client.grant(world.pod(Purpose.CERTIFY))
    assert status == 403
    assert world.record.failure is None


async def test_the_job_itself_must_still_be_there_and_be_the_same() -> None:
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda job: job["metadata"].update(deletionTimestamp="2027-01-15T08:00:00Z"),
        lambda job: job["metadata"].update(uid="another"),
        lambda job: job["spec"]["output"].update(kek="other"),
    ]
    for change in changes:
        world = World()
        pod = world.pod()
        change(world.cluster.objects[(JOBS, NAMESPACE, "digits-v7")])
        async with world.client() as client:
            assert (await client.grant(pod))[0] == 403
        assert world.vault.trip.log == []


async def test_a_connection_that_the_namespace_may_not_use_any_more_is_waited_for() -> None:
    world = World()
    pod = world.pod()
    (connection,) = world.settings.vault_connections
    moved = connection.model_copy(update={"address": "https://10.0.0.66:8200"})
    closed = connection.model_copy(update={"allowed_namespaces": ("team-b",)})
    for other in (moved, closed):
        world.settings = world.settings.model_copy(update={"vault_connections": (other,)})
        async with world.client() as client:
            status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "VaultMisconfigured")
    assert world.vault.trip.log == []
