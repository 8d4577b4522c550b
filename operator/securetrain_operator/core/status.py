"""The status of a SecureTrainingJob: a view of the launch record and of what was seen, for people.

The last written status is only compared with, so that transition times stay and nothing is written
twice. It is read back to decide one thing: a job that was launched before is never launched anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from securetrain.api.conditions import (
    FACT_TYPES,
    Fact,
    FactType,
    conditions_for,
    read_conditions,
)
from securetrain.api.gateway import ProgressReport
from securetrain.api.names import Purpose
from securetrain.api.status import (
    Attempts,
    AuditStatus,
    ChildStatus,
    DatasetStatus,
    GrantStatus,
    JobStatus,
    ModelStatus,
    ProgressStatus,
)
from securetrain.api.types import MAX_GRANTS, Metric, Phase
from securetrain.signing import dsse
from securetrain.signing.statement import parse_statement
from securetrain_operator.core import times
from securetrain_operator.core.diagnose import (
    Diagnosis,
    from_error,
    is_running,
    one_line,
    record_lost,
)
from securetrain_operator.core.observed import Observed, wanted
from securetrain_operator.core.record import LaunchRecord

PROGRESS_SECONDS: Final = 15.0
"""Progress alone is written no more often than this."""
REFUSED_SPEC: Final = frozenset(
    {"SpecInvalid", "SpecChanged", "ImageNotAllowed", "ClaimNotAllowed"}
)

_RUNNING: Final[Mapping[Phase, Diagnosis]] = {
    "Pending": Diagnosis("Accepted", "the job is accepted and is about to be launched."),
    "Training": Diagnosis("Training", "the model is being trained."),
    "Certifying": Diagnosis("Certifying", "the stored model is being evaluated."),
    "Suspended": Diagnosis("Suspended", "spec.suspend is true.", "set it to false to go on"),
}
_KEYS_AHEAD: Final = Diagnosis("WaitingForKeys", "the pod runs and asks for its keys.")
_CALM: Final = frozenset(
    {found.reason for found in (*_RUNNING.values(), _KEYS_AHEAD)}
    | {"Certified", "Evaluated", "PodStarting", "PodEnding", "Queued", "ChildDeleting"}
)
"""Reasons that need nobody's attention: their Events are not warnings."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event to be."""

    reason: str
    message: str
    warning: bool


def status_of(observed: Observed, waiting: Diagnosis | None, now: float) -> JobStatus:
    """The whole status.

    Args:
        observed: the last look at the job.
        waiting: what it waits for, if anything.
        now: seconds since the epoch.
    """
    record = observed.record
    phase = phase_of(observed)
    headline = _headline(observed, phase, waiting)
    common = JobStatus(
        observed_generation=observed.job.generation,
        phase=phase,
        conditions=conditions_for(
            phase,
            headline.reason,
            headline.text,
            _facts(record) if record else _known_facts(observed),
            read_conditions(observed.job.status),
            observed.job.generation,
            times.rfc3339(now),
        ),
        progress=_progress(observed, phase),
    )
    if record is None:
        return _known(observed, common)
    return common.model_copy(update=_from_record(observed, record))


def phase_of(observed: Observed) -> Phase:
    """The phase that people see: a job whose first pod waits is Pending, not Training."""
    record, spec = observed.record, observed.job.spec
    if _untrusted(observed):
        return "Failed"
    if record is None:
        return "Suspended" if spec is not None and spec.suspend else "Pending"
    if record.phase == "Pending" and record.waiting_since is None:
        return "Suspended"
    if record.phase == "Training" and not _at_work(observed, record, Purpose.TRAIN):
        return "Pending"
    return record.phase


def to_write(old: Mapping[str, Any], new: Mapping[str, Any], now: float) -> float | None:
    """Seconds until the new status may be written (0: now); None if nothing has changed."""
    if old == new:
        return None
    rest = [{key: value for key, value in s.items() if key != "progress"} for s in (old, new)]
    if rest[0] != rest[1]:
        return 0.0
    return max(0.0, _written(old) + PROGRESS_SECONDS - now)


def notice(old: Mapping[str, Any], new: JobStatus) -> Notice | None:
    """The Event about a change of phase or of its reason."""
    before = (old.get("phase"), *(c.reason for c in read_conditions(old)[:1]))
    head = new.conditions[0]
    if before == (new.phase, head.reason):
        return None
    calm = new.phase != "Failed" and head.reason in _CALM
    return Notice(head.reason, head.message, not calm)


def _headline(observed: Observed, phase: Phase, waiting: Diagnosis | None) -> Diagnosis:
    record = observed.record
    if observed.broken is not None:
        return from_error(observed.broken)
    if observed.record_lost:
        return record_lost(observed.job.ref.uid)
    if record is not None and record.failure is not None:
        return Diagnosis(record.failure.reason, record.failure.message)
    if record is not None and phase == "Succeeded":
        return _success(record)
    if phase == "Suspended" or waiting is None:
        purpose = wanted(record)
        keyless = purpose and record and phase != "Pending" and not _granted(record, purpose)
        return _KEYS_AHEAD if keyless and phase != "Suspended" else _RUNNING[phase]
    return waiting


def _success(record: LaunchRecord) -> Diagnosis:
    verdict = record.verdict
    gates = verdict.gates if verdict else ()
    if not gates:
        return Diagnosis("Evaluated", "the model is evaluated and signed; the job sets no gates.")
    shown = ", ".join(f"{gate.metric} {gate.value} {gate.rule}" for gate in gates)
    return Diagnosis("Certified", f"the model is certified and signed: {shown}.")


def _facts(record: LaunchRecord) -> dict[FactType, Fact]:
    facts: dict[FactType, Fact] = {"Accepted": Fact(True, "SpecAccepted")}
    if record.failure is not None and record.failure.reason in REFUSED_SPEC:
        facts["Accepted"] = Fact(False, record.failure.reason, record.failure.message)
    if record.grants:
        facts["KeysGranted"] = Fact(True, "KeysGranted")
    if Purpose.TRAIN in record.results:
        facts["Trained"] = Fact(True, "ModelStored")
    if record.verdict is not None:
        facts["Certified"] = {
            "certified": Fact(True, "GatesPassed"),
            "evaluated": Fact(False, "NoGates", "The job sets no gates."),
            "gatesMissed": Fact(False, "GatesMissed"),
        }[record.verdict.outcome]
        signed = record.verdict.bundle is not None
        facts["Signed"] = Fact(signed, "ModelSigned" if signed else "NotSigned")
    return facts


def _untrusted(observed: Observed) -> bool:
    return observed.broken is not None or observed.record_lost


def _known(observed: Observed, common: JobStatus) -> JobStatus:
    """Without a record that can be trusted, what was shown before goes on being shown."""
    if not _untrusted(observed):
        return common
    try:
        old = JobStatus.model_validate(observed.job.status)
    except ValidationError:
        return common
    fresh = ("observed_generation", "phase", "conditions", "progress")
    return old.model_copy(update={name: getattr(common, name) for name in fresh})


def _known_facts(observed: Observed) -> dict[FactType, Fact]:
    if not _untrusted(observed):
        return {}
    old = {c.type: c for c in read_conditions(observed.job.status)}
    return {
        kind: Fact(old[kind].status == "True", old[kind].reason, old[kind].message)
        for kind in FACT_TYPES
        if kind in old
    }


def _from_record(observed: Observed, record: LaunchRecord) -> dict[str, Any]:
    return {
        "start_time": record.started,
        "completion_time": record.finished,
        "attempts": Attempts(
            train=_pods_started(observed, record, Purpose.TRAIN),
            certify=_pods_started(observed, record, Purpose.CERTIFY),
        ),
        "jobs": tuple(
            ChildStatus(role=purpose, name=c.name, uid=c.uid, template_digest=c.template_digest)
            for purpose in Purpose
            if (c := record.children.get(purpose))
        ),
        "grants": tuple(
            GrantStatus(pod_uid=g.pod_uid, pod_name=g.pod_name, role=g.purpose, time=g.time)
            for g in record.grants[-MAX_GRANTS:]
        ),
        "datasets": _datasets(record),
        "model": _model(observed, record),
        "gates": record.verdict.gates if record.verdict else (),
        "audit": AuditStatus(records=len(record.audit), head=record.head),
    }


def _pods_started(observed: Observed, record: LaunchRecord, purpose: Purpose) -> int:
    granted = {grant.pod_uid for grant in record.grants if grant.purpose is purpose}
    return len(granted | {pod["metadata"]["uid"] for pod in observed.pods_of(purpose)})


def _datasets(record: LaunchRecord) -> tuple[DatasetStatus, ...]:
    pinned = record.dataset
    if pinned is None:
        return ()
    return (
        DatasetStatus(
            name=pinned.name,
            id=pinned.id,
            digest=pinned.digest,
            policy_digest=pinned.policy_digest,
            records=pinned.records,
        ),
    )


def _model(observed: Observed, record: LaunchRecord) -> ModelStatus | None:
    results = record.results.get(Purpose.CERTIFY)
    spec = observed.job.spec
    if results is None or spec is None:
        return None
    bundle = record.verdict.bundle if record.verdict else None
    return ModelStatus(
        uri=spec.output.uri,
        digest=f"sha256:{_signed_digest(bundle)}" if bundle else None,
        image=spec.pod.image or "builtin",
        spec_digest=f"sha256:{record.spec_sha256}",
        metrics=results.metrics,
    )


def _signed_digest(bundle: str) -> str:
    envelope = dsse.parse_envelope(json.loads(bundle)["dsseEnvelope"])
    return parse_statement(envelope.payload).digest


def _progress(observed: Observed, phase: Phase) -> ProgressStatus | None:
    progress = _reported(observed)
    if progress is None or phase != "Succeeded":
        return progress
    done = {"summary": "done", "progress_percentage": 100, "estimated_remaining_seconds": 0}
    return progress.model_copy(update=done)


def _reported(observed: Observed) -> ProgressStatus | None:
    if observed.progress is None:
        return _old_progress(observed.job.status)
    report, time = observed.progress
    return ProgressStatus(
        summary=one_line(report.summary, 64),
        progress_percentage=report.percentage,
        estimated_remaining_seconds=report.remaining_seconds,
        metrics=_printable(report),
        last_updated_time=time,
    )


def _printable(report: ProgressReport) -> tuple[Metric, ...]:
    """Names and values come out of a container that may run a user's code."""
    return tuple(
        Metric(name=one_line(metric.name, 63), value=one_line(metric.value, 32))
        for metric in report.metrics
    )


def _old_progress(status: Mapping[str, Any]) -> ProgressStatus | None:
    """What was shown before the operator restarted; a job that has ended keeps it."""
    try:
        return ProgressStatus.model_validate(status["progress"])
    except (KeyError, ValidationError):
        return None


def _written(status: Mapping[str, Any]) -> float:
    old = _old_progress(status)
    try:
        return times.epoch(old.last_updated_time) if old else 0.0
    except ValueError:
        return 0.0


def _granted(record: LaunchRecord, purpose: Purpose) -> bool:
    return any(grant.purpose is purpose for grant in record.grants)


def _at_work(observed: Observed, record: LaunchRecord, purpose: Purpose) -> bool:
    running = any(is_running(pod) for pod in observed.pods_of(purpose))
    return running or _granted(record, purpose) or purpose in record.results
