"""What is launched, when nothing is, and what is never adopted or overwritten."""

from __future__ import annotations

from typing import Any

import pytest

from securetrain.api.names import JOB_UID_LABEL, SERVICE_ACCOUNT, Purpose
from securetrain.errors import (
    SecuretrainError,
    VaultClockSkew,
    VaultDenied,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
    VaultUnavailable,
)
from securetrain_operator.build.network import default_deny
from securetrain_operator.gateway.isolation import selects
from support.fakes import BATCH_JOBS, JOBS
from support.world import NAME, NAMESPACE, UID, USER_IMAGE, World, settings


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (VaultSealed("Vault is sealed"), "VaultSealed"),
        (VaultUnavailable("Vault does not answer"), "VaultUnavailable"),
        (VaultDenied("no such role"), "VaultRoleMissing"),
        (VaultMisconfigured("no such mount"), "VaultRoleMissing"),
        (VaultClockSkew("the login token has expired"), "VaultClockSkew"),
        (VaultRedirects("307"), "VaultRedirects"),
    ],
)
async def test_nothing_is_launched_while_vault_is_away(
    fault: SecuretrainError, reason: str
) -> None:
    world = World()
    world.vault.fault = fault
    assert await world.run() == world.settings.resync_seconds
    assert world.child(Purpose.TRAIN) is None
    assert (world.status["phase"], world.reason) == ("Pending", reason)
    world.vault.fault = None
    await world.run()
    assert world.launches(Purpose.TRAIN) == 1


async def test_nothing_is_launched_while_a_guard_is_missing() -> None:
    world = World()
    world.cluster.guards_missing = ("securetrain-connect",)
    await world.run()
    assert world.child(Purpose.TRAIN) is None
    assert world.reason == "GuardMissing"
    assert world.vault.checks == 0


async def test_a_missing_claim_is_waited_for() -> None:
    world = World()
    world.cluster.remove("v1/persistentvolumeclaims", NAMESPACE, "datasets")
    await world.run()
    assert world.reason == "ClaimMissing"
    assert "datasets" in world.status["conditions"][0]["message"]


async def test_a_job_in_a_namespace_that_is_not_enabled_leaves_no_trace() -> None:
    world = World()
    world.cluster.objects[("v1/namespaces", None, NAMESPACE)]["metadata"]["labels"] = {}
    await world.run()
    assert world.reason == "NamespaceNotEnabled"
    assert UID not in world.records.stored


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"pod": {"image": USER_IMAGE}}, "ImageNotAllowed"),
        ({"model": {"architecture": "unknown"}}, "SpecInvalid"),
        ({"output": {"uri": "pvc://models", "kek": "k"}}, "SpecInvalid"),
        ({"output": {"uri": "pvc://datasets/digits/in", "kek": "k"}}, "SpecInvalid"),
        ({"pod": {"resources": {"limits": {"memory": 2**60}}}}, "SpecInvalid"),
    ],
)
async def test_what_no_patience_can_mend_fails_at_once(spec: dict[str, Any], reason: str) -> None:
    world = World(**spec)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", reason)
    assert world.condition("Stalled") is not None
    assert world.condition("Accepted")["status"] == "False"
    assert world.child(Purpose.TRAIN) is None
    assert world.record.head_signature is not None


async def test_a_field_that_is_missing_has_no_value_to_show() -> None:
    world = World(output={"uri": "pvc://models/digits-v7"})
    await world.run()
    assert "spec.output.kek: is required and missing" in world.status["conditions"][0]["message"]


async def test_a_claim_outside_the_namespaces_rule_fails() -> None:
    world = World()
    world.settings = settings(namespaces={"*": {"claims": ["datasets"]}})
    world.reconciler = world.new_reconciler()
    await world.run()
    assert world.reason == "ClaimNotAllowed"


async def test_a_job_of_our_name_that_the_record_does_not_know_is_replaced_never_adopted() -> None:
    world = World()
    imitation = {"metadata": {"name": f"stj-{NAME}-train"}, "spec": {"template": {"evil": True}}}
    stray = world.cluster.put(BATCH_JOBS, NAMESPACE, imitation)
    await world.run()
    child = world.child(Purpose.TRAIN)
    assert child["metadata"]["uid"] != stray["metadata"]["uid"]
    assert world.record.children[Purpose.TRAIN].uid == child["metadata"]["uid"]
    assert "evil" not in world.record.children[Purpose.TRAIN].template


async def test_a_job_that_is_stored_with_an_added_container_never_gets_into_the_record() -> None:
    world = World()
    create = world.cluster.create

    async def webhook(kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind == BATCH_JOBS:
            body["spec"]["template"]["spec"] = dict(body["spec"]["template"]["spec"])
        created = await create(kind, namespace, body)
        if kind == BATCH_JOBS:
            created["spec"]["template"]["spec"]["initContainers"] = [{"name": "spy"}]
        return created

    world.cluster.create = webhook  # type: ignore[method-assign]
    await world.run()
    assert world.record.children == {}
    assert (world.status["phase"], world.reason) == ("Pending", "LaunchAltered")


async def test_launching_trusts_the_record_and_fresh_reads_not_the_watch() -> None:
    world = World()
    world.store.freeze()
    await world.run()
    with_child = world.child(Purpose.TRAIN)["metadata"]["uid"]
    await world.run()
    assert world.launches(Purpose.TRAIN) == 1
    assert world.child(Purpose.TRAIN)["metadata"]["uid"] == with_child


async def test_a_service_account_that_exists_is_left_alone_and_pods_mount_no_token_of_it() -> None:
    world = World()
    found = {"metadata": {"name": SERVICE_ACCOUNT}, "automountServiceAccountToken": True}
    before = world.cluster.put("v1/serviceaccounts", NAMESPACE, found)
    await world.run()
    stored = world.cluster.objects[("v1/serviceaccounts", NAMESPACE, SERVICE_ACCOUNT)]
    assert stored == before
    pod = world.child(Purpose.TRAIN)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False


async def test_pods_stay_closed_when_their_job_is_gone_and_its_own_policy_with_it() -> None:
    world = World()
    kind = "networking.k8s.io/v1/networkpolicies"
    opened = {"metadata": default_deny(NAMESPACE)["metadata"], "spec": {"egress": [{}]}}
    opened["metadata"]["ownerReferences"] = [{"uid": UID}]
    world.cluster.put(kind, NAMESPACE, opened)
    await world.run()
    assert len(world.cluster.of_kind(kind)) == 2
    world.cluster.remove(JOBS, NAMESPACE, NAME)
    (left,) = world.cluster.of_kind(kind)
    assert left["spec"] == default_deny(NAMESPACE)["spec"]
    assert selects(left["spec"]["podSelector"], {JOB_UID_LABEL: UID})
