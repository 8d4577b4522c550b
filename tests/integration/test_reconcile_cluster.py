"""The reconciler against a real API server and Job controller; there is no node, so pods wait.

It runs as the operator's service account, under the chart's RBAC and guards. What only a real
server can show: that the operator may do all that it does, that the template it stores is the one
that was asked for, that what it fills in is not taken for a change, and that a job at rest causes
no writes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from securetrain.api import names
from securetrain.api.gateway import ResultsRequest
from securetrain.api.names import Purpose
from securetrain_operator import kinds
from securetrain_operator.adapters.board import MemoryBoard
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.records import ConfigMapRecords
from securetrain_operator.ports import Object
from securetrain_operator.reconcile import Reconciler
from support import samples
from support.api import Api
from support.chart import OPERATOR_NAMESPACE
from support.fakes import FakeEvents, FakeProgress, FakeVault
from support.installed import chart_installed, make_namespace
from support.operator_process import operator_token, write_kubeconfig
from support.world import FILES, job_object, settings

PATIENCE = 60.0
SERVERS_OWN = ("resourceVersion", "managedFields")
numbers = itertools.count(1)


class ListedStore:
    """A store that is filled by listing."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.items: dict[str, Sequence[Object]] = {}

    async def refresh(self) -> None:
        for kind in (kinds.TRAINING_JOBS, kinds.JOBS, kinds.PODS):
            self.items[kind] = await self.cluster.list(kind, self.namespace)

    def job(self, uid: str) -> Object | None:
        jobs = self.items[kinds.TRAINING_JOBS]
        return next((item for item in jobs if item["metadata"]["uid"] == uid), None)

    def children(self, uid: str) -> Sequence[Object]:
        return self._labelled(kinds.JOBS, uid)

    def pods(self, uid: str) -> Sequence[Object]:
        return self._labelled(kinds.PODS, uid)

    def _labelled(self, kind: str, uid: str) -> Sequence[Object]:
        def has(item: Object) -> bool:
            return bool((item["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL) == uid)

        return [item for item in self.items[kind] if has(item)]


class Scene:
    """A namespace with claims, and an operator over the real server; Vault alone is played.

    `cluster` is the administrator's, `operator` the operator's own.
    """

    def __init__(self, cluster: KubeCluster, operator: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.store = ListedStore(operator, namespace)
        self.records = ConfigMapRecords(operator, OPERATOR_NAMESPACE, [])
        self.reconciler = Reconciler(
            self.store,
            operator,
            self.records,
            FakeVault(),
            FakeEvents(),
            FakeProgress(),
            MemoryBoard(),
            settings(namespace=OPERATOR_NAMESPACE),
            SystemClock(),
            lambda: "the CA of the gateway",
        )

    async def apply(self, **spec: Any) -> str:
        item = job_object(**spec)
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "spec": item["spec"]}
        body["metadata"] = {"name": "digits-v7", "namespace": self.namespace}
        made = await self.cluster.create(kinds.TRAINING_JOBS, self.namespace, body)
        return str(made["metadata"]["uid"])

    async def settle(self, uid: str) -> Object:
        """Run until the runs ask for no hurry; the job as then stored."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            await self.store.refresh()
            again = await self.reconciler.reconcile(uid)
            if again is None or again > 2:
                break
            await asyncio.sleep(0.2)
        await self.store.refresh()
        job = self.store.job(uid)
        assert job is not None
        return job

    @staticmethod
    def pods_shown(job: Object) -> int:
        return sum((job["status"].get("attempts") or {}).values())

    async def until(self, uid: str, reason: str) -> Object:
        """Settle until the job shows a reason and, unless it has ended, its pod is there."""
        latest = time.monotonic() + PATIENCE
        while time.monotonic() < latest:
            job = await self.settle(uid)
            seen = self.pods_shown(job) or job["status"]["phase"] == "Failed"
            if job["status"]["conditions"][0]["reason"] == reason and seen:
                return job
            await asyncio.sleep(0.2)
        raise AssertionError(job["status"])


@pytest.fixture(scope="module")
def admin(control_plane: ControlPlane) -> Iterator[Api]:
    api = Api(control_plane.kubeconfig)
    with chart_installed(api):
        yield api


@pytest.fixture
async def scene(admin: Api, control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Scene]:
    namespace = f"reconcile-{next(numbers)}"
    make_namespace(admin, namespace)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": restricted}}).expect()
    write_kubeconfig(tmp_path / "kubeconfig", control_plane, operator_token(control_plane))
    cluster = await KubeCluster.connect(control_plane.kubeconfig)
    operator = await KubeCluster.connect(tmp_path / "kubeconfig")
    for claim in ("datasets", "models"):
        await cluster.create(kinds.CLAIMS, namespace, samples.claim(claim, namespace))
    yield Scene(cluster, operator, namespace)
    await operator.close()
    await cluster.close()


POD = {
    "resources": {"limits": {"memory": "2048Mi", "nvidia.com/gpu": 1}, "requests": {"cpu": "0.5"}},
    "nodeSelector": {"gpu": "true"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "imagePullSecrets": [{"name": "regcred"}],
}


@pytest.mark.parametrize("pod", [{}, POD], ids=["plain", "all that may be chosen"])
async def test_a_launch_is_stored_as_asked_and_a_job_at_rest_causes_no_writes(
    scene: Scene, pod: dict[str, Any]
) -> None:
    uid = await scene.apply(pod=pod, activeDeadlineSeconds=3600)
    job = await scene.until(uid, "PodStarting")
    assert job["status"]["phase"] == "Pending"
    record = await scene.records.get(uid)
    assert record is not None
    (child,) = scene.store.children(uid)
    assert record.children[Purpose.TRAIN].uid == child["metadata"]["uid"]
    (made,) = scene.store.pods(uid)
    assert (
        made["spec"]["containers"][0]["env"]
        == (record.children[Purpose.TRAIN].template["spec"]["containers"][0]["env"])
    )

    versions = await scene_versions(scene, uid)
    await scene.settle(uid)
    scene.reconciler._mirrored.clear()
    await scene.settle(uid)
    assert await scene_versions(scene, uid) == versions


async def test_suspend_resume_certify_and_failure_on_a_real_server(scene: Scene) -> None:
    uid = await scene.apply(output={"uri": "pvc://datasets/out/m", "kek": "k"})
    await scene.until(uid, "PodStarting")
    await patch(scene, {"spec": {"suspend": True, "activeDeadlineSeconds": 900}})
    job = await scene.settle(uid)
    assert job["status"]["phase"] == "Suspended"
    assert scene.store.children(uid) == []
    await patch(scene, {"spec": {"suspend": False}})
    await scene.until(uid, "PodStarting")
    await patch(scene, {"spec": {"activeDeadlineSeconds": 800}})
    await scene.settle(uid)
    (child,) = scene.store.children(uid)
    assert child["spec"]["activeDeadlineSeconds"] == 800

    results = {Purpose.TRAIN: ResultsRequest(purpose=Purpose.TRAIN, files=FILES)}
    await scene.records.update(uid, lambda r: r.with_changes(results=results))
    await scene.cluster.delete(kinds.JOBS, scene.namespace, "stj-digits-v7-train")
    job = await scene.settle(uid)
    assert job["status"]["phase"] == "Certifying"
    assert [c["role"] for c in job["status"]["jobs"]] == ["train", "certify"]

    await patch(scene, {"spec": {"activeDeadlineSeconds": 1}})
    job = await scene.until(uid, "DeadlineExceeded")
    assert job["status"]["phase"] == "Failed"
    assert {c["type"] for c in job["status"]["conditions"] if c["status"] == "True"} >= {
        "Stalled",
        "Failed",
    }
    view = await scene.cluster.read(kinds.CONFIG_MAPS, scene.namespace, "digits-v7-audit")
    assert view is not None
    head = json.loads(view["data"]["head.dsse.json"])
    assert head["payloadType"] == "application/vnd.in-toto+json"


async def patch(scene: Scene, change: Object) -> None:
    assert await scene.cluster.merge(kinds.TRAINING_JOBS, scene.namespace, "digits-v7", change)


def without_status(child: Object) -> Object:
    """A Job, its version being what the Job controller does not write."""
    kept = {k: v for k, v in child["metadata"].items() if k not in SERVERS_OWN}
    version = json.dumps([kept, child["spec"]], sort_keys=True)
    return {**child, "metadata": {**kept, "resourceVersion": version}}


async def scene_versions(scene: Scene, uid: str) -> dict[str, str]:
    """Resource versions of all that belongs to a job.

    The status of its Job is left out: the Job controller writes it when it comes to it.
    """
    await scene.store.refresh()
    items = [scene.store.job(uid), *map(without_status, scene.store.children(uid))]
    for kind in (kinds.CONFIG_MAPS, kinds.NETWORK_POLICIES, kinds.ACCOUNTS):
        items += await scene.cluster.list(kind, scene.namespace)
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in items
        if item is not None and item["metadata"]["name"] != "kube-root-ca.crt"
    }
