"""A little world for the reconciler: fakes wired together, and hands to play the cluster."""

from __future__ import annotations

import json
from typing import Any

from securetrain.api import names
from securetrain.api.gateway import FileDigest, ResultsRequest
from securetrain.api.names import Purpose
from securetrain.api.types import GateStatus, Metric
from securetrain.signing.bundle import build_bundle
from securetrain.signing.statement import build_statement
from securetrain_operator.adapters.board import MemoryBoard
from securetrain_operator.core.record import (
    GrantRecord,
    LaunchRecord,
    PinnedDataset,
    VerdictRecord,
)
from securetrain_operator.reconcile import Reconciler
from securetrain_operator.settings import Settings
from support.fakes import (
    BATCH_JOBS,
    JOBS,
    PODS,
    FakeCluster,
    FakeEvents,
    FakeProgress,
    FakeRecords,
    FakeStore,
    FakeVault,
    ManualClock,
    Tripwire,
)

UID = "7f1f9a4e-0000-4000-8000-000000000001"
NAMESPACE = "team-a"
NAME = "digits-v7"
TRAINER = "registry.example/trainer@sha256:" + "b" * 64
USER_IMAGE = "registry.example/mine@sha256:" + "c" * 64
FILES = (FileDigest(path="weights.safetensors.sealed", sha256="d" * 64, bytes=10),)
TIME = "2027-01-15T08:00:00Z"


def settings(**changes: Any) -> Settings:
    """Operator settings, with changes by wire name."""
    return Settings.model_validate(
        {
            "namespace": "securetrain",
            "audience": "securetrain/test",
            "trainerImage": TRAINER,
            "gatewayUrl": "https://gateway.securetrain.svc:8443",
            "gatewayNames": ["gateway.securetrain.svc"],
            "vaultConnections": [
                {
                    "name": "default",
                    "address": "https://10.0.0.5:8200",
                    "ca": "the CA of Vault",
                    "allowedNamespaces": ["*"],
                }
            ],
        }
        | changes
    )


def job_object(**spec: Any) -> dict[str, Any]:
    """A SecureTrainingJob as applied, with changes of its spec by wire name."""
    return {
        "metadata": {
            "name": NAME,
            "uid": UID,
            "labels": {"kueue.x-k8s.io/queue-name": "gpu", "team": "a"},
        },
        "spec": {
            "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
            "model": {"architecture": "cnn", "parameters": {"filters": "32"}},
            "certification": {"gates": [{"metric": "accuracy", "min": 0.97}]},
            "output": {"uri": "pvc://models/digits-v7", "kek": "team-a-models"},
        }
        | spec,
    }


class World:
    """One namespace, one job, one operator."""

    def __init__(self, trip: Tripwire | None = None, **spec: Any) -> None:
        self.trip = trip or Tripwire()
        self.clock = ManualClock()
        self.cluster = FakeCluster(self.clock, self.trip)
        self.store = FakeStore(self.cluster)
        self.records = FakeRecords(self.trip)
        self.vault = FakeVault(self.trip)
        self.events = FakeEvents()
        self.progress = FakeProgress()
        self.board = MemoryBoard()
        self.settings = settings()
        label = {names.NAMESPACE_LABEL: names.NAMESPACE_LABEL_VALUE}
        self.cluster.put("v1/namespaces", None, {"metadata": {"name": NAMESPACE, "labels": label}})
        for claim in ("datasets", "models"):
            self.cluster.put("v1/persistentvolumeclaims", NAMESPACE, {"metadata": {"name": claim}})
        self.cluster.put(JOBS, NAMESPACE, job_object(**spec))
        self.reconciler = self.new_reconciler()

    def new_reconciler(self) -> Reconciler:
        """A freshly started operator."""
        return Reconciler(
            self.store,
            self.cluster,
            self.records,
            self.vault,
            self.events,
            self.progress,
            self.board,
            self.settings,
            self.clock,
            lambda: "the CA of the gateway",
        )

    async def run(self) -> float | None:
        """One reconcile of the job."""
        return await self.reconciler.reconcile(UID)

    @property
    def record(self) -> LaunchRecord:
        return self.records.now(UID)

    @property
    def job(self) -> dict[str, Any]:
        return self.cluster.objects[(JOBS, NAMESPACE, NAME)]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.job["status"]
        return status

    def condition(self, kind: str) -> dict[str, Any] | None:
        """A status condition as written."""
        return next((c for c in self.status["conditions"] if c["type"] == kind), None)

    @property
    def reason(self) -> str:
        """Reason of the first condition: what is going on."""
        return str(self.status["conditions"][0]["reason"])

    def change_spec(self, **changes: Any) -> None:
        """A user changes the job's spec."""
        self.job["spec"].update(changes)
        self.job["metadata"]["generation"] += 1

    def child(self, purpose: Purpose) -> dict[str, Any] | None:
        """The stored child Job."""
        return self.cluster.objects.get((BATCH_JOBS, NAMESPACE, names.child_job(NAME, purpose)))

    def launches(self, purpose: Purpose) -> int:
        """How many child Jobs of a purpose were ever made."""
        return self.cluster.created.count((BATCH_JOBS, names.child_job(NAME, purpose)))

    def put_pod(self, purpose: Purpose, number: int = 1, **status: Any) -> dict[str, Any]:
        """A pod of the child Job, as the Job controller makes it."""
        child = self.child(purpose)
        assert child is not None
        meta = child["metadata"]
        owner = {"kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
        name = f"{meta['name']}-{number}"
        body = {
            "metadata": {
                "name": name,
                "uid": f"pod-{meta['uid']}-{number}",
                "labels": child["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "status": {"phase": "Running", "containerStatuses": [running()]} | status,
        }
        return self.cluster.put(PODS, NAMESPACE, body)

    def grant(self, purpose: Purpose, pod: dict[str, Any]) -> None:
        """The gateway gives keys to a pod."""
        meta = pod["metadata"]
        given = GrantRecord(
            pod_uid=meta["uid"],
            pod_name=meta["name"],
            pod_ip="10.1.0.7",
            purpose=purpose,
            time=TIME,
            keys=("model",),
        )
        pinned = PinnedDataset(
            name="digits",
            id="a-dataset",
            digest="sha256:" + "e" * 64,
            policy_digest="sha256:" + "f" * 64,
            policy=b"e30=",
            records=100,
        )
        record = self.record
        self.records.set(record.with_changes(grants=(*record.grants, given), dataset=pinned))

    def results(self, purpose: Purpose, outcome: str = "certified", signed: bool = True) -> None:
        """A pod reports its results; those of certify the gateway judges and has signed."""
        metrics = (Metric(name="accuracy", value="0.98"),)
        found = ResultsRequest(purpose=purpose, files=FILES, metrics=metrics)
        record = self.record
        changed = record.with_changes(results={**record.results, purpose: found})
        if purpose is Purpose.CERTIFY:
            passed = outcome == "certified"
            gate = GateStatus(metric="accuracy", rule="≥ 0.97", value="0.98", passed=passed)
            bundle = build_bundle(build_statement("m", FILES, {}), b"DER", b"PEM")
            verdict = VerdictRecord.model_validate(
                {
                    "outcome": outcome,
                    "gates": () if outcome == "evaluated" else (gate,),
                    "bundle": bundle if signed and outcome != "gatesMissed" else None,
                }
            )
            changed = changed.with_changes(verdict=verdict)
        self.records.set(changed)

    def end_job(self, purpose: Purpose, kind: str = "Complete", reason: str = "") -> None:
        """The Job controller ends a child Job."""
        child = self.child(purpose)
        assert child is not None
        child["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason}]}

    def end_pod(self, pod: dict[str, Any], exit_code: int, message: str = "", **more: Any) -> None:
        """A pod's container ends."""
        stored = self.cluster.objects[(PODS, NAMESPACE, pod["metadata"]["name"])]
        stored["status"] = {
            "phase": "Failed" if exit_code else "Succeeded",
            "containerStatuses": [terminated(exit_code, message, **more)],
        }

    async def train(self) -> None:
        """From nothing to a train phase that is over."""
        await self.run()
        pod = self.put_pod(Purpose.TRAIN)
        self.grant(Purpose.TRAIN, pod)
        await self.run()
        self.results(Purpose.TRAIN)
        self.end_pod(pod, 0)
        self.end_job(Purpose.TRAIN)
        await self.run()

    async def certify(self, outcome: str = "certified", exit_code: int = 0) -> None:
        """From a finished train phase to the end of certify."""
        pod = self.put_pod(Purpose.CERTIFY)
        self.grant(Purpose.CERTIFY, pod)
        self.results(Purpose.CERTIFY, outcome)
        self.end_pod(pod, exit_code)
        self.end_job(Purpose.CERTIFY, "Failed" if exit_code else "Complete", "PodFailurePolicy")
        await self.run()


def kinds_of(world: World) -> list[str]:
    """What the audit chain says happened, in order."""
    return [
        json.loads(line)["type"].removeprefix("dev.securetrain.") for line in world.record.audit
    ]


def warnings_of(world: World) -> dict[str, str]:
    """What the events warned of, by reason."""
    return {reason: said for reason, said, warning in world.events.emitted if warning}


def running() -> dict[str, Any]:
    """Status of a container that runs."""
    return {"name": names.CONTAINER, "state": {"running": {"startedAt": TIME}}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Status of a container that waits."""
    return {"name": names.CONTAINER, "state": {"waiting": {"reason": reason, "message": message}}}


def terminated(exit_code: int, message: str = "", **more: Any) -> dict[str, Any]:
    """Status of a container that has ended."""
    state = {"exitCode": exit_code, "message": message} | more
    return {"name": names.CONTAINER, "state": {"terminated": state}}
