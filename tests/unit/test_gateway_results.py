"""Results: the operator's own verdict, one signature over what was evaluated, safe repetition."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from securetrain.api.names import Purpose, correlation_id
from securetrain.audit import chain
from securetrain.errors import VaultSealed
from securetrain.signing.bundle import verify_bundle
from securetrain_operator.ports import Object
from support.gateway_world import (
    JOB_UID,
    Client,
    World,
    certify_results,
    file,
    train_results,
)


async def train(world: World, client: Client, suffix: str = "abcde") -> Object:
    """Train with success and launch certification."""
    pod = world.pod(suffix=suffix)
    assert (await client.grant(pod))[0] == 200
    assert (await client.results(pod, train_results()))[0] == 200
    world.launch(Purpose.CERTIFY)
    return pod


async def certifier(world: World, client: Client, suffix: str = "fghij") -> Object:
    """A certify pod that has its keys."""
    pod = world.pod(Purpose.CERTIFY, suffix)
    assert (await client.grant(pod))[0] == 200
    return pod


async def test_from_training_to_a_signature_that_verifies() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        status, answer = await client.results(pod, certify_results())
    assert status == 200
    assert answer["verdict"] == "certified"
    model = verify_bundle(answer["bundle"], world.vault.public_pem)
    assert model.name == "digits-v7"
    assert sorted(model.files) == [
        "audit.jsonl",
        "model.json",
        "report.html",
        "report.json",
        "weights.safetensors.sealed",
    ]
    lines = answer["audit"].splitlines()
    records = chain.verify_chain(lines, world.record.genesis)
    claim = model.certification
    assert claim["audit"] == {"records": len(lines), "head": records[-1].sha256}
    assert claim["job"]["uid"] == JOB_UID
    assert claim["verdict"] == "certified"
    assert claim["metrics"] == [{"name": "accuracy", "value": "0.9752"}]
    assert [gate["rule"] for gate in claim["gates"]] == ["≥ 0.97", "≥ 0.95"]
    assert [r.type.removeprefix(chain.TYPE_PREFIX) for r in records[-3:]] == [
        "results.certify",
        "verdict",
        "sign.requested",
    ]
    assert world.kinds[-1] == "signed"
    ((_, correlation),) = world.vault.signed
    assert correlation == correlation_id(JOB_UID, records[-1].seq, records[-1].sha256)


async def test_the_signed_trail_is_the_file_that_is_signed() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        _, answer = await client.results(pod, certify_results())
    model = verify_bundle(answer["bundle"], world.vault.public_pem)
    assert model.files["audit.jsonl"] == file("audit.jsonl", answer["audit"])["sha256"]


async def test_the_same_results_again_get_the_same_answer() -> None:
    world = World()
    async with world.client() as client:
        trainer = await train(world, client)
        before = world.record_text
        assert (await client.results(trainer, train_results()))[0] == 200
        assert world.record_text == before
        pod = await certifier(world, client)
        first = await client.results(pod, certify_results())
        before = world.record_text
        assert await client.results(pod, certify_results()) == first
        world.change(lambda record: record.with_changes(phase="Succeeded"))
        assert await client.results(pod, certify_results()) == first
    assert len(world.vault.signed) == 1


async def test_other_results_of_the_same_pod_are_refused() -> None:
    world = World()
    async with world.client() as client:
        pod = world.pod()
        await client.grant(pod)
        await client.results(pod, train_results())
        other = train_results() | {"files": [file("model.json", "another")]}
        before = world.record_text
        status, problem = await client.results(pod, other)
        assert (status, problem["reason"]) == (409, "AlreadyReported")
        assert world.record_text == before
        world.launch(Purpose.CERTIFY)
        certify = await certifier(world, client)
        await client.results(certify, certify_results())
        status, problem = await client.results(certify, certify_results("0.99"))
        assert (status, problem["reason"]) == (409, "AlreadyReported")
    assert len(world.vault.signed) == 1


async def test_a_new_train_pod_replaces_the_results_of_one_that_died_after_reporting() -> None:
    world = World()
    other = train_results() | {"files": [file("model.json", "another")]}
    async with world.client() as client:
        first, second = world.pod(), world.pod(suffix="fghij")
        await client.grant(first)
        await client.grant(second)
        await client.results(first, train_results())
        assert (await client.results(second, other))[0] == 200
        (stored,) = world.record.results[Purpose.TRAIN].files
        assert stored.to_wire() == file("model.json", "another")
        world.launch(Purpose.CERTIFY)
        status, _ = await client.results(first, train_results())
        assert status == 409


async def test_a_new_certify_pod_gets_a_signature_over_its_own_report() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        first = await certifier(world, client)
        _, signed = await client.results(first, certify_results())
        second = await certifier(world, client, "klmno")
        assert (await client.results(second, certify_results()))[1] == signed
        again = certify_results()
        again["files"][1] = file("report.html", "rendered again")
        status, answer = await client.results(second, again)
    assert status == 200
    model = verify_bundle(answer["bundle"], world.vault.public_pem)
    assert model.files["report.html"] == again["files"][1]["sha256"]
    chain.verify_chain(answer["audit"].splitlines(), world.record.genesis)


async def test_a_crash_before_the_signature_is_made_up_for() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        world.vault.faults["sign"] = VaultSealed("sealed")
        status, problem = await client.results(pod, certify_results())
        assert (status, problem["reason"]) == (503, "VaultSealed")
        assert world.kinds[-1] == "sign.requested"
        world.vault.faults.clear()
        world.clock.advance(60)
        status, answer = await client.results(pod, certify_results())
    assert status == 200
    verify_bundle(answer["bundle"], world.vault.public_pem)
    assert world.kinds.count("sign.requested") == 1
    assert "signed" not in json.loads(answer["audit"].splitlines()[-1])["type"]


@pytest.mark.parametrize(
    "value", ["0.9699", "NaN", "nan", "Infinity", "inf", "1e999", "-1", "0x1", "٠.٩٩", "1_0"]
)
async def test_a_missed_gate_ends_the_job_without_a_signature(value: str) -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        status, answer = await client.results(pod, certify_results(value))
        if status == 422:  # not even a plain decimal
            assert world.record.verdict is None
            return
        assert (status, answer["verdict"]) == (200, "gatesMissed")
        assert "bundle" not in answer
        assert answer["missed"][0] == f"accuracy {value} is not ≥ 0.97"
        assert await client.results(pod, certify_results(value)) == (status, answer)
    assert world.vault.signed == []
    record = world.record
    assert record.failure is not None
    assert (record.phase, record.failure.reason) == ("Failed", "GatesMissed")
    assert world.kinds[-2:] == ["verdict", "job.failed"]
    chain.verify_chain(answer["audit"].splitlines(), record.genesis)
    assert answer["audit"].splitlines() == list(record.audit[:-1])


async def test_a_metric_that_is_missing_misses_its_gate() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        _, answer = await client.results(pod, certify_results() | {"metrics": []})
    assert answer["verdict"] == "gatesMissed"


async def test_a_model_without_gates_is_evaluated_and_never_certified() -> None:
    spec = {
        "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
        "model": {"architecture": "cnn"},
        "output": {"uri": "pvc://models/digits-v7", "kek": "team-a-models"},
    }
    world = World(spec=spec)
    world.policy["gates"] = []
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        _, answer = await client.results(pod, certify_results())
    assert answer["verdict"] == "evaluated"
    model = verify_bundle(answer["bundle"], world.vault.public_pem)
    assert model.certification["verdict"] == "evaluated"


def swapped(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        file("weights.safetensors.sealed", "other") if "weights" in f["path"] else f for f in files
    ]


def dropped(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [f for f in files if f["path"] != "model.json"]


def policy_swapped(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*files, file("policy.json", "looser")]


@pytest.mark.parametrize("change", [swapped, dropped, policy_swapped])
async def test_a_model_that_is_not_the_trained_one_ends_the_job(change: Any) -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        body = certify_results()
        status, problem = await client.results(pod, body | {"files": change(body["files"])})
    assert (status, problem["reason"]) == (403, "ModelCorrupt")
    assert world.vault.signed == []
    assert world.record.failure is not None
    assert world.record.failure.reason == "ModelCorrupt"


async def test_weights_with_another_plaintext_end_the_job() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        status, problem = await client.results(
            pod, certify_results() | {"plaintextSha256": "e" * 64}
        )
    assert (status, problem["reason"]) == (403, "ModelCorrupt")


async def test_only_a_pod_that_had_keys_can_report() -> None:
    world = World()
    async with world.client() as client:
        pod = world.pod()
        before = world.record_text
        status, problem = await client.results(pod, train_results())
        assert (status, problem["reason"]) == (403, "NotOurPod")
        assert world.record_text == before
        await client.grant(pod)
        status, _ = await client.results(pod, certify_results())
        assert status == 403


@pytest.mark.parametrize(
    "files",
    [
        [],
        [file("key.json")],
        [file("a"), file("a", "other")],
        [file("audit.jsonl")],
        [{"path": "../a", "sha256": "a" * 64, "bytes": 1}],
        [{"path": "a", "sha256": "A" * 64, "bytes": 1}],
        [{"path": "a", "sha256": "a" * 64, "bytes": -1}],
    ],
)
async def test_files_are_named_once_and_plainly(files: list[dict[str, Any]]) -> None:
    world = World()
    async with world.client() as client:
        pod = world.pod()
        await client.grant(pod)
        status, problem = await client.results(pod, train_results() | {"files": files})
    assert (status, problem["reason"]) == (422, "InvalidInput")
    assert world.record.results == {}


@pytest.mark.parametrize("name", ["a\u2028b", "a b", "", "ä"])
async def test_metric_names_cannot_break_the_audit_trail_into_lines(name: str) -> None:
    world = World()
    async with world.client() as client:
        pod = world.pod()
        await client.grant(pod)
        body = train_results() | {"metrics": [{"name": name, "value": "1"}]}
        status, _ = await client.results(pod, body)
    assert status == 422


async def test_of_two_reports_at_once_one_signature_is_kept_and_both_get_it() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        both_ask = asyncio.Barrier(2)
        sign = world.vault.sign

        async def together(*args: Any) -> Any:
            await both_ask.wait()
            return await sign(*args)

        world.vault.sign = together  # type: ignore[method-assign]
        calls = [client.results(pod, certify_results()) for _ in range(2)]
        first, second = await asyncio.gather(*calls)
    assert first == second
    assert first[0] == 200
    assert world.kinds.count("signed") == 1


async def test_a_job_that_failed_while_it_was_being_signed_gets_no_signature() -> None:
    world = World()
    async with world.client() as client:
        await train(world, client)
        pod = await certifier(world, client)
        sign = world.vault.sign

        async def late(*args: Any) -> Any:
            world.change(lambda record: record.failed("DeadlineExceeded", "too late", "2027"))
            return await sign(*args)

        world.vault.sign = late  # type: ignore[method-assign]
        status, answer = await client.results(pod, certify_results())
    assert status == 403
    assert "bundle" not in answer
    assert world.record.verdict is not None
    assert world.record.verdict.bundle is None
    assert world.kinds[-1] == "job.failed"
