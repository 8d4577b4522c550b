"""What the reconciler has seen: frozen, parsed, and all that `decide` may look at.

Names and labels are not trusted: a child Job is ours only by its UID in the launch record, a pod
only by its controller's UID. Irreversible decisions rest on the launch record and on fresh reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from securetrain.api import names
from securetrain.api.digest import canonical_sha256, sha256_hex
from securetrain.api.gateway import JobRef, ProgressReport
from securetrain.api.names import Purpose
from securetrain.api.types import TERMINAL_PHASES, JobSpec
from securetrain.errors import AuditBroken, SecuretrainError
from securetrain.storage.uri import StorageUri
from securetrain.validation import first_problem
from securetrain_operator.core import times
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.record import LaunchRecord

Object = Mapping[str, Any]

MAX_EXACT_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Job:
    """A SecureTrainingJob; `spec` is None if it does not parse, and then `fault` says why."""

    ref: JobRef
    generation: int
    created: float
    """Seconds since the epoch."""
    labels: Mapping[str, str]
    deleting: bool
    spec: JobSpec | None
    fault: str
    spec_sha256: str
    status: Mapping[str, Any]
    """As last written: compared with, never believed but to refuse a second launch."""


@dataclass(frozen=True, slots=True)
class Child:
    """A batch/v1 Job that carries one of our names."""

    name: str
    uid: str
    state: Literal["active", "complete", "failed"]
    reason: str = ""
    """Of the condition Failed."""
    suspended: bool = False
    deleting: bool = False
    created: float = 0.0
    active_deadline: int | None = None

    @property
    def finished(self) -> bool:
        """True once the Job controller has ended it."""
        return self.state != "active"


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a launch needs; looked at only when a launch is ahead."""

    namespace_enabled: bool = True
    missing_claims: tuple[str, ...] = ()
    missing_guards: tuple[str, ...] = ()
    vault_fault: SecuretrainError | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a job and all that belongs to it."""

    job: Job
    record: LaunchRecord | None
    launch: Preconditions = Preconditions()
    children: Mapping[Purpose, Child] = field(default_factory=dict)
    """Jobs that bear our children's names, ours or not."""
    pods: tuple[Object, ...] = ()
    """Pods with the job's UID label, ours or not."""
    progress: tuple[ProgressReport, str] | None = None
    asking: tuple[str, Diagnosis] | None = None
    """UID of the pod that the gateway put off last, and why."""
    broken: AuditBroken | None = None
    """Why the launch record cannot be trusted; then `record` is None and nothing may be done."""

    @property
    def record_lost(self) -> bool:
        """True if the job was launched or has ended by its status, and its record is gone.

        Status is believed here alone, and only to refuse: a forged one launches nothing.
        """
        told = self.job.status
        begun = bool(told.get("startTime")) or told.get("phase") in TERMINAL_PHASES
        return begun and self.record is None and self.broken is None

    def own(self, purpose: Purpose) -> Child | None:
        """The child Job that the launch record knows, if it still exists."""
        child = self.children.get(purpose)
        known = self.record.children.get(purpose) if self.record else None
        return child if child and known and child.uid == known.uid else None

    def stray(self, purpose: Purpose) -> Child | None:
        """A Job of our name that the launch record does not know; no pod of it gets keys."""
        child = self.children.get(purpose)
        return child if child and self.own(purpose) is None else None

    def pods_of(self, purpose: Purpose) -> tuple[Object, ...]:
        """Pods whose controller is the recorded child Job, oldest first."""
        known = self.record.children.get(purpose) if self.record else None
        own = [pod for pod in self.pods if known and controller_uid(pod) == known.uid]
        return tuple(sorted(own, key=lambda pod: pod["metadata"].get("creationTimestamp") or ""))


def jobs_enabled(namespace: Object | None) -> bool:
    """Whether a namespace carries the label that platform admins set, and so all guards hold."""
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    return bool(labels.get(names.NAMESPACE_LABEL) == names.NAMESPACE_LABEL_VALUE)


def wanted(record: LaunchRecord | None) -> Purpose | None:
    """What the job works on now; None once it has ended."""
    if record is None or record.phase in ("Pending", "Training"):
        return Purpose.TRAIN
    return Purpose.CERTIFY if record.phase == "Certifying" else None


def controller_uid(item: Object) -> str | None:
    """UID of an object's controller."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def parse_job(item: Object) -> Job:
    """Parse a SecureTrainingJob as the API server stores it; a bad spec becomes a fault."""
    meta = item["metadata"]
    raw = item.get("spec") or {}
    spec, fault = _parse_spec(raw)
    return Job(
        ref=JobRef(namespace=meta["namespace"], name=meta["name"], uid=meta["uid"]),
        generation=meta.get("generation", 1),
        created=times.epoch(meta["creationTimestamp"]),
        labels=meta.get("labels") or {},
        deleting=bool(meta.get("deletionTimestamp")),
        spec=spec,
        fault=fault,
        spec_sha256=canonical_sha256(spec.run_content()) if spec else _raw_sha256(raw),
        status=item.get("status") or {},
    )


def parse_child(item: Object) -> Child:
    """Parse a batch/v1 Job."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    held = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    state: Literal["active", "complete", "failed"] = "active"
    if "Complete" in held:
        state = "complete"
    elif "Failed" in held:
        state = "failed"
    return Child(
        name=meta["name"],
        uid=meta["uid"],
        state=state,
        reason=held.get("Failed", {}).get("reason") or "",
        suspended=bool(spec.get("suspend")),
        deleting=bool(meta.get("deletionTimestamp")),
        created=times.epoch(meta["creationTimestamp"]),
        active_deadline=spec.get("activeDeadlineSeconds"),
    )


def _parse_spec(raw: Any) -> tuple[JobSpec | None, str]:
    try:
        spec = JobSpec.model_validate(raw)
    except ValidationError as error:
        problem = first_problem(error)
        where = ".".join(filter(None, ("spec", problem.field)))
        return None, " ".join(filter(None, (f"{where}:", problem.shown, problem.message)))
    if _has_inexact_integer(spec.run_content()):
        return None, "spec: a number is beyond 2^53 and has no exact JSON form; write it as text"
    return spec, ""


def claims(spec: JobSpec) -> tuple[str, ...]:
    """The PersistentVolumeClaims that a job uses, each once."""
    return tuple(dict.fromkeys(place.place for place in _places(spec).values() if place.on_claim))


def claimed_by(spec: JobSpec, claim: str) -> str:
    """The fields of a job that name a claim."""
    places = _places(spec).items()
    return " and ".join(f for f, place in places if place.on_claim and place.place == claim)


def storage_names(spec: JobSpec) -> tuple[str, ...]:
    """The storage connections that a job names, each once."""
    return tuple(dict.fromkeys(_storages(spec).values()))


def storage_fields(spec: JobSpec, name: str) -> str:
    """The fields of a job, below its spec, that name a storage connection."""
    return " and spec.".join(field for field, named in _storages(spec).items() if named == name)


def _places(spec: JobSpec) -> dict[str, StorageUri]:
    return {
        "spec.datasets[0].uri": spec.dataset.address,
        "spec.output.uri": spec.output.address,
    }


def _storages(spec: JobSpec) -> dict[str, str]:
    refs = {
        "datasets[0].storageRef.name": spec.dataset.storage_ref,
        "output.storageRef.name": spec.output.storage_ref,
    }
    return {field: ref.name for field, ref in refs.items() if ref is not None}


def _has_inexact_integer(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_inexact_integer(inner) for inner in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_has_inexact_integer(inner) for inner in value)
    return isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER


def _raw_sha256(raw: Any) -> str:
    """Identifies a spec that cannot run; it only ever stands in a failed job's record."""
    return sha256_hex(json.dumps(raw, sort_keys=True).encode())
