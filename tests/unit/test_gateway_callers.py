"""Who may speak to the gateway; and whoever may not leaves a job as it was, to the byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from securetrain.api.gateway import MAX_BODY_BYTES
from securetrain.api.names import JOB_UID_LABEL, Purpose
from securetrain_operator.ports import Object
from support.fakes import PODS
from support.gateway_pods import NAMESPACE, honest_pod
from support.gateway_world import AUDIENCE, JOB_UID, World

PATHS = ("/v1/grants", "/v1/progress", "/v1/results")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic abc",
        "Bearer",
        "Bearer x",
        "Bearer a.b",
        "Bearer ....",
        f"Bearer {'a' * 8180}.b",
    ],
    ids=lambda header: str(len(header or "")),
)
async def test_no_token_of_the_right_shape_costs_the_api_server_nothing(
    path: str, header: str | None
) -> None:
    world = World()
    world.pod()
    async with world.client() as client:
        headers = {} if header is None else {"Authorization": header}
        async with client.http.post(path, data=b"{}", headers=headers) as response:
            assert response.status == 401
            assert (await response.json(content_type=None))["reason"] == "BadToken"
    assert world.cluster.trip.log == []


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other"]},
        {"aud": [AUDIENCE, "other"]},
        {"aud": AUDIENCE},
        {"aud": []},
        {"iss": ""},
        {"exp": 1},
        {"exp": True},
        {"exp": "2999999999"},
        {"iat": 0},
    ],
)
async def test_a_token_that_says_the_wrong_things_costs_the_api_server_nothing(
    claims: dict[str, Any],
) -> None:
    world = World()
    pod = world.pod()
    before = world.record_text
    async with world.client() as client:
        token = world.token(pod, claims=claims)
        status, problem = await client.post("/v1/grants", token, world.grant_body())
    assert (status, problem["reason"]) == (401, "BadToken")
    assert world.cluster.trip.log == []
    assert world.record_text == before


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"audiences": ["other"]},
        {"audiences": [AUDIENCE, "other"]},
        {"audiences": []},
        {"user": {"username": "alice"}},
        {"user": {}},
    ],
)
async def test_a_token_that_the_api_server_does_not_vouch_for(status: dict[str, Any]) -> None:
    world = World()
    pod = world.pod()
    before = world.record_text
    async with world.client() as client:
        token = world.token(pod, status=status)
        code, problem = await client.post("/v1/grants", token, world.grant_body())
    assert (code, problem["reason"]) == (401, "BadToken")
    assert world.record_text == before


@pytest.mark.parametrize("user", ["default", "securetrain-job2", "x:securetrain-job"])
async def test_a_pod_of_another_service_account(user: str) -> None:
    world = World()
    token = world.token(world.pod())
    world.cluster.tokens[token]["user"]["username"] = f"system:serviceaccount:{NAMESPACE}:{user}"
    async with world.client() as client:
        status, _ = await client.post("/v1/grants", token, world.grant_body())
    assert status == 401


async def test_a_token_that_is_not_bound_to_a_pod() -> None:
    world = World()
    pod = world.pod()
    token = world.token(pod)
    world.cluster.tokens[token]["user"]["extra"] = {}
    async with world.client() as client:
        status, _ = await client.post("/v1/grants", token, world.grant_body())
    assert status == 401


IMITATORS: dict[str, Callable[[Object], Any]] = {
    "other image": lambda pod: pod["spec"]["containers"][0].update(image="evil"),
    "extra container": lambda pod: pod["spec"]["containers"].append({"name": "b", "image": "x"}),
    "changed env": lambda pod: pod["spec"]["containers"][0]["env"][0].update(value="{}"),
    "patched and back": lambda pod: pod["metadata"].update(generation=3),
    "bare pod with our labels": lambda pod: pod["metadata"].pop("ownerReferences"),
    "Job of another name": lambda pod: pod["metadata"]["ownerReferences"][0].update(name="evil"),
    "owner is no Job": lambda pod: pod["metadata"]["ownerReferences"][0].update(kind="ReplicaSet"),
    "no label": lambda pod: pod["metadata"]["labels"].pop(JOB_UID_LABEL),
    "odd label": lambda pod: pod["metadata"]["labels"].update({JOB_UID_LABEL: "../" + JOB_UID}),
    "another node": lambda pod: pod["spec"].update(nodeName="node-2"),
    "another address": lambda pod: pod["status"].update(podIPs=[{"ip": "10.9.9.9"}]),
    "deleted and made again": lambda pod: pod["metadata"].update(uid="another"),
    "terminating": lambda pod: pod["metadata"].update(deletionTimestamp="2027-01-15T08:00:00Z"),
    "ended": lambda pod: pod["status"].update(phase="Failed"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", IMITATORS)
async def test_an_imitator_is_refused_and_the_job_stays_as_it_was(name: str, path: str) -> None:
    world = World()
    pod = world.pod()
    token = world.token(pod)
    world.tamper(pod, IMITATORS[name])
    before, written = world.record_text, world.records.writes
    async with world.client() as client:
        status, problem = await client.post(path, token, world.grant_body())
    assert (status, problem["reason"]) == (403, "NotOurPod")
    assert world.record_text == before
    assert (world.records.writes, world.records.sink) == (written, [])
    assert world.wakeup.woken == []
    assert world.events.emitted == []
    assert world.vault.trip.log == []
    (refusal,) = world.refused
    assert refusal["reason"] == "NotOurPod"
    assert refusal["message"] not in problem["detail"]


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["metadata"]["labels"].update({JOB_UID_LABEL: "44444444"}),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(uid="not-recorded"),
        lambda pod: pod["status"].pop("podIPs"),
        lambda pod: pod["status"].pop("containerStatuses"),
    ],
)
async def test_what_is_not_recorded_or_reported_yet_is_waited_for(
    change: Callable[[Object], Any],
) -> None:
    world = World()
    pod = world.pod()
    world.tamper(pod, change)
    before = world.record_text
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"], problem["retry"]) == (503, "NotReady", "2")
    assert world.record_text == before
    assert world.refused == []


async def test_a_pod_of_a_deleted_name_is_gone() -> None:
    world = World()
    pod = world.pod()
    world.cluster.remove(PODS, NAMESPACE, pod["metadata"]["name"])
    async with world.client() as client:
        status, _ = await client.grant(pod)
    assert status == 403


async def test_a_pod_of_another_namespace_cannot_name_this_job() -> None:
    world = World()
    pod = honest_pod(world.record.children[Purpose.TRAIN], "abcde", "pod-x")
    world.cluster.put(PODS, "team-b", pod)
    user = "system:serviceaccount:team-b:securetrain-job"
    token = world.token(pod)
    world.cluster.tokens[token]["user"]["username"] = user
    async with world.client() as client:
        status, _ = await client.post("/v1/grants", token, world.grant_body())
    assert status == 403
    assert world.record.grants == ()


async def test_a_pod_of_a_job_that_has_ended_gets_nothing() -> None:
    world = World()
    pod = world.pod()
    world.change(lambda record: record.failed("Cancelled", "somebody stopped it", "2027"))
    before = world.record_text
    async with world.client() as client:
        for path in PATHS:
            body = {"sequence": 1, "summary": "x"} if "progress" in path else world.grant_body()
            if "results" in path:
                body = {
                    "purpose": "train",
                    "files": [{"path": "a", "sha256": "a" * 64, "bytes": 1}],
                }
            status, _ = await client.post(path, world.token(pod), body)
            assert status == 403
    assert world.record_text == before


async def test_the_peer_check_can_be_switched_off_where_the_network_hides_addresses() -> None:
    world = World(peer_address_hidden=True)
    pod = world.pod()
    world.tamper(pod, lambda p: p["status"].update(podIPs=[{"ip": "10.9.9.9"}]))
    async with world.client() as client:
        status, _ = await client.grant(pod)
    assert status == 200
    assert world.record.grants[0].pod_ip == "10.9.9.9"


async def test_an_ipv4_pod_seen_through_an_ipv6_socket_is_the_same_pod() -> None:
    world = World()
    pod = world.pod()
    world.tamper(pod, lambda p: p["status"].update(podIPs=[{"ip": "::ffff:127.0.0.1"}]))
    async with world.client() as client:
        status, _ = await client.grant(pod)
    assert status == 200


async def test_one_address_cannot_flood_the_api_server() -> None:
    world = World()
    async with world.client() as client:
        statuses = []
        for _ in range(30):
            async with client.http.post("/v1/grants", data=b"{}") as response:
                statuses.append(response.status)
                last = response.headers.get("Retry-After")
        assert statuses == [401] * 20 + [429] * 10
        assert last == "2"
        world.clock.advance(1)
        async with client.http.post("/v1/grants", data=b"{}") as response:
            assert response.status == 401


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b'{"purpose": "train"}', b'{"hunter2": 1}', b"[" * 10_000],
    ids=lambda body: str(len(body)),
)
async def test_a_body_that_does_not_parse_is_refused_without_an_echo(body: bytes) -> None:
    world = World()
    pod = world.pod()
    before = world.record_text
    async with world.client() as client:
        status, problem = await client.post("/v1/grants", world.token(pod), body)
    assert (status, problem["reason"]) == (422, "InvalidInput")
    assert "hunter2" not in json.dumps(problem)
    assert world.record_text == before


async def test_a_body_is_limited() -> None:
    world = World()
    pod = world.pod()
    async with world.client() as client:
        status, problem = await client.post(
            "/v1/grants", world.token(pod), b" " * (MAX_BODY_BYTES + 1)
        )
    assert status == 413
    assert problem["detail"]


async def test_what_nobody_foresaw_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    pod = world.pod()
    world.vault.faults["check"] = RuntimeError("hunter2 is the key")
    async with world.client() as client:
        status, problem = await client.grant(pod)
    assert (status, problem["reason"]) == (500, "InternalError")
    assert "hunter2" not in json.dumps(problem) + caplog.text
    assert "unexpected RuntimeError at" in caplog.text


async def test_unknown_paths_and_methods_are_problems_too() -> None:
    world = World()
    async with world.client() as client:
        status, problem = await client.post("/v1/secrets", None, {})
        assert (status, problem["reason"]) == (404, "NotFound")
        async with client.http.get("/v1/grants") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_health_needs_no_token() -> None:
    world = World()
    async with world.client() as client, client.http.get("/healthz") as response:
        assert response.status == 200


async def test_progress_grows() -> None:
    world = World()
    pod = world.pod()
    report = {"sequence": 2, "summary": "epoch 1/5", "percentage": 20}
    async with world.client() as client:
        status, _ = await client.post("/v1/progress", world.token(pod), report)
        assert status == 204
        status, problem = await client.post("/v1/progress", world.token(pod), report)
        assert (status, problem["reason"]) == (409, "AlreadyReported")
        report["sequence"] = 3
        status, _ = await client.post("/v1/progress", world.token(pod), report)
        assert status == 204
    latest = world.progress.latest(JOB_UID)
    assert latest is not None
    assert latest[0].sequence == 3
    assert world.wakeup.woken == [JOB_UID, JOB_UID]


async def test_a_forged_signature_part_is_for_the_api_server_to_judge() -> None:
    world = World()
    pod = world.pod()
    head, claims, _ = world.token(pod).split(".")
    forged = ".".join((head, claims, base64.urlsafe_b64encode(b"forged").decode().rstrip("=")))
    async with world.client() as client:
        status, _ = await client.post("/v1/grants", forged, world.grant_body())
    assert status == 401
    assert world.cluster.trip.log == ["token review"]
