"""A namespace in which the real operator launches jobs; tests play users, kubelet and pods."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from localcluster.control_plane import ControlPlane
from securetrain.api import names
from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose
from securetrain.sealed.dataset import SealedDataset, load_dataset
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.settings import Settings
from securetrain_trainer.gateway import Gateway as TrainersGateway
from securetrain_trainer.keys import GrantedKeys, grant_request
from securetrain_trainer.ports import Keys
from support import samples, vaultkit
from support.api import Answer, Api, Object, eventually
from support.chart import AUDIENCE, OPERATOR_NAMESPACE
from support.real_operator import Background, OffsetClock, Operator

NODE = "played-node"
KUBELET = (f"system:node:{NODE}", "system:nodes")
HOST = "localhost"
ADDRESS = "127.0.0.1"
"""Address of the real pods: what calls from this machine come from by default."""


@dataclass
class GatewayStage:
    """One namespace in which the operator launches jobs, and who is there.

    Attributes:
        admin: the cluster's administrator; with no guard installed, all that anybody could do.
        kubelet: the node's, by its own rights.
        folder: scratch.
    """

    admin: Api
    kubelet: Api
    operator: Operator
    kit: vaultkit.Kit
    settings: Settings
    clock: OffsetClock
    background: Background
    folder: Path

    @property
    def namespace(self) -> str:
        """The jobs' namespace."""
        return self.kit.request.namespace

    @cached_property
    def dataset(self) -> SealedDataset:
        """The sealed dataset of all jobs."""
        return load_dataset(self.folder / "data")

    def path(self, resource: str, name: str = "", group: str = "") -> str:
        """Path of an object of the namespace."""
        root = f"/apis/{group}" if group else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def job_path(self, name: str) -> str:
        """Path of a SecureTrainingJob."""
        return self.path(names.PLURAL, name, names.API_VERSION)

    def apply(self, name: str) -> str:
        """A user makes a job; returns its UID."""
        kek = self.kit.request.model_keks[0]
        output = {"uri": f"pvc://models/{name}", "kek": kek}
        body = samples.training_job(name, self.namespace, output=output)
        return str(self.admin.create(body).expect()["metadata"]["uid"])

    def reconcile(self, *uids: str) -> None:
        """The operator brings jobs as far as it can without waiting."""
        self.background(self._reconcile(uids))

    async def _reconcile(self, uids: Sequence[str]) -> None:
        for uid in uids:
            for _ in range(20):
                await self.operator.resync.once()
                again = await self.operator.reconciler.reconcile(uid)
                if again is None or again > 2:
                    break
                await asyncio.sleep(0.1)

    def launch(self, *job_names: str) -> list[Object]:
        """Jobs, accepted and launched; returns their pods, which run and have called nobody yet."""
        uids = [self.apply(name) for name in job_names]
        children = [names.child_job(name, Purpose.TRAIN) for name in job_names]

        def launched() -> bool:
            self.reconcile(*uids)
            jobs = [self.admin.get(self.path("jobs", name, "batch/v1")) for name in children]
            return all(job.ok for job in jobs)

        eventually(launched, "the operator launches the jobs")
        return [self.started(self.pod_of(name)) for name in job_names]

    def pod_of(self, job: str, *, but: Sequence[str] = ()) -> Object:
        """The pod that the Job controller made for a job's train Job."""
        found: list[Object] = []
        child = names.child_job(job, Purpose.TRAIN)

        def look() -> bool:
            query = {"labelSelector": f"batch.kubernetes.io/job-name={child}"}
            pods = self.admin.call("GET", self.path("pods"), query=query).expect()["items"]
            found[:] = [pod for pod in pods if pod["metadata"]["uid"] not in but]
            return bool(found)

        eventually(look, f"the Job controller makes a pod for {child}")
        return found[0]

    def started(self, pod: Object, address: str = ADDRESS) -> Object:
        """Play scheduler and kubelet: the pod as it then is, bound and running."""
        name = pod["metadata"]["name"]
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "target": target}
            binding["metadata"] = {"name": name, "namespace": self.namespace}
            self.admin.call("POST", self.path("pods", f"{name}/binding"), binding).expect()
        return self.report(pod, **running(pod, address))

    def report(self, pod: Object, **status: Any) -> Object:
        """Play kubelet: report parts of a pod's status."""
        path = self.path("pods", f"{pod['metadata']['name']}/status")
        return self.admin.patch(path, {"status": status}).expect()

    def live(self, pod: Object) -> Object:
        """A pod as it now is."""
        return self.admin.get(self.path("pods", pod["metadata"]["name"])).expect()

    def remove(self, pod: Object) -> None:
        """Play kubelet: a pod is gone for good."""
        path = self.path("pods", pod["metadata"]["name"])
        self.admin.patch(path, {"metadata": {"finalizers": None}})
        self.admin.delete(path, gracePeriodSeconds=0)
        eventually(lambda: self.admin.get(path).status == 404, f"{path} is gone")

    def token(
        self,
        pod: Object | None,
        *audiences: str,
        seconds: int = 600,
        account: str = names.SERVICE_ACCOUNT,
        namespace: str = "",
    ) -> str:
        """A token as whoever may mint any would get it, bound to a pod; by default as kubelet's."""
        spec: Object = {"audiences": audiences or [AUDIENCE], "expirationSeconds": seconds}
        if pod is not None:
            bound = {key: pod["metadata"][key] for key in ("name", "uid")}
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", **bound}
        return self._mint(self.admin, spec, account, namespace or self.namespace)

    def kubelet_token(self, pod: Object) -> str:
        """The token that kubelet projects into a pod, by the kubelet's own rights."""
        bound = {key: pod["metadata"][key] for key in ("name", "uid")}
        bound |= {"apiVersion": "v1", "kind": "Pod"}
        spec = {"audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
        found: list[str] = []

        def mint() -> bool:  # its authorizer learns of a pod a moment after the pod is bound
            with suppress(AssertionError):
                found.append(self._mint(self.kubelet, spec, names.SERVICE_ACCOUNT, self.namespace))
            return bool(found)

        eventually(mint, "kubelet gets a token for a pod on its node")
        return found[0]

    def _mint(self, user: Api, spec: Object, account: str, namespace: str) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(user.call("POST", path, body).expect()["status"]["token"])

    def ask(
        self, token: str, body: Any, *, path: str = "/v1/grants", source: str = ADDRESS
    ) -> Answer:
        """One call of the gateway from an address of this machine."""
        connection = http.client.HTTPSConnection(
            HOST,
            int(self.settings.gateway_url.rpartition(":")[2]),
            context=self._tls,
            source_address=(source, 0),
            timeout=60,
        )
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read() or b"{}"))
        finally:
            connection.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.operator.certificate.gateway_ca())

    def request(self, pod: Object) -> Any:
        """What an honest pod asks for."""
        return grant_request(run_of(pod), self.dataset).to_wire()

    def keys(self, pod: Object) -> Keys:
        """The trainer's own way to its keys, at the real gateway and the real Vault."""
        file = self.folder / f"token-{pod['metadata']['uid']}"
        file.write_text(self.kubelet_token(pod))
        run = run_of(pod)
        gateway = TrainersGateway(run.gateway, token_file=file, patience=60, sleep=_short)
        return GrantedKeys(gateway).acquire(run, self.dataset)

    def record(self, job: str) -> LaunchRecord:
        """A job's launch record."""
        found = self.background(self.operator.records.get(self.uid(job)))
        assert found is not None
        return found

    def uid(self, job: str) -> str:
        """UID of a SecureTrainingJob."""
        return str(self.admin.get(self.job_path(job)).expect()["metadata"]["uid"])

    def traces(self, job: str) -> str:
        """All that a call could leave behind of a job: status, record, Events, audit."""
        item = self.admin.get(self.job_path(job)).expect()
        uid = item["metadata"]["uid"]
        record = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/{names.launch_record(uid)}"
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        events = self.admin.call("GET", self.path("events"), query=query).expect()["items"]
        lines = [line for line in self.operator.audit.getvalue().splitlines() if uid in line]
        left = [item, self.admin.get(record).body, events, lines]
        return json.dumps(left, indent=1, sort_keys=True)

    @contextmanager
    def unharmed(self, *jobs: str, woken: bool = False) -> Iterator[None]:
        """Whatever is done within leaves these jobs as they were, to the byte.

        Nor are they looked at again, unless they may be `woken` to show what their pod waits for.
        """
        before = {job: self.traces(job) for job in jobs}
        uids = {self.uid(job) for job in jobs}
        seen = len(self.operator.woken.uids)
        yield
        assert {job: self.traces(job) for job in jobs} == before
        assert woken or not uids & set(self.operator.woken.uids[seen:])


def run_of(pod: Object) -> RunSpec:
    """What a pod was told."""
    (entry,) = (e for e in pod["spec"]["containers"][0]["env"] if e["name"] == names.RUN_SPEC_ENV)
    return RunSpec.model_validate_json(entry["value"])


def running(pod: Object, address: str) -> Object:
    """Status of a pod of which every container runs."""
    started = {"startedAt": "2026-01-01T00:00:00Z"}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": started["startedAt"]}
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "ready": True,
                "restartCount": 0,
                "resources": container.get("resources", {}),
                "state": {"running": started},
            }
            for container in pod["spec"]["containers"]
        ],
    }


def _short(_: float) -> None:
    time.sleep(0.1)


@contextmanager
def job_controller_asleep(control_plane: ControlPlane) -> Iterator[None]:
    """Nobody adopts, counts or deletes pods meanwhile: without it imitations live for a second."""
    pid = control_plane.processes[-1].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
