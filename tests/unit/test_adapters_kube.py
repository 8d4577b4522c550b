"""How the API server's answers become our results and errors, against a scripted HTTP server."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from kubernetes.aio.client import ApiClient, Configuration

from securetrain.errors import BadConfiguration, SecuretrainError
from securetrain_operator.adapters import guards, kube
from securetrain_operator.adapters.kube import KubeCluster, merge_patch
from securetrain_operator.errors import (
    AlreadyExists,
    ApiDenied,
    ApiRejected,
    ApiUnavailable,
    Conflict,
)
from securetrain_operator.kinds import TRAINING_JOBS

SECRET = "hvs.must-not-appear-anywhere"
Answer = tuple[int, Any]


@dataclass
class Script:
    """An API server that answers what a test says and remembers what it was asked."""

    answer: Callable[[web.Request], Answer] = lambda _: (200, {})
    seen: list[tuple[str, str, Any, str]] = field(default_factory=list)
    pause: float = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.seen.append((request.method, request.path_qs, body, request.content_type))
        await asyncio.sleep(self.pause)
        status, answer = self.answer(request)
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def cluster(script: Script) -> AsyncIterator[KubeCluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    made = KubeCluster(ApiClient(configuration), seconds=60.0)
    yield made
    await made.close()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        ("v1/pods", "team-a", "/api/v1/namespaces/team-a/pods/x"),
        ("batch/v1/jobs", "team-a", "/apis/batch/v1/namespaces/team-a/jobs/x"),
        (TRAINING_JOBS, "t", "/apis/securetrain.dev/v1alpha1/namespaces/t/securetrainingjobs/x"),
        ("v1/namespaces", None, "/api/v1/namespaces/x"),
        (guards.POLICIES, None, f"/apis/{guards.POLICIES}/x"),
    ],
)
async def test_paths(
    cluster: KubeCluster, script: Script, kind: str, namespace: str | None, path: str
) -> None:
    await cluster.read(kind, namespace, "x")
    assert script.seen[0][:2] == ("GET", path)


async def test_names_cannot_leave_their_place_in_the_path(
    cluster: KubeCluster, script: Script
) -> None:
    await cluster.read("v1/pods", "team-a", "x/../../secrets")
    assert script.seen[0][1] == "/api/v1/namespaces/team-a/pods/x%2F..%2F..%2Fsecrets"


async def test_an_absent_object_is_none_and_its_deletion_no_error(
    cluster: KubeCluster, script: Script
) -> None:
    script.answer = lambda _: (404, {"kind": "Status"})
    assert await cluster.read("v1/pods", "a", "b") is None
    await cluster.delete("v1/pods", "a", "b")
    assert await cluster.merge("v1/events", "a", "b", {}) is None


async def test_delete_names_the_uid_and_takes_dependents_along(
    cluster: KubeCluster, script: Script
) -> None:
    script.answer = lambda _: (409, {"kind": "Status"})
    await cluster.delete("batch/v1/jobs", "a", "b", uid="u-1")
    body = script.seen[0][2]
    assert body["preconditions"] == {"uid": "u-1"}
    assert body["propagationPolicy"] == "Background"


Call = Callable[[KubeCluster], Any]
OBJECT = {"metadata": {"name": "n", "namespace": "a", "resourceVersion": "7"}, "x": SECRET}
READ: Call = lambda c: c.read("v1/pods", "a", "b")  # noqa: E731
LIST: Call = lambda c: c.list("v1/pods", "a")  # noqa: E731
CREATE: Call = lambda c: c.create("v1/pods", "a", OBJECT)  # noqa: E731
REPLACE: Call = lambda c: c.replace("v1/pods", "a", OBJECT)  # noqa: E731
STATUS: Call = lambda c: c.write_status(OBJECT, {"phase": SECRET})  # noqa: E731
REVIEW: Call = lambda c: c.review_token(SECRET, "aud")  # noqa: E731


@pytest.mark.parametrize(
    ("call", "status", "expected"),
    [
        (CREATE, 409, AlreadyExists),
        (CREATE, 404, ApiUnavailable),
        (REPLACE, 409, Conflict),
        (REPLACE, 404, Conflict),
        (STATUS, 409, Conflict),
        (LIST, 404, ApiUnavailable),
        *[(call, 403, ApiDenied) for call in (READ, LIST, CREATE, REPLACE, STATUS, REVIEW)],
        *[(READ, status, ApiUnavailable) for status in (401, 408, 410, 429, 500, 503, 504)],
        *[(REVIEW, status, ApiUnavailable) for status in (401, 429, 500)],
        *[(CREATE, status, ApiRejected) for status in (400, 413, 415, 422)],
    ],
)
async def test_statuses_become_errors_that_quote_nothing(
    cluster: KubeCluster, script: Script, call: Call, status: int, expected: type[SecuretrainError]
) -> None:
    script.answer = lambda _: (status, {"kind": "Status", "message": SECRET})
    with pytest.raises(expected) as caught:
        await call(cluster)
    assert caught.value.retryable is (expected in (ApiUnavailable, Conflict, AlreadyExists))
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.replace("SECRET", "")
    assert caught.value.__cause__ is None


async def test_a_rejection_names_the_fields(cluster: KubeCluster, script: Script) -> None:
    causes = [{"field": "spec.template.spec", "message": SECRET}]
    script.answer = lambda _: (422, {"details": {"causes": causes}})
    with pytest.raises(ApiRejected, match=r"fields spec\.template\.spec") as caught:
        await CREATE(cluster)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("answer", ["not json", "[]", ""])
async def test_an_answer_that_is_no_object_is_no_answer(
    cluster: KubeCluster, script: Script, answer: str
) -> None:
    script.answer = lambda _: (200, answer)
    with pytest.raises(ApiUnavailable):
        await READ(cluster)


async def test_a_slow_server_is_not_waited_for(cluster: KubeCluster, script: Script) -> None:
    hasty = KubeCluster(cluster._api, seconds=2.0)
    script.pause = 4.0
    with pytest.raises(ApiUnavailable, match="TimeoutError"):
        await READ(hasty)
    assert len(script.seen) == 1


async def test_nobody_listening_is_unavailable() -> None:
    cluster = KubeCluster(ApiClient(Configuration(host="http://127.0.0.1:1")), seconds=1.0)
    with pytest.raises(ApiUnavailable):
        await CREATE(cluster)
    await cluster.close()


async def test_lists_are_paged_and_typed(cluster: KubeCluster, script: Script) -> None:
    def answer(request: web.Request) -> Answer:
        second = request.query.get("continue") == "next"
        metadata = {"resourceVersion": "41"} | ({} if second else {"continue": "next"})
        item = {"metadata": {"name": "p2" if second else "p1"}}
        return 200, {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": metadata,
            "items": [item],
        }

    script.answer = answer
    items, version = await cluster.snapshot("v1/pods", None, "a=b")
    assert [item["metadata"]["name"] for item in items] == ["p1", "p2"]
    assert {(item["kind"], item["apiVersion"]) for item in items} == {("Pod", "v1")}
    assert version == 41
    assert all("labelSelector=a%3Db" in path for _, path, _, _ in script.seen)


async def test_a_status_is_patched_at_its_version_and_only_where_it_differs(
    cluster: KubeCluster, script: Script
) -> None:
    before: dict[str, Any] = {"phase": "Pending", "progress": {"summary": "x", "metrics": []}}
    job = {
        "metadata": {"name": "j", "namespace": "a", "resourceVersion": "7"},
        "status": before,
    }
    await cluster.write_status(job, {"phase": "Training", "progress": {"summary": "x"}})
    method, path, body, content_type = script.seen[0]
    assert (method, content_type) == ("PATCH", "application/merge-patch+json")
    assert path.endswith("/securetrainingjobs/j/status")
    assert body == {
        "metadata": {"resourceVersion": "7"},
        "status": {"phase": "Training", "progress": {"metrics": None}},
    }
    await cluster.write_status(job, before)
    assert len(script.seen) == 1


async def test_a_token_is_sent_in_the_body_only(cluster: KubeCluster, script: Script) -> None:
    script.answer = lambda _: (201, {"status": {"authenticated": True}})
    assert await cluster.review_token(SECRET, "aud") == {"authenticated": True}
    method, path, body, _ = script.seen[0]
    assert (method, path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
    assert body["spec"] == {"token": SECRET, "audiences": ["aud"]}


async def test_guards_are_asked_for_anew_after_two_seconds(
    cluster: KubeCluster, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kube.GUARDS_FRESH_SECONDS == 2.0
    monkeypatch.setattr(kube, "GUARDS_FRESH_SECONDS", 600.0)
    empty = {"kind": "L", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}
    script.answer = lambda _: (200, empty)
    for _ in range(3):
        assert list(await cluster.missing_guards()) == list(guards.GUARDS)
    assert len(script.seen) == 2
    monkeypatch.setattr(kube, "GUARDS_FRESH_SECONDS", 0.0)
    cluster._guards = (0.0, ())
    for _ in range(2):
        await cluster.missing_guards()
    assert len(script.seen) == 6


async def test_unreadable_guards_are_an_error_not_an_all_clear(
    cluster: KubeCluster, script: Script
) -> None:
    script.answer = lambda _: (403, {})
    with pytest.raises(ApiDenied):
        await cluster.missing_guards()


async def test_no_login_is_a_configuration_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for kubeconfig in (None, tmp_path / "absent"):
        with pytest.raises(BadConfiguration, match="no login"):
            await KubeCluster.connect(kubeconfig)


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


def apply(target: Any, patch: Any) -> Any:
    """RFC 7396, as written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


@example({"a": 0}, {"a": False})
@example({"a": {"b": [True]}}, {"a": {"b": [1]}})
@given(objects, objects)
def test_the_merge_patch_turns_old_into_new(old: Any, new: Any) -> None:
    patch = merge_patch(old, new)
    assert json.dumps(apply(old, patch), sort_keys=True) == json.dumps(new, sort_keys=True)
    assert merge_patch(new, new) == {}
