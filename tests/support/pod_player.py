"""Plays scheduler, kubelet and the containers of job pods on a control plane that has no node.

The Job controller makes real pods. Here they are bound to a node that is only a Node object, get a
token as kubelet mints it, and run the trainer's own phases against the real gateway and Vault.
Only what needs TensorFlow is played: a model of eight numbers, and an accuracy that a test chooses.
So a job is trained, certified, signed and stored within seconds, and a test can end a pod anywhere.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import urllib3

from securetrain.api import names
from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose
from securetrain.errors import ExitCode, SecuretrainError
from support.api import Answer, Api, Object, Watch
from support.played_phases import play
from support.played_pod import TOLD_TO_END, Hook, PlayedPod, PodEnds, Vanished

IP: Final = "127.0.0.1"
OURS: Final = {"labelSelector": names.JOB_UID_LABEL}
RETRY_SECONDS: Final = 0.05
INSIST_SECONDS: Final = 60.0
NOT_YET: Final = frozenset({403, 409, 500, 503, 504})
"""Besides 429, which `Api.call` waits out."""
LEASE_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0
LONG_AGO: Final = timedelta(hours=1)
"""Containers claim to have ended then, so that the Job controller's back-off is over."""
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
"""Keeps other people's conditions, such as DisruptionTarget."""
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"


class PodPlayer:
    """Runs all job pods of some namespaces, each in a thread; a context manager.

    Args:
        admin: the cluster's administrator, who impersonates scheduler and kubelet.
        namespaces: whose pods are run; more may be added to `namespaces` later.
        volumes: folder that stands for the claims: `<namespace>/<claim>`.
        gateway_port: where the operator's gateway listens on loopback, by namespace; asked at each
            call.
        accuracy: what certification is to measure, by job name; 0.98 if it is not named.
    """

    def __init__(
        self,
        admin: Api,
        namespaces: Sequence[str],
        volumes: Path,
        gateway_port: Callable[[str], int],
        *,
        node: str = "played-node",
    ) -> None:
        self.namespaces = set(namespaces)
        self.accuracy: dict[str, float] = {}
        self.hook: Hook = lambda pod, stage: None
        """Called in the pod's thread at each stage; may wait, raise PodEnds or Vanished."""
        self.pods: list[PlayedPod] = []
        self.volumes = volumes
        self.gateway_port = gateway_port
        self._admin = admin
        self._scheduler = admin.as_user("system:kube-scheduler")
        self._base, self._generation = node, 0
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._leased = 0.0
        self._ended = threading.Event()
        self._watched: Watch | None = None
        self._loop = threading.Thread(target=self._run, name="player", daemon=True)
        self.node, self._kubelet = "", admin

    def __enter__(self) -> Self:
        self.new_node()
        self._loop.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self.namespaces.clear()
        if self._watched:
            self._watched.end()  # or the server waits for it when it is told to stop
        self._loop.join(STOP_SECONDS)
        for pod in list(self.pods):
            pod.stop.set()
        for thread in list(self._threads.values()):
            thread.join(STOP_SECONDS)

    def of(self, job: str, purpose: Purpose | None = None) -> list[PlayedPod]:
        """The pods of a job so far, in order."""
        return [p for p in self.pods if p.job == job and purpose in (None, p.purpose)]

    def new_node(self) -> None:
        """Make a node for all pods from now on."""
        self._generation += 1
        self.node = f"{self._base}-{self._generation}"
        self._kubelet = self._admin.as_user(f"system:node:{self.node}", "system:nodes")
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        self._kubelet.call("POST", "/api/v1/nodes", node).expect(201, 409)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        self._kubelet.patch(
            f"/api/v1/nodes/{self.node}/status", {"status": {"conditions": [ready]}}
        ).expect()
        self._leased = 0.0

    def lose_node(self) -> None:
        """The node dies with all its pods, and an administrator says so; a new one takes over."""
        lost, gone = self.node, [p for p in self.pods if p.exit_code is None]
        for pod in gone:
            self._vanish(pod)
        self.new_node()
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        self._admin.patch(
            f"/api/v1/nodes/{lost}/status", {"status": {"conditions": [unknown]}}
        ).expect()
        taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
        self._admin.patch(f"/api/v1/nodes/{lost}", {"spec": {"taints": [taint]}}).expect()

    def _vanish(self, pod: PlayedPod) -> None:
        pod.exit_code = -1
        pod.stop.set()

    def _run(self) -> None:
        """List and watch, as kubelet does; what fails is tried again."""
        while not self._ended.is_set():
            with suppress(urllib3.exceptions.HTTPError):
                self._renew_lease()
                only = list(self.namespaces) if len(self.namespaces) == 1 else []
                path = f"/api/v1/namespaces/{only[0]}/pods" if only else "/api/v1/pods"
                answer = self._admin.call("GET", path, query=OURS)
                if not answer.ok:  # a busy server
                    time.sleep(RETRY_SECONDS)
                    continue
                for item in answer.body["items"]:
                    self._look_at(item)
                self._watch(path, answer.body["metadata"]["resourceVersion"])

    def _watch(self, path: str, version: str) -> None:
        query = {**OURS, "resourceVersion": version, "timeoutSeconds": str(int(LEASE_SECONDS))}
        self._watched = self._admin.watch(path, query)
        if self._ended.is_set():  # too late for whoever ends it to have seen this watch
            self._watched.end()
        for event in self._watched:
            if self._ended.is_set() or event["type"] == "ERROR":
                return
            if event["type"] != "DELETED":
                self._look_at(event["object"])

    def _renew_lease(self) -> None:
        """What tells the node controller that the node lives."""
        if time.monotonic() < self._leased + LEASE_SECONDS:
            return
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        lease = _lease(self.node)
        if not self._kubelet.patch(f"{path}/{self.node}", lease).ok:
            self._kubelet.call("POST", path, lease)
        self._leased = time.monotonic()

    def _look_at(self, item: Object) -> None:
        metadata, phase = item["metadata"], item.get("status", {}).get("phase")
        if metadata["namespace"] not in self.namespaces:
            return
        known = metadata["uid"] in self._threads
        if metadata.get("deletionTimestamp"):
            self._finish_deletion(metadata["uid"])
        elif not known and phase == "Pending":
            self._start(item)

    def _start(self, item: Object) -> None:
        metadata = item["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        }
        if not self._scheduler.call("POST", f"{path}/binding", binding).ok:
            return  # deleted meanwhile; the next look tells
        labels = metadata["labels"]
        job, purpose = labels[names.JOB_LABEL], Purpose(labels[names.PURPOSE_LABEL])
        identity = (metadata["name"], metadata["namespace"], metadata["uid"])
        owner = next((o["uid"] for o in metadata.get("ownerReferences", ())), "")
        pod = PlayedPod(*identity, purpose, job, owner, len(self.of(job, purpose)) + 1)
        self.pods.append(pod)
        kubelet = _Kubelet(self._kubelet, self, pod, item)
        thread = threading.Thread(target=kubelet.run, name=pod.name, daemon=True)
        self._threads[pod.uid] = thread
        thread.start()

    def _finish_deletion(self, uid: str) -> None:
        """End the container, then let the pod go, as kubelet does."""
        pod = next((p for p in self.pods if p.uid == uid), None)
        if pod is None or pod.exit_code == -1 or pod.stop.is_set():
            return
        pod.stop.set()
        threading.Thread(target=self._let_go, args=[pod], daemon=True).start()

    def _let_go(self, pod: PlayedPod) -> None:
        self._threads[pod.uid].join(STOP_SECONDS)
        now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        with suppress(urllib3.exceptions.HTTPError):
            self._kubelet.delete(pod.path, **now)


class _Kubelet:
    """One pod's life, from its start to its last status."""

    def __init__(self, api: Api, player: PodPlayer, pod: PlayedPod, item: Object) -> None:
        self._api, self._player, self._pod, self._item = api, player, pod, item
        (self._container,) = item["spec"]["containers"]

    def run(self) -> None:
        """Start the container, wait for its end, report it."""
        pod = self._pod
        try:
            self._report("Running", {"running": {"startedAt": _time()}}, ready=True)
            code, message = self._contain()
        except Vanished:
            pod.exit_code = -1
        if pod.exit_code == -1:
            return
        pod.exit_code, pod.message = code, message
        ended = _time(LONG_AGO)
        state = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "message": message,
            "startedAt": ended,
            "finishedAt": ended,
        }
        self._report("Failed" if code else "Succeeded", {"terminated": state}, ready=False)

    def _contain(self) -> tuple[int, str]:
        """Exit code and termination message, as the trainer's entrypoint gives them."""
        pod = self._pod
        try:
            self._stage("started")
            play(self._run_spec(), self._token_file(), pod.check, self._stage, self._way())
        except PodEnds as end:
            return end.exit_code, _said(end.reason, TOLD_TO_END)
        except SecuretrainError as error:
            return int(error.exit_code), _said(error.reason, str(error))
        except Vanished:
            raise
        except Exception as error:  # as in the trainer: a bug's text is not told
            return int(ExitCode.BUG), _said("InternalError", repr(error))
        return 0, ""

    def _way(self) -> tuple[tuple[str, int], float]:
        port = self._player.gateway_port(self._pod.namespace)
        return (IP, port), self._player.accuracy.get(self._pod.job, 0.98)

    def _stage(self, stage: str) -> None:
        self._pod.check()
        self._pod.stages.append(stage)
        self._player.hook(self._pod, stage)
        self._pod.check()

    def _run_spec(self) -> RunSpec:
        """What the pod is told, with its mounts where they are on this machine."""
        (value,) = (e["value"] for e in self._container["env"] if e["name"] == names.RUN_SPEC_ENV)
        run = RunSpec.model_validate_json(value)
        mounts = {m["mountPath"]: self._claim(m["name"]) for m in self._container["volumeMounts"]}
        dataset = mounts[names.DATASET_MOUNT] + run.dataset_path.removeprefix(names.DATASET_MOUNT)
        output = mounts[names.OUTPUT_MOUNT] + run.output_path.removeprefix(names.OUTPUT_MOUNT)
        return run.model_copy(update={"dataset_path": dataset, "output_path": output})

    def _claim(self, volume: str) -> str:
        (found,) = (v for v in self._item["spec"]["volumes"] if v["name"] == volume)
        claim = found.get("persistentVolumeClaim", {}).get("claimName", "")
        return str(self._player.volumes / self._pod.namespace / claim)

    def _token_file(self) -> Path:
        """A fresh token of the pod, minted as kubelet does for the projected volume."""
        (volume,) = (v for v in self._item["spec"]["volumes"] if "projected" in v)
        wanted = volume["projected"]["sources"][0]["serviceAccountToken"]
        pod, account = self._pod, self._item["spec"]["serviceAccountName"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [wanted["audience"]],
                "expirationSeconds": wanted["expirationSeconds"],
                "boundObjectRef": bound,
            },
        }
        path = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/{account}/token"
        token = self._insist(lambda: self._api.call("POST", path, body))["status"]["token"]
        file = self._player.volumes / "tokens" / pod.uid
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
        return file

    def _report(self, phase: str, state: Object, *, ready: bool) -> None:
        container = {
            "name": self._container["name"],
            "image": self._container["image"],
            "imageID": self._container["image"],
            "restartCount": 0,
            "ready": ready,
            "started": ready,
            "state": state,
        }
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": _time(LONG_AGO)}
        status = {
            "phase": phase,
            "startTime": _time(),
            "podIP": IP,
            "podIPs": [{"ip": IP}],
            "hostIPs": [{"ip": IP}],
            "hostIP": IP,
            "conditions": [condition],
            "containerStatuses": [container],
        }
        # The pod may be gone, or at the very end the server: nobody is left to be told.
        with suppress(AssertionError, urllib3.exceptions.HTTPError):
            path = f"{self._pod.path}/status"
            self._insist(
                lambda: self._api.call(
                    "PATCH", path, {"status": status}, content_type=STRATEGIC_PATCH
                )
            )

    def _insist(self, call: Callable[[], Answer]) -> Object:
        """Repeat while the node authorizer has not heard of the pod's binding, or all is busy."""
        deadline = time.monotonic() + INSIST_SECONDS
        while (answer := call()).status in NOT_YET and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)
        return answer.expect()


def _said(reason: str, message: str) -> str:
    return json.dumps({"reason": reason, "message": message[:700]})


def _time(ago: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")


def _lease(name: str) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
    }
