"""What is left of a grant, and whom it is told, if something breaks on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from securetrain.audit import chain
from securetrain.errors import (
    GatewayUnavailable,
    SecuretrainError,
    VaultClockSkew,
    VaultDenied,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
    VaultUnavailable,
    WrongKey,
)
from securetrain_operator.app import runner_of
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.errors import ApiUnavailable
from securetrain_operator.gateway import problems
from support.gateway_world import JOB_UID, World


def last(world: World) -> dict[str, Any]:
    """Data of the newest audit record."""
    return dict(chain.parse_line(world.record.audit[-1]).data)


WAITS: list[tuple[str, SecuretrainError]] = [
    ("check", VaultSealed("sealed")),
    ("check", VaultUnavailable("away")),
    ("check", VaultDenied("no role")),
    ("check", VaultMisconfigured("no mount")),
    ("model key", VaultUnavailable("away")),
    ("model key", VaultMisconfigured("the key is not derived")),
]


@pytest.mark.parametrize(("call", "fault"), WAITS)
async def test_while_vault_is_not_there_nothing_is_recorded(
    call: str, fault: SecuretrainError
) -> None:
    world = World()
    pod = world.pod()
    before = world.record_text
    world.vault.faults[call] = fault
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, fault.reason)
        assert problem["retry"] is not None
        assert world.record_text == before
        world.vault.faults.clear()
        assert (await client.grant(pod))[0] == 200


async def test_what_an_attested_pod_waits_for_is_shown_until_it_has_its_keys() -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["check"] = VaultSealed("Vault is sealed", fix="unseal it")
    async with world.client() as client:
        for _ in range(2):
            await client.grant(pod)
        told = world.board.waiting(JOB_UID)
        assert told == ("pod-abcde", Diagnosis("VaultSealed", "Vault is sealed", "unseal it"))
        assert world.wakeup.woken == [JOB_UID], "the same again wakes nobody"
        stranger = world.pod(suffix="zzzzz")
        world.tamper(stranger, lambda p: p["metadata"].update(generation=2))
        world.vault.faults["check"] = VaultUnavailable("away")
        await client.grant(stranger)
        assert world.board.waiting(JOB_UID) == told
        world.vault.faults.clear()
        assert (await client.grant(pod))[0] == 200
    assert world.board.waiting(JOB_UID) is None


@pytest.mark.parametrize(
    "fault",
    [
        VaultSealed("sealed"),
        VaultUnavailable("refused", in_doubt=False),
        VaultDenied("403"),
        VaultClockSkew("the login token is of the future"),
        VaultRedirects("307"),
    ],
)
async def test_a_grant_that_surely_failed_is_withdrawn_and_can_be_asked_for_again(
    fault: SecuretrainError,
) -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["wrap keys"] = fault
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, fault.reason)
        assert problem["retry"] is not None
        assert world.record.grants == ()
        assert world.kinds[-2:] == ["grant.recorded", "grant.withdrawn"]
        assert last(world)["reason"] == fault.reason
        assert world.record.model_key is not None
        world.vault.faults.clear()
        assert (await client.grant(pod))[0] == 200
    assert world.vault.trip.log.count("vault model key") == 1


async def test_a_vault_that_goes_on_refusing_is_asked_ever_less_often() -> None:
    world = World()
    pod = world.pod()
    fault = VaultDenied("no such KEK for you")
    world.vault.faults["wrap keys"] = fault
    said = []
    async with world.client() as client:
        for _ten_seconds in range(360):
            said.append((await client.grant(pod))[0])
            world.clock.advance(10)
        assert set(said) == {503, 429}
        assert world.kinds.count("grant.withdrawn") == said.count(503) < 15
        waiting = world.board.waiting(JOB_UID)
        assert waiting is not None
        assert waiting[1].reason == fault.reason
        world.vault.faults.clear()
        world.clock.advance(600)
        assert (await client.grant(pod))[0] == 200


async def test_a_grant_in_doubt_stays_and_only_a_new_pod_can_ask_again() -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["wrap keys"] = VaultUnavailable("slow", in_doubt=True)
    async with world.client() as client:
        status, problem = await client.grant(pod)
        assert (status, problem["reason"]) == (503, "GrantLost")
        assert len(world.record.grants) == 1
        assert world.kinds[-1] == "grant.recorded"
        world.vault.faults.clear()
        assert (await client.grant(pod))[0] == 409
        assert (await client.grant(world.pod(suffix="fghij")))[0] == 200


async def test_a_vault_that_never_answers_leaves_the_grant_in_doubt() -> None:
    world = World()
    pod = world.pod()

    async def forever(*args: Any) -> Any:
        await asyncio.sleep(60)

    world.vault.wrap_keys = forever  # type: ignore[method-assign]
    async with world.client(request_seconds=2.0) as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (503, "GrantLost")
    assert len(world.record.grants) == 1


async def test_a_crash_between_record_and_wrap_leaves_the_grant() -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["wrap keys"] = RuntimeError("the process dies")
    async with world.client() as client:
        status, _ = await client.grant(pod)
        assert status == 500
        assert len(world.record.grants) == 1
        world.vault.faults.clear()
        assert (await client.grant(pod))[0] == 409
    assert world.kinds[-1] == "grant.recorded"


async def test_a_wrong_key_ends_the_job_in_plain_words() -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["wrap keys"] = WrongKey("dataset.json is not the one that was sealed")
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (403, "WrongKey")
    record = world.record
    assert record.failure is not None
    assert "dataset.json is not the one that was sealed" in record.failure.message
    assert record.grants == ()
    assert world.kinds[-3:] == ["grant.recorded", "grant.withdrawn", "job.failed"]


async def test_issued_tokens_are_kept_in_memory_for_their_time_to_live_and_nowhere_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    world = World(wrap_ttl_seconds=40)
    first, second = world.pod(suffix="aaaaa"), world.pod(suffix="bbbbb")
    async with world.client() as client:
        await client.grant(first)
        issued_at = world.clock.now()
        held = world.board.take("pod-aaaaa")
        assert held is not None
        assert [token.grant.name for token in held.tokens] == ["train", "validation", "model"]
        assert held.until == issued_at + 40
        assert "wrapping-token" not in repr(held) + caplog.text + world.record_text
        world.board.hold("pod-aaaaa", held, issued_at)
        world.clock.advance(40)
        await client.grant(second)
    assert world.board.take("pod-aaaaa") is None
    assert world.board.take("pod-bbbbb") is not None
    assert world.board.take("pod-bbbbb") is None


async def test_tokens_that_cannot_be_recorded_are_burnt() -> None:
    world = World()
    pod = world.pod()
    update = world.records.update

    async def broken(uid: str, change: Callable[[LaunchRecord], LaunchRecord]) -> LaunchRecord:
        if world.vault.wrapped:
            raise ApiUnavailable("the API server is away")
        return await update(uid, change)

    world.records.update = broken  # type: ignore[method-assign]
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (503, "GrantLost")
    assert [token.grant.name for token in world.vault.burnt] == ["train", "validation", "model"]
    assert world.record.grants[0].accessors == ()
    assert world.board.take("pod-abcde") is None, "they must not be taken for stolen"


async def test_tokens_of_a_job_that_ended_meanwhile_are_burnt() -> None:
    world = World()
    pod = world.pod()
    wrap = world.vault.wrap_keys

    async def ends(*args: Any) -> Any:
        world.change(lambda record: record.failed("DeadlineExceeded", "too late", "2027"))
        return await wrap(*args)

    world.vault.wrap_keys = ends  # type: ignore[method-assign]
    async with world.client() as client:
        status, answer = await client.grant(pod)
    assert status == 403
    assert "keys" not in answer
    assert len(world.vault.burnt) == 3
    assert world.kinds[-1] == "job.failed"


async def test_a_caller_that_goes_away_in_the_middle_of_its_body_is_no_bug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    pod = world.pod()
    told: asyncio.Queue[str] = asyncio.Queue()
    problem = problems.problem

    def noted(status: int, reason: str, detail: str) -> web.Response:
        told.put_nowait(reason)
        return problem(status, reason, detail)

    monkeypatch.setattr(problems, "problem", noted)
    head = (
        "POST /v1/grants HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n"
        "Expect: 100-continue\r\n"
        f"Authorization: Bearer {world.token(pod)}\r\n\r\n{{"
    )
    runner = runner_of(world.application())  # a test server cancels such calls, the operator's not
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*runner.addresses[0])
            writer.write(head.encode())
            assert b"100 Continue" in await reader.readline()
            writer.transport.abort()
            assert await told.get() == "GatewayUnavailable"
    finally:
        await runner.cleanup()
    assert "unexpected" not in caplog.text
    assert world.board.waiting(JOB_UID) is None


async def test_a_connection_of_the_gateways_own_that_breaks_is_not_taken_for_the_callers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    pod = world.pod()

    async def breaks(*_: Any) -> Any:
        raise ConnectionResetError

    world.cluster.review_token = breaks  # type: ignore[method-assign]
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (500, "InternalError")
    assert "unexpected ConnectionResetError" in caplog.text


def test_unavailable_gateways_are_told_to_wait() -> None:
    from securetrain_operator.gateway.problems import status_of

    assert status_of(GatewayUnavailable("slow")) == 503
