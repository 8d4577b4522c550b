"""A job from apply to its end, through the whole reconciler, over fakes of the ports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from securetrain.api.gateway import KeyGrant, ProgressReport
from securetrain.api.names import JOB_UID_LABEL, SERVICE_ACCOUNT, Purpose
from securetrain.audit.chain import verify_chain
from securetrain.errors import (
    AuditBroken,
    SecuretrainError,
    VaultDenied,
    VaultSealed,
    VaultUnavailable,
)
from securetrain.signing import dsse
from securetrain_operator.build.network import default_deny
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.gateway.isolation import selects
from securetrain_operator.ports import HeldTokens, WrappedToken
from support.fakes import BATCH_JOBS, JOBS, PODS
from support.world import (
    NAME,
    NAMESPACE,
    TIME,
    UID,
    USER_IMAGE,
    World,
    job_object,
    settings,
    waiting,
)


def kinds_of(world: World) -> list[str]:
    return [
        json.loads(line)["type"].removeprefix("dev.securetrain.") for line in world.record.audit
    ]


async def test_a_job_trains_certifies_and_succeeds() -> None:
    world = World()
    await world.run()
    assert world.status["phase"] == "Pending"
    assert world.record.children[Purpose.TRAIN].uid == world.child(Purpose.TRAIN)["metadata"]["uid"]

    pod = world.put_pod(Purpose.TRAIN)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Training", "WaitingForKeys")
    world.grant(Purpose.TRAIN, pod)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Training", "Training")

    world.results(Purpose.TRAIN)
    world.end_job(Purpose.TRAIN)
    await world.run()
    assert world.status["phase"] == "Certifying"
    await world.certify()

    assert (world.status["phase"], world.reason) == ("Succeeded", "Certified")
    assert {c["type"] for c in world.status["conditions"] if c["status"] == "True"} == {
        "Ready",
        "Complete",
        "Accepted",
        "KeysGranted",
        "Trained",
        "Certified",
        "Signed",
    }
    assert world.status["model"]["digest"].startswith("sha256:")
    assert world.status["observedGeneration"] == 1
    assert kinds_of(world) == [
        "job.accepted",
        "train.launching",
        "train.launched",
        "train.finished",
        "certify.launching",
        "certify.launched",
        "job.finished",
    ]


async def test_the_audit_chain_holds_is_mirrored_and_its_final_head_is_signed() -> None:
    world = World()
    await world.train()
    await world.certify()
    record = world.record
    verify_chain(record.audit, record.genesis)
    assert record.head_signature is not None
    envelope = dsse.parse_envelope(json.loads(record.head_signature))
    statement = json.loads(envelope.payload)
    assert statement["subject"][0]["digest"]["sha256"] == record.head
    ((_, correlation),) = world.vault.signed
    assert correlation == f"stj/{UID}/{len(record.audit)}/{record.head}"
    mirror = world.cluster.objects[("v1/configmaps", NAMESPACE, f"{NAME}-audit")]
    assert mirror["data"]["audit.jsonl"].splitlines() == list(record.audit)
    assert mirror["data"]["head.dsse.json"] == record.head_signature


async def test_a_run_with_nothing_changed_writes_nothing() -> None:
    world = World()
    await world.run()
    await world.run()
    before = (world.cluster.status_writes, world.records.writes, len(world.cluster.created))
    await world.run()
    assert before == (
        world.cluster.status_writes,
        world.records.writes,
        len(world.cluster.created),
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (VaultSealed("Vault is sealed"), "VaultSealed"),
        (VaultUnavailable("Vault does not answer"), "VaultUnavailable"),
        (VaultDenied("no such role"), "VaultRoleMissing"),
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


async def test_train_that_completes_without_results_has_failed() -> None:
    world = World()
    await world.run()
    world.end_job(Purpose.TRAIN)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "ResultsMissing")


async def test_the_reason_of_a_failed_pod_is_the_reason_of_the_job() -> None:
    world = World()
    await world.run()
    pod = world.put_pod(Purpose.TRAIN)
    said = json.dumps({"reason": "ShardCorrupt", "message": "shard 3 was changed"})
    world.end_pod(pod, 12, said)
    world.end_job(Purpose.TRAIN, "Failed", "PodFailurePolicy")
    await world.run()
    assert world.reason == "ShardCorrupt"
    assert "shard 3" in world.status["conditions"][0]["message"]
    assert world.child(Purpose.CERTIFY) is None


async def test_a_job_whose_record_is_full_ends_and_its_end_is_still_recorded_and_signed() -> None:
    world = World()
    await world.run()
    world.grant(Purpose.TRAIN, world.put_pod(Purpose.TRAIN))
    world.results(Purpose.TRAIN)
    world.end_job(Purpose.TRAIN)
    world.records.full_at = len(world.record.audit)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "RecordFull")
    assert kinds_of(world)[-2:] == ["job.failed", "job.finished"]
    assert world.record.head_signature is not None
    assert world.child(Purpose.CERTIFY) is None


async def test_a_pod_that_only_bears_our_labels_cannot_harm_the_job() -> None:
    world = World()
    await world.run()
    liar = world.put_pod(Purpose.TRAIN, number=9)
    stored = world.cluster.objects[(PODS, NAMESPACE, liar["metadata"]["name"])]
    stored["metadata"]["ownerReferences"] = []
    world.end_pod(liar, 12, json.dumps({"reason": "ShardCorrupt", "message": "a lie"}))
    await world.run()
    assert world.status["phase"] == "Pending"
    world.end_job(Purpose.TRAIN, "Failed", "BackoffLimitExceeded")
    await world.run()
    assert world.reason == "BackoffLimitExceeded"


async def test_missed_gates_fail_the_job() -> None:
    world = World()
    await world.train()
    await world.certify("gatesMissed", exit_code=14)
    assert (world.status["phase"], world.reason) == ("Failed", "GatesMissed")
    assert world.condition("Signed")["status"] == "False"
    assert world.condition("Complete") is None


async def test_a_job_without_gates_is_evaluated_never_certified() -> None:
    world = World(certification={"gates": []})
    await world.train()
    await world.certify("evaluated")
    assert (world.status["phase"], world.reason) == ("Succeeded", "Evaluated")
    assert world.condition("Certified")["status"] == "False"


async def test_certify_without_a_signature_is_no_success() -> None:
    world = World()
    await world.train()
    world.results(Purpose.CERTIFY, signed=False)
    world.end_job(Purpose.CERTIFY)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Failed", "SignatureMissing")


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


async def test_an_image_that_cannot_be_pulled_is_named_and_waited_for() -> None:
    world = World()
    await world.run()
    status = waiting("ImagePullBackOff", "no such image\nreally")
    world.put_pod(Purpose.TRAIN, phase="Pending", containerStatuses=[status])
    await world.run()
    assert (world.status["phase"], world.reason) == ("Pending", "ImagePullFailed")
    assert "no such image really" in world.status["conditions"][0]["message"]


async def test_why_the_gateway_puts_a_running_pod_off_is_what_the_job_waits_for() -> None:
    world = World()
    await world.run()
    pod = world.put_pod(Purpose.TRAIN)
    world.board.wait(UID, "an earlier pod", Diagnosis("GuardMissing", "missing", "install them"))
    await world.run()
    assert (world.status["phase"], world.reason) == ("Training", "WaitingForKeys")
    sealed = Diagnosis("VaultSealed", "Vault is sealed", "unseal it")
    world.board.wait(UID, pod["metadata"]["uid"], sealed)
    await world.run()
    assert (world.status["phase"], world.reason) == ("Training", "VaultSealed")
    assert world.status["conditions"][0]["message"] == "Vault is sealed. Fix: unseal it"
    world.grant(Purpose.TRAIN, pod)
    await world.run()
    assert world.reason == "Training"


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


def warnings_of(world: World) -> dict[str, str]:
    return {reason: said for reason, said, warning in world.events.emitted if warning}


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


async def test_progress_is_shown_at_most_every_fifteen_seconds() -> None:
    world = World()
    await world.run()
    world.grant(Purpose.TRAIN, world.put_pod(Purpose.TRAIN))
    await world.run()
    writes = world.cluster.status_writes

    def report(number: int) -> None:
        said = ProgressReport(sequence=number, summary=f"epoch {number}\n", percentage=number)
        world.progress.put(UID, "pod", said, world.clock.rfc3339())

    report(1)
    await world.run()
    assert world.status["progress"]["summary"] == "epoch 1"
    world.clock.advance(5)
    report(2)
    assert await world.run() == pytest.approx(10)
    assert world.cluster.status_writes == writes + 1
    world.clock.advance(10)
    await world.run()
    assert world.status["progress"]["summary"] == "epoch 2"


async def test_events_tell_of_changes_once() -> None:
    world = World()
    world.vault.fault = VaultSealed("Vault is sealed")
    await world.run()
    await world.run()
    assert [(reason, warning) for reason, _, warning in world.events.emitted] == [
        ("VaultSealed", True)
    ]
    world.vault.fault = None
    await world.train()
    await world.certify()
    assert world.events.emitted[-1][0] == "Certified"
    assert world.events.emitted[-1][2] is False


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
