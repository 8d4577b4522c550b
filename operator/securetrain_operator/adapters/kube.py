"""The port `Cluster` as plain JSON over the Kubernetes client's own transport and login.

Objects stay plain dicts: what the gateway attests must be what the server answered, not what a
generated class kept of it. Every failure becomes one of our errors, which name the request and the
HTTP status but never a body: bodies hold tokens and whole objects.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from securetrain.errors import BadConfiguration, SecuretrainError
from securetrain_operator.adapters import guards
from securetrain_operator.errors import (
    AlreadyExists,
    ApiDenied,
    ApiRejected,
    ApiUnavailable,
    Conflict,
)
from securetrain_operator.kinds import TRAINING_JOBS
from securetrain_operator.ports import Object

TOKEN_REVIEWS: Final = "authentication.k8s.io/v1/tokenreviews"  # noqa: S105 a kind, not a token
REQUEST_TIMEOUT: Final = 20.0
GUARDS_FRESH_SECONDS: Final = 2.0
PAGE: Final = 500
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"


class KubeCluster:
    """ports.Cluster on the asyncio client of the `kubernetes` package."""

    def __init__(self, api: ApiClient, *, seconds: float = REQUEST_TIMEOUT) -> None:
        self._api = api
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._guards: tuple[float, Sequence[str]] = (0.0, ())
        self._guards_lock = asyncio.Lock()

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, *, seconds: float = REQUEST_TIMEOUT
    ) -> Self:
        """A client that logs in by a kubeconfig, or, without one, by the pod's service account.

        Raises BadConfiguration if neither works. Nothing is sent yet.
        """
        configuration = Configuration()
        # The environment's proxies are for other hosts; a slow server must not be asked twice
        # behind our back.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.retries = None
        configuration.trace_configs = [_no_redirects()]
        try:
            if kubeconfig:
                await load_kube_config(str(kubeconfig), client_configuration=configuration)
            else:
                load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise BadConfiguration(
                f"no login to the API server ({type(error).__name__})",
                fix="run in a pod with a service account, or set KUBECONFIG to a readable file",
            ) from None
        return cls(ApiClient(configuration), seconds=seconds)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def read(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """An object, or None if it does not exist."""
        status, answer = await self._call("GET", _path(kind, namespace, name))
        return answer if status == 200 else None

    async def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Object]:
        """Objects of one kind."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        items, _ = await self.snapshot(kind, namespace, selector)
        return items

    async def snapshot(
        self, kind: str, namespace: str | None, selector: str = ""
    ) -> tuple[Sequence[Object], int]:
        """Objects of one kind by label selector, and the resource version of that state."""
        path, items, version, token = _path(kind, namespace), [], 0, ""
        while True:
            query = {"labelSelector": selector, "limit": str(PAGE), "continue": token}
            status, page = await self._call("GET", path, query=query)
            if status == 404:
                raise ApiUnavailable(
                    f"the API server does not serve {kind}",
                    fix="install the chart's CustomResourceDefinition",
                )
            items += [_typed(item, page) for item in page.get("items") or ()]
            version = version or int(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue") or ""
            if not token:
                return items, version

    async def create(self, kind: str, namespace: str, body: Object) -> Object:
        """Create an object and return it as stored; raises AlreadyExists on 409."""
        return await self._write("POST", _path(kind, namespace), body, AlreadyExists)

    async def replace(self, kind: str, namespace: str, body: Object) -> Object:
        """Replace an object at its resourceVersion; raises Conflict on 409, and if it is gone."""
        path = _path(kind, namespace, body["metadata"]["name"])
        return await self._write("PUT", path, body, Conflict)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Delete an object with its dependents (background); absence or another UID is no error."""
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._call("DELETE", _path(kind, namespace, name), body=options, allowed=(404, 409))

    async def merge(self, kind: str, namespace: str, name: str, patch: Object) -> Object | None:
        """Apply a JSON merge patch; None if the object does not exist."""
        status, answer = await self._call(
            "PATCH", _path(kind, namespace, name), body=patch, content_type=MERGE_PATCH
        )
        return answer if status < 300 else None

    async def write_status(self, job: Object, status: Mapping[str, Any]) -> None:
        """Replace a job's status by merge at its resourceVersion; raises Conflict if it changed."""
        change = merge_patch(job.get("status") or {}, status)
        if not change:
            return
        metadata = job["metadata"]
        path = _path(TRAINING_JOBS, metadata["namespace"], metadata["name"]) + "/status"
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": change}
        await self._write("PATCH", path, patch, Conflict, content_type=MERGE_PATCH)

    async def review_token(self, token: str, audience: str) -> Object:
        """`status` of a TokenReview for exactly one audience."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._write("POST", _path(TOKEN_REVIEWS, None), review, Conflict)
        return cast(Object, answer.get("status") or {})

    async def missing_guards(self) -> Sequence[str]:
        """Names of admission guards that are not in place and enforcing, up to 2 s old."""
        async with self._guards_lock:
            until, names = self._guards
            if time.monotonic() >= until:
                policies = await self.list(guards.POLICIES, None)
                names = guards.missing(policies, await self.list(guards.BINDINGS, None))
                self._guards = (time.monotonic() + GUARDS_FRESH_SECONDS, names)
            return names

    async def _write(
        self,
        method: str,
        path: str,
        body: Object,
        on_conflict: type[SecuretrainError],
        content_type: str = JSON,
    ) -> Object:
        status, answer = await self._call(
            method, path, body=body, content_type=content_type, allowed=(404, 409)
        )
        if status == 409:
            raise on_conflict(f"the API server answered 409 to {method} {path}")
        if status == 404 and method == "POST":
            raise ApiUnavailable(f"the API server answered 404 to {method} {path}")
        if status == 404:
            raise Conflict(f"the API server answered 404 to {method} {path}")
        return answer

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        allowed: Sequence[int] = (404,),
    ) -> tuple[int, Object]:
        headers = {"Accept": JSON, "Content-Type": content_type}
        parameters = [(key, value) for key, value in (query or {}).items() if value]
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=parameters,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=self._timeout)
            content = await response.read()
        except (aiohttp.ClientError, ConfigException, OSError, TimeoutError) as error:
            raise ApiUnavailable(
                f"the API server did not answer {method} {path} ({type(error).__name__})"
            ) from None
        if response.status < 300:
            return response.status, _parsed(method, path, content)
        if response.status in allowed:
            return response.status, {}
        raise _failure(method, path, response.status, content)


def _no_redirects() -> aiohttp.TraceConfig:
    """Ends a call that is redirected: a TokenReview's body would follow to the other host."""

    async def refuse(*_: object) -> None:
        raise aiohttp.ClientError("redirected")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


def kubeconfig() -> Path | None:
    """The file that KUBECONFIG names; None means the pod's service account."""
    named = os.environ.get("KUBECONFIG")
    return Path(named) if named else None


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7396) that turns `old` into `new`; empty if they are the same."""
    patch: Object = {key: None for key in old if new.get(key) is None}
    for key, value in new.items():
        before = old.get(key)
        # Compared as JSON: in Python 0 is False, in JSON it is not.
        if value is None or _json(value) == _json(before):
            continue
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        patch[key] = merge_patch(before or {}, value) if nested else value
    return patch


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    group_version, _, plural = kind.rpartition("/")
    root = "/apis" if "/" in group_version else "/api"
    parts = [root, group_version]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts += [plural, *([quote(name, safe="")] if name else [])]
    return "/".join(parts)


def _typed(item: Object, page: Object) -> Object:
    """Items of a built-in kind's list carry neither apiVersion nor kind; watches and reads do."""
    item.setdefault("apiVersion", page["apiVersion"])
    item.setdefault("kind", str(page["kind"]).removesuffix("List"))
    return item


def _parsed(method: str, path: str, content: bytes) -> Object:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ApiUnavailable(
            f"the answer of the API server to {method} {path} is not a JSON object"
        )
    return answer


def _failure(method: str, path: str, status: int, content: bytes) -> SecuretrainError:
    said = f"the API server answered {status} to {method} {path}"
    if status == 403:
        return ApiDenied(said, fix="compare the operator's RBAC and the guards with the chart")
    if status in (401, 408, 409, 410, 429) or status >= 500:
        return ApiUnavailable(said)
    fix = "correct the fields in a job of a new name; a cluster's own policy may refuse them too"
    return ApiRejected(said + _fields(content), fix=fix)


def _fields(content: bytes) -> str:
    """Names, not values, of the fields that the API server complains of."""
    try:
        causes = json.loads(content)["details"]["causes"]
        names = sorted({str(cause["field"])[:120] for cause in causes})[:3]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" (fields {', '.join(names)})"
