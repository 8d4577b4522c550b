"""A bare REST client of a real API server, as any user: what a thief would use, not kubectl."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Object = dict[str, Any]

BUSY = 429
BUSY_SECONDS = 60.0
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
RESOURCES = {
    "ConfigMap": "configmaps",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Job": "jobs",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Node": "nodes",
    "Pod": "pods",
    "RuntimeClass": "runtimeclasses",
    "RoleBinding": "rolebindings",
    "SecureTrainingJob": "securetrainingjobs",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Deployment": "deployments",
    "Role": "roles",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and JSON body of an answer."""

    status: int
    body: Object

    @property
    def ok(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """What the API server says about a refusal."""
        return str(self.body.get("message", ""))

    def expect(self, *statuses: int) -> Object:
        """The body, if the status is one of those (by default any 2xx); fails otherwise."""
        assert self.status in statuses if statuses else self.ok, f"{self.status}: {self.message}"
        return self.body


class Watch:
    """The events of a watch, until the server ends it or another thread does."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Object]:
        rest = b""
        try:
            for part in self._response.stream(1 << 16):
                *lines, rest = (rest + part).split(b"\n")
                yield from map(json.loads, filter(None, lines))
        except urllib3.exceptions.HTTPError:
            return
        finally:
            self._response.close()

    def end(self) -> None:
        """Have whoever reads it come to its end."""
        with suppress(ValueError, RuntimeError, OSError):  # it has ended by itself
            self._response.shutdown()


class Api:
    """One user at one API server.

    Args:
        kubeconfig: of an administrator; `as_user` impersonates others by it, with RBAC evaluated.
    """

    def __init__(self, kubeconfig: Path, user: str = "", groups: Sequence[str] = ()) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, login = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._kubeconfig = kubeconfig
        self._server = cluster["server"]
        self._headers = urllib3.HTTPHeaderDict({"Accept": "application/json"})
        if user:
            self._headers.add("Impersonate-User", user)
        for group in groups:
            self._headers.add("Impersonate-Group", group)
        self._pool = _pool(cluster["certificate-authority-data"], login)

    def as_user(self, user: str, *groups: str) -> Api:
        """The same server as seen by another user."""
        return Api(self._kubeconfig, user, groups)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; `body` is sent as JSON. A server that is too busy for it is asked again."""
        headers = self._headers.copy()
        headers["Content-Type"] = content_type
        url = self._server + path + ("?" + urlencode(query) if query else "")
        data = None if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            response = self._pool.request(method, url, body=data, headers=headers, retries=False)
            if response.status != BUSY or time.monotonic() > deadline:
                return Answer(response.status, _json(response.data))
            time.sleep(0.2)

    def watch(self, path: str, query: Mapping[str, str]) -> Watch:
        """A watch that has begun."""
        url = f"{self._server}{path}?{urlencode({**query, 'watch': 'true'})}"
        return Watch(
            self._pool.request(
                "GET", url, headers=self._headers, retries=False, preload_content=False
            )
        )

    def get(self, path: str) -> Answer:
        """Read an object or a list."""
        return self.call("GET", path)

    def create(self, body: Object, *, dry_run: bool = False) -> Answer:
        """Create an object at the path of its kind; a dry run ends after admission."""
        return self.call("POST", collection(body), body, query=_dry(dry_run))

    def patch(self, path: str, body: Object, *, dry_run: bool = False) -> Answer:
        """Change an object by a merge patch."""
        return self.call("PATCH", path, body, content_type=MERGE_PATCH, query=_dry(dry_run))

    def apply(self, body: Object) -> Answer:
        """Create or change an object by server-side apply."""
        path = f"{collection(body)}/{body['metadata']['name']}"
        query = {"fieldManager": "tests", "force": "true"}
        return self.call("PATCH", path, body, content_type=APPLY_PATCH, query=query)

    def delete(self, path: str, **options: Any) -> Answer:
        """Delete an object or a collection; options such as propagationPolicy="Orphan"."""
        return self.call("DELETE", path, options or None)


def _pool(authority: str, login: Mapping[str, str]) -> urllib3.PoolManager:
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in ("client-certificate-data", "client-key-data"):
            files[name] = os.path.join(folder, name)
            Path(files[name]).write_bytes(base64.b64decode(login[name]))
        context = urllib3.util.create_urllib3_context()
        context.load_verify_locations(cadata=base64.b64decode(authority).decode())
        context.load_cert_chain(files["client-certificate-data"], files["client-key-data"])
    return urllib3.PoolManager(ssl_context=context, timeout=20, maxsize=16)


def _json(data: bytes) -> Object:
    try:
        parsed = json.loads(data)
    except ValueError:
        return {"message": data.decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {"message": str(parsed)}


def _dry(dry_run: bool) -> dict[str, str] | None:
    return {"dryRun": "All"} if dry_run else None


def collection(body: Mapping[str, Any]) -> str:
    """Path of the collection that an object belongs to."""
    version = body["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = body["metadata"].get("namespace")
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{RESOURCES[body['kind']]}"


def eventually(check: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Wait until `check` holds; fails naming `what`."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
