"""`status` of a SecureTrainingJob as pydantic models: a view of the launch record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from securetrain.api.types import MAX_GRANTS, REASON, GateStatus, Metric, Model, Phase


class Condition(Model):
    """A status condition in the form that kstatus, Argo CD and Flux read."""

    type: Annotated[str, Field(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(pattern=REASON, max_length=64)]
    message: Annotated[str, Field(max_length=1024)]
    observed_generation: int | None = None
    last_transition_time: str


class Attempts(Model):
    """Pods that were started so far."""

    train: int = 0
    certify: int = 0


class ProgressStatus(Model):
    """Progress as last reported by a pod, written at most every 15 seconds."""

    summary: Annotated[str, Field(max_length=64)]
    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: int | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()
    last_updated_time: str


class ChildStatus(Model):
    """A child Job as it was launched."""

    role: str
    name: str
    uid: str
    template_digest: str


class GrantStatus(Model):
    """Keys that one pod was given."""

    pod_uid: Annotated[str, Field(alias="podUID")]
    pod_name: str
    role: str
    time: str


class DatasetStatus(Model):
    """A dataset as pinned at the first grant."""

    name: str
    id: str | None = None
    digest: str | None = None
    policy_digest: str | None = None
    records: int | None = None


class ModelStatus(Model):
    """The model that came out."""

    uri: str
    digest: str | None = None
    image: str | None = None
    spec_digest: str | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()


class AuditStatus(Model):
    """Length and head of the job's audit chain."""

    records: int
    head: str


class JobStatus(Model):
    """`status` of a SecureTrainingJob: a view of the launch record, never read back."""

    observed_generation: int | None = None
    phase: Phase | None = None
    start_time: str | None = None
    completion_time: str | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    attempts: Attempts | None = None
    progress: ProgressStatus | None = None
    jobs: Annotated[tuple[ChildStatus, ...], Field(max_length=4)] = ()
    grants: Annotated[tuple[GrantStatus, ...], Field(max_length=MAX_GRANTS)] = ()
    datasets: Annotated[tuple[DatasetStatus, ...], Field(max_length=16)] = ()
    model: ModelStatus | None = None
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=64)] = ()
    audit: AuditStatus | None = None
