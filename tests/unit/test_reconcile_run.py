"""A job from apply to its end, through the whole reconciler, over fakes of the ports."""

from __future__ import annotations

import json

import pytest

from securetrain.api.gateway import ProgressReport
from securetrain.api.names import Purpose
from securetrain.audit.chain import verify_chain
from securetrain.errors import VaultSealed
from securetrain.signing import dsse
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.record import ModelKey
from support.fakes import PODS
from support.world import NAME, NAMESPACE, UID, World, kinds_of, waiting


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


async def test_a_model_kek_is_proved_before_it_wraps_and_never_after() -> None:
    """What is trained must not wait for a right that nothing needs any more."""
    world = World()
    await world.train()
    before = len(world.vault.proved)
    assert world.vault.proved == ["team-a-models"] * before
    world = World()
    await world.run()
    world.grant(Purpose.TRAIN, world.put_pod(Purpose.TRAIN))
    key = ModelKey(mount="transit", kek="team-a-models", wrapped="vault:v1:" + "A" * 80)
    world.records.set(world.record.with_changes(model_key=key))
    world.results(Purpose.TRAIN)
    world.end_job(Purpose.TRAIN)
    await world.run()
    assert world.child(Purpose.CERTIFY) is not None
    assert world.vault.proved == ["team-a-models", None]


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
