"""The cluster without one of its admission guards, to see what stands behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from localcluster.imitation import AUDIENCE
from localcluster.platform import Platform
from securetrain.api.names import SERVICE_ACCOUNT
from support import node
from support.api import Object, eventually
from support.node import RunningPod
from support.outcomes import NAMESPACE

KIND = "validatingadmissionpolicybinding"
SERVERS_OWN = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


def _label(_platform: Platform, pod: RunningPod) -> tuple[list[str], Object]:
    return ["label", "pod", pod.name, "probe=x", "--dry-run=server", "-n", NAMESPACE], {}


def _make(platform: Platform, pod: RunningPod) -> tuple[list[str], Object]:
    spec = node.get(platform, "pod", NAMESPACE, pod.name)["spec"]
    metadata = {"name": "stj-probe", "namespace": NAMESPACE}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return ["create", "--dry-run=server", "-f", "-"], body


def _mint(_platform: Platform, _pod: RunningPod) -> tuple[list[str], Object]:
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{SERVICE_ACCOUNT}/token?dryRun=All"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 600},
    }
    return ["create", "--raw", path, "-f", "-"], body


PROBES: Mapping[str, Callable[[Platform, RunningPod], tuple[list[str], Object]]] = {
    "securetrain-pod-frozen": _label,
    "securetrain-pod-create": _make,
    "securetrain-token": _mint,
}
"""What each guard refuses even to the cluster's administrator, tried without doing it."""


@contextmanager
def without_guard(platform: Platform, name: str, pod: RunningPod) -> Iterator[None]:
    """Take one admission guard's binding away for a while; `pod` is any that it guards.

    The API server notices both a moment later: so the guard is probed until it has.
    """
    kubectl = platform.cluster.kubectl
    command, body = PROBES[name](platform, pod)

    def bites() -> bool:
        return f"'{name}'" in kubectl.run(*command, stdin=json.dumps(body)).stderr

    binding = json.loads(kubectl("get", KIND, name, "-o", "json"))
    eventually(bites, f"{name} refuses its probe")
    kubectl("delete", KIND, name)
    try:
        eventually(lambda: not bites(), f"{name} is gone")
        yield
    finally:
        for field in SERVERS_OWN:
            binding["metadata"].pop(field, None)
        kubectl.apply(binding)
        eventually(bites, f"{name} is back")
