"""What keeps a pod from speaking for another run, another controller or another image."""

from __future__ import annotations

import copy

import pytest

from securetrain.api.names import RUN_SPEC_ENV, Purpose
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.errors import BadToken
from securetrain_operator.gateway.caller import bearer_token
from support.gateway_world import SPEC, World


async def refused(world: World, what: str) -> None:
    """The job's pod is refused, for that reason, and its job stays as it was."""
    pod = world.cluster.of_kind("v1/pods")[0]
    before = world.record_text
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "NotOurPod")
    assert what in world.refused[-1]["message"]
    assert world.record_text == before


async def test_a_record_whose_template_is_of_another_run_admits_nobody() -> None:
    world = World()

    def other_run(record: LaunchRecord) -> LaunchRecord:
        child = record.children[Purpose.TRAIN]
        template = copy.deepcopy(child.template)
        (run,) = (
            entry
            for entry in template["spec"]["containers"][0]["env"]
            if entry["name"] == RUN_SPEC_ENV
        )
        run["value"] = run["value"].replace(record.job.uid, "44444444-4444-4444-8444-444444444444")
        changed = child.model_copy(update={"template": template})
        return record.with_changes(children={Purpose.TRAIN: changed})

    world.change(other_run)
    world.pod()
    await refused(world, "of another run")


async def test_a_pod_with_two_controllers_is_refused() -> None:
    world = World()
    pod = world.pod()
    second = {**pod["metadata"]["ownerReferences"][0], "name": "other", "uid": "other"}
    world.tamper(pod, lambda live: live["metadata"]["ownerReferences"].append(second))
    await refused(world, "no Job of ours controls it")


async def test_an_image_of_the_jobs_own_is_not_the_built_in_one() -> None:
    image = "registry.example/mine@sha256:" + "c" * 64
    world = World(spec={**SPEC, "pod": {"image": image}})
    pod = world.pod()
    assert pod["spec"]["containers"][0]["image"] == image
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "PolicyDenied")
    assert "images" in problem["detail"]


def test_a_token_longer_than_any_real_one_is_refused_unread() -> None:
    with pytest.raises(BadToken):
        bearer_token("Bearer " + "a" * 8192 + ".b.c")
    assert bearer_token("Bearer a.b.c") == "a.b.c"


async def test_a_number_that_python_takes_for_the_same_is_not_the_same() -> None:
    world = World()
    pod = world.pod()
    context = {"allowPrivilegeEscalation": 0}
    world.tamper(pod, lambda live: live["spec"]["containers"][0]["securityContext"].update(context))
    await refused(world, "allowPrivilegeEscalation: differs")
