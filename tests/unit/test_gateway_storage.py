"""Keys for pods of jobs on object storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from securetrain.storage.connection import StorageConnection
from securetrain_operator.kinds import NETWORK_POLICIES
from support.gateway_pods import NAMESPACE
from support.gateway_world import SPEC, World

STORAGE = StorageConnection(
    name="minio",
    endpoint="https://192.0.2.9:9000",
    credentials_secret="minio-login",
    allowed_namespaces=("*",),
)


def on_storage() -> World:
    """A job whose dataset lies in a bucket."""
    dataset = {"name": "digits", "uri": "s3://data/digits", "storageRef": {"name": "minio"}}
    return World(spec=SPEC | {"datasets": [dataset]}, storage_connections=(STORAGE,))


async def test_the_pod_that_was_launched_gets_its_keys() -> None:
    world = on_storage()
    pod = world.pod()
    async with world.client() as client:
        assert (await client.grant(pod))[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume["sources"][0]["secret"].update(name="another"),
        lambda volume: volume["sources"].append({"secret": {"name": "another"}}),
        lambda volume: volume.update(defaultMode=0o444),
    ],
)
async def test_a_pod_with_another_login_gets_none(change: Callable[[dict[str, Any]], None]) -> None:
    world = on_storage()
    pod = world.pod()
    world.tamper(pod, lambda live: change(live["spec"]["volumes"][-1]["projected"]))
    async with world.client() as client:
        assert (await client.grant(pod))[0] == 403
    assert world.vault.trip.log == []


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "https://192.0.2.66:9000"},
        {"region": "elsewhere"},
        {"ca": "another CA"},
        {"allowed_namespaces": ("team-b",)},
        {"name": "renamed"},
    ],
    ids=str,
)
async def test_storage_that_is_not_what_the_pod_was_told_is_waited_for(
    change: dict[str, Any],
) -> None:
    world = on_storage()
    pod = world.pod()
    other = STORAGE.model_copy(update=change)
    world.settings = world.settings.model_copy(update={"storage_connections": (other,)})
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (503, "StorageMisconfigured")
    assert world.vault.trip.log == []


async def test_another_way_out_than_to_its_own_storage_is_waited_for() -> None:
    world = on_storage()
    pod = world.pod()
    policy = world.cluster.objects[(NETWORK_POLICIES, NAMESPACE, "stj-digits-v7")]
    to = [to for rule in policy["spec"]["egress"] for to in rule["to"]]
    blocks = [way["ipBlock"] for way in to if "ipBlock" in way]
    assert {"cidr": "192.0.2.9/32"} in blocks
    blocks[-1]["cidr"] = "0.0.0.0/0"
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (503, "NotReady")
