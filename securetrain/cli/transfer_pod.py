"""A pod that mounts a claim for as long as a transfer takes, and the pipe to the receiver in it."""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from kubernetes import client
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError
from websocket import ABNF, WebSocketException

from securetrain.api.names import MANAGED_BY, MANAGED_BY_LABEL
from securetrain.cli import kube, operator_settings
from securetrain.errors import (
    BadConfiguration,
    ClusterDenied,
    ClusterUnavailable,
    InvalidInput,
    SecuretrainError,
    UsageError,
)
from securetrain.storage.receive import MOUNT
from securetrain.storage.uri import StorageUri

NAME: Final = "securetrain-transfer"
LABELS: Final = {MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/name": NAME}
PYTHON: Final = "/opt/venv/bin/python"
USER: Final = 10001
READY_SECONDS: Final = 180.0
ANSWER_SECONDS: Final = 300.0
"""Longest wait for bytes: a digest of a large file on a slow volume takes a while."""
_STDIN, _STDOUT, _STDERR, _STATUS = range(4)
_HOPELESS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
)


class ExecPipe:
    """Standard input and output of a process in a pod, over the exec websocket.

    Frames are read from the socket as they are wanted, so that a fast server fills no memory.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._waiting = bytearray()
        self._said = bytearray()

    def write(self, data: bytes) -> None:
        """Send all of `data`; raises ClusterUnavailable."""
        with _connected():
            self._socket.send(bytes([_STDIN]) + data, opcode=ABNF.OPCODE_BINARY)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer if the process has ended; raises ClusterUnavailable."""
        while len(self._waiting) < size and self._receive():
            pass
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    def _receive(self) -> bool:
        """Take one frame; False once the process has ended."""
        with _connected():
            opcode, frame = self._socket.recv_data_frame(True)
        if opcode == ABNF.OPCODE_CLOSE:
            return False
        if opcode not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
            return True
        channel, data = frame.data[0], frame.data[1:]
        if channel == _STDOUT:
            self._waiting += data
        elif channel == _STDERR:
            self._said = (self._said + data)[-2000:]
        elif channel == _STATUS:
            self._check(data)
            return False
        return True

    def _check(self, status: bytes) -> None:
        """Raise BadConfiguration if the process could not be run, or ended with an error."""
        with suppress(ValueError, TypeError, AttributeError):
            if json.loads(status).get("status") == "Success":
                return
        lines = self._said.decode(errors="replace").strip().splitlines()
        raise BadConfiguration(
            f"the receiver in the pod failed: {lines[-1][:300] if lines else 'it said nothing'}",
            fix="give --image a trainer image of this version of securetrain",
        )


@contextmanager
def receiver(
    api: client.ApiClient, namespace: str, uri: StorageUri, image: str | None
) -> Iterator[ExecPipe]:
    """A receiver for a folder of a claim, in a pod that is gone afterwards, whatever happens.

    Raises:
        UsageError: no image is known.
        BadConfiguration: there is no such claim, or the pod does not start.
        ClusterDenied, ClusterUnavailable: the API server would not or could not.
    """
    claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{uri.place}"
    if kube.get(api, claim) is None:
        raise InvalidInput(
            "claim",
            uri.place,
            f"does not exist in namespace {namespace}",
            fix="check -n and the URI",
        )
    name = f"{NAME}-{secrets.token_hex(4)}"
    core = client.CoreV1Api(api)
    body = pod(name, uri.place, image or trainer_image(api))
    with _ended_by_signals():
        with _translated(f"pod {namespace}/{name}"):
            core.create_namespaced_pod(namespace, body, _request_timeout=kube.TIMEOUT)
        try:
            _wait_ready(api, namespace, name)
            with _exec(core, namespace, name, uri.path) as pipe:
                yield pipe
        finally:
            with suppress(client.ApiException, HTTPError, OSError):
                core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)


def pod(name: str, claim: str, image: str) -> dict[str, Any]:
    """A pod as the restricted Pod Security Standard wants it; no token, no network needed."""
    container = {
        "name": "receiver",
        "image": image,
        "command": [PYTHON, "-m", "securetrain.storage.receive", "--hold"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "128Mi"},
        },
        "volumeMounts": [
            {"name": "claim", "mountPath": str(MOUNT)},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 the pod's own, in memory
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }
    metadata = {"name": name, "labels": dict(LABELS)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def trainer_image(api: client.ApiClient) -> str:
    """The trainer image of the operator's settings; raises UsageError if they cannot be seen."""
    with suppress(SecuretrainError, KeyError):
        return str(operator_settings.settings(api)["trainerImage"])
    raise UsageError(
        "--image is needed: you may not see the operator's settings, which name one.",
        fix="ask your platform admin for the trainer image, and give --image IMAGE@sha256:…",
    )


def _wait_ready(api: client.ApiClient, namespace: str, name: str) -> None:
    deadline, why = time.monotonic() + READY_SECONDS, "it is not scheduled"
    while time.monotonic() < deadline:
        found = kube.require(api, f"/api/v1/namespaces/{namespace}/pods/{name}")
        status = found.get("status") or {}
        if _is_ready(status):
            return
        waiting = _waiting(status)
        why = waiting or _condition(status) or why
        if waiting.partition(":")[0] in _HOPELESS or status.get("phase") in ("Failed", "Succeeded"):
            break
        time.sleep(0.3)
    raise BadConfiguration(
        f"pod {namespace}/{name}, which should take the files, does not start: {why[:300]}",
        fix="correct what it names (--image, the claim, the namespace's quota), then try again",
    )


def _is_ready(status: dict[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _waiting(status: dict[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        reason = state.get("waiting") or state.get("terminated") or {}
        if reason.get("reason") not in (None, "ContainerCreating"):
            return f"{reason['reason']}: {reason.get('message', '')}"
    return ""


def _condition(status: dict[str, Any]) -> str:
    said = (entry.get("message") for entry in status.get("conditions") or ())
    return next((text for text in said if text), "")


@contextmanager
def _exec(core: client.CoreV1Api, namespace: str, name: str, folder: str) -> Iterator[ExecPipe]:
    with _translated(f"exec into pod {namespace}/{name}"), _connected():
        opened = stream(
            core.connect_get_namespaced_pod_exec,
            name,
            namespace,
            command=[PYTHON, "-m", "securetrain.storage.receive", folder],
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
            _request_timeout=ANSWER_SECONDS,
        )
    try:
        opened.sock.settimeout(ANSWER_SECONDS)
        yield ExecPipe(opened.sock)
    finally:
        with suppress(WebSocketException, OSError):
            opened.close(timeout=1)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that the pod is deleted."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _connected() -> Iterator[None]:
    """Turn a broken connection into an error of ours."""
    try:
        yield
    except (WebSocketException, OSError):
        raise ClusterUnavailable(
            "the connection to the receiver's pod is broken", fix="do the same again: it goes on"
        ) from None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors into ours; they never quote a request."""
    try:
        yield
    except HTTPError:
        raise ClusterUnavailable("the API server cannot be reached") from None
    except client.ApiException as error:
        said = _message(error)
        if error.status in (401, 403) or "status 403" in said:  # of a websocket: only in words
            raise ClusterDenied(
                f"{what}: the API server refused it: {said}",
                fix="ask your platform admin for the rights to create, get and delete pods, and to"
                " create pods/exec",
            ) from None
        if error.status in (400, 404, 409, 422):
            raise BadConfiguration(f"{what}: the API server refused it: {said}") from None
        raise ClusterUnavailable(f"{what}: the API server answered {error.status}") from None


def _message(error: client.ApiException) -> str:
    """The API server's own words."""
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(error.reason)[:200]
