"""The launch record: all that the gateway may trust about one job.

It is kept in the ConfigMap `launch-<job uid>` in the operator's own namespace and written by
compare-and-swap only. Status is a view of it and is never read back. This module is pure: a change
is a function from record to record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Base64Bytes

from securetrain.api.gateway import JobRef, ResultsRequest
from securetrain.api.names import Purpose
from securetrain.api.types import GateStatus, Model
from securetrain.audit import chain

RecordPhase = Literal["Pending", "Training", "Certifying", "Succeeded", "Failed"]


class ChildRecord(Model):
    """A child Job as the API server returned it when it was created."""

    name: str
    uid: str
    template: dict[str, Any]
    template_digest: str
    launched: str


class PinnedDataset(Model):
    """What the first grant fixed for the whole job."""

    name: str
    id: str
    digest: str
    """`sha256:…` of dataset.json."""
    policy_digest: str
    """`sha256:…` of policy.json."""
    policy: Base64Bytes
    records: int


class ModelKey(Model):
    """The run's model DEK, wrapped; made once and recorded before use."""

    mount: str
    kek: str
    wrapped: str


class GrantRecord(Model):
    """Keys that one pod was given, or may have been given."""

    pod_uid: str
    pod_name: str
    pod_ip: str
    purpose: Purpose
    time: str
    keys: tuple[str, ...]
    attempt: int = 1
    """The train attempt that it belongs to."""
    lost: bool = False
    """The pod gave up afterwards, and what became of its keys is in the audit."""
    accessors: tuple[str, ...] = ()
    """Accessors of the wrapping tokens; they open nothing. Empty while the outcome is in doubt."""


class VerdictRecord(Model):
    """Outcome of the certify phase, recomputed by the operator."""

    outcome: Literal["certified", "evaluated", "gatesMissed"]
    gates: tuple[GateStatus, ...] = ()
    bundle: str | None = None
    """Text of model.sig once Vault has signed."""
    audit_records: int | None = None
    """How many of the chain's lines are in the signed audit.jsonl."""


class Failure(Model):
    """Why a job has failed for good."""

    reason: str
    message: str


class LaunchRecord(Model):
    """The record itself."""

    job: JobRef
    spec_sha256: str
    phase: RecordPhase = "Pending"
    started: str | None = None
    finished: str | None = None
    attempt: int = 1
    """Counts train Jobs: a resume makes the next."""
    waiting_since: str | None = None
    """When the wait for the first pod began: at acceptance or resume; None while suspended."""
    children: dict[Purpose, ChildRecord] = {}
    dataset: PinnedDataset | None = None
    model_key: ModelKey | None = None
    grants: tuple[GrantRecord, ...] = ()
    results: dict[Purpose, ResultsRequest] = {}
    verdict: VerdictRecord | None = None
    failure: Failure | None = None
    head_signature: str | None = None
    """DSSE envelope over the final audit head, once the job is terminal."""
    audit: tuple[str, ...] = ()
    """The chain's lines, in order."""

    @property
    def genesis(self) -> str:
        """The chain's first `prev`."""
        return chain.genesis(self.job.namespace, self.job.name, self.job.uid, self.spec_sha256)

    @property
    def head(self) -> str:
        """Digest of the last record, or the genesis."""
        return chain.line_sha256(self.audit[-1]) if self.audit else self.genesis

    @property
    def terminal(self) -> bool:
        """True once the job has ended; such a record never changes its outcome."""
        return self.phase in ("Succeeded", "Failed")

    def grants_of(self, purpose: Purpose) -> tuple[GrantRecord, ...]:
        """Grants to pods of one purpose in this attempt: these are capped."""
        return tuple(
            grant
            for grant in self.grants
            if grant.purpose is purpose and grant.attempt == self.attempt
        )

    def with_changes(self, **changes: Any) -> LaunchRecord:
        """A copy with fields replaced (Python names)."""
        return self.model_copy(update=changes)

    def appended(self, kind: str, time: str, data: Mapping[str, Any]) -> LaunchRecord:
        """A copy whose chain is one record longer."""
        line = chain.make_line(
            job_uid=self.job.uid,
            seq=len(self.audit) + 1,
            prev=self.head,
            kind=kind,
            time=time,
            data=data,
        )
        return self.with_changes(audit=(*self.audit, line))

    def failed(self, reason: str, message: str, time: str) -> LaunchRecord:
        """A copy that has failed for good, with its audit record; a terminal record is kept."""
        if self.terminal:
            return self
        failure = Failure(reason=reason, message=message)
        return self.with_changes(phase="Failed", failure=failure, finished=time).appended(
            "job.failed", time, {"reason": reason, "message": message}
        )


Change = Callable[[LaunchRecord], LaunchRecord]
"""A pure change of a record; it returns its argument where it does not apply, or raises."""
