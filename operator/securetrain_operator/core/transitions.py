"""The reconciler's changes of a launch record, each a pure function from record to record.

A change looks at the newest record and returns it untouched where it no longer applies, so that a
repeated or overtaken action does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from securetrain.api.gateway import JobRef
from securetrain.api.names import Purpose
from securetrain.audit import chain
from securetrain_operator.core.record import Change, ChildRecord, Failure, LaunchRecord
from securetrain_operator.errors import Conflict

FINISHED = "job.finished"


def accepted(job: JobRef, spec_sha256: str, time: str) -> LaunchRecord:
    """A new job's record."""
    record = LaunchRecord(job=job, spec_sha256=spec_sha256, waiting_since=time)
    return record.appended(
        "job.accepted",
        time,
        {"namespace": job.namespace, "name": job.name, "specSha256": spec_sha256},
    )


def failed(reason: str, message: str, time: str, unless_results: Purpose | None = None) -> Change:
    """The job has failed, unless it has ended already or the results of a phase have arrived."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if unless_results is not None and unless_results in record.results:
            return record
        return record.failed(reason, message, time)

    return change


def launching(purpose: Purpose, time: str) -> Change:
    """A child Job is about to be made; raises Conflict if it must not be any more."""

    def change(record: LaunchRecord) -> LaunchRecord:
        _must_launch(record, purpose)
        data = {"purpose": str(purpose), "attempt": record.attempt}
        if record.audit and _says(record.audit[-1], f"{purpose}.launching", data):
            return record
        return record.appended(f"{purpose}.launching", time, data)

    return change


def launched(purpose: Purpose, child: ChildRecord, image: str) -> Change:
    """A child Job was made and its pods may get keys; raises Conflict if none is wanted now."""

    def change(record: LaunchRecord) -> LaunchRecord:
        _must_launch(record, purpose)
        data = {
            "purpose": str(purpose),
            "attempt": record.attempt,
            "childUid": child.uid,
            "templateDigest": child.template_digest,
            "image": image,
        }
        return record.with_changes(
            phase="Training" if purpose is Purpose.TRAIN else "Certifying",
            started=record.started or child.launched,
            children={**record.children, purpose: child},
        ).appended(f"{purpose}.launched", child.launched, data)

    return change


def forgotten(purpose: Purpose, uid: str, time: str) -> Change:
    """A child Job is gone without a result; a new attempt may be made."""

    def change(record: LaunchRecord) -> LaunchRecord:
        overtaken = record.terminal or (purpose is Purpose.TRAIN and purpose in record.results)
        if overtaken or not _is_current(record, purpose, uid):
            return record
        again = _without_child(record, purpose)
        if purpose is Purpose.TRAIN:
            again = again.with_changes(attempt=record.attempt + 1)
        return again.appended(f"{purpose}.lost", time, {"childUid": uid})

    return change


def suspended(time: str) -> Change:
    """Training is suspended and its Job is gone."""

    def change(record: LaunchRecord) -> LaunchRecord:
        running = record.phase in ("Pending", "Training") and Purpose.TRAIN not in record.results
        if not running or record.waiting_since is None:
            return record
        resting = _without_child(record, Purpose.TRAIN).with_changes(waiting_since=None)
        return resting.appended("train.suspended", time, {"attempt": record.attempt})

    return change


def resumed(time: str) -> Change:
    """Training is wanted again."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.terminal or record.waiting_since is not None:
            return record
        again = record.with_changes(waiting_since=time, attempt=record.attempt + 1)
        return again.appended("train.resumed", time, {"attempt": again.attempt})

    return change


def certifying(time: str) -> Change:
    """Training is over and its results are in."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.phase != "Training" or Purpose.TRAIN not in record.results:
            return record
        data = {"attempt": record.attempt}
        return record.with_changes(phase="Certifying").appended("train.finished", time, data)

    return change


def succeeded(time: str) -> Change:
    """The model is certified or evaluated, signed and stored."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.phase != "Certifying" or record.verdict is None or not record.verdict.bundle:
            return record
        data = {"outcome": "Succeeded", "verdict": record.verdict.outcome}
        return record.with_changes(phase="Succeeded", finished=time).appended(FINISHED, time, data)

    return change


def deleted(time: str) -> Change:
    """Somebody deleted the job before it had ended."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.terminal:
            return record
        data = {"phase": record.phase, "attempt": record.attempt}
        failure = Failure(reason="Deleted", message="the job was deleted before it had ended")
        ended = record.with_changes(phase="Failed", failure=failure, finished=time)
        return ended.appended("job.deleted", time, data)

    return change


def closed(time: str) -> Change:
    """The last record of a job that has ended; whoever ended it may have left it open."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if not record.terminal or is_closed(record):
            return record
        reason = record.failure.reason if record.failure else record.phase
        return record.appended(FINISHED, time, {"outcome": record.phase, "reason": reason})

    return change


def head_signed(head: str, envelope: str) -> Change:
    """The final head is signed; a signature over an older head is not kept."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.head_signature is not None or record.head != head:
            return record
        return record.with_changes(head_signature=envelope)

    return change


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a grant's wrapping tokens, by the names of their keys."""

    spent: tuple[str, ...] = ()
    """Somebody unwrapped them: the pod, or a thief."""
    burnt: tuple[str, ...] = ()
    """Nobody had, and now nobody can."""
    unknown: tuple[str, ...] = ()
    """They had run out, or their tokens are not known any more."""


def grant_lost(pod_uid: str, fate: Fate, time: str) -> Change:
    """A pod gave up after its grant; noted once."""

    def change(record: LaunchRecord) -> LaunchRecord:
        lost = next((g for g in record.grants if g.pod_uid == pod_uid and not g.lost), None)
        if lost is None or is_closed(record):
            return record
        noted = lost.model_copy(update={"lost": True})
        data = {
            "podUID": pod_uid,
            "podName": lost.pod_name,
            "spent": list(fate.spent),
            "burnt": list(fate.burnt),
            "unknown": list(fate.unknown),
        }
        grants = tuple(noted if grant is lost else grant for grant in record.grants)
        return record.with_changes(grants=grants).appended("grant.lost", time, data)

    return change


def is_closed(record: LaunchRecord) -> bool:
    """True if the chain has its last record."""
    kinds = (chain.parse_line(line).type for line in reversed(record.audit))
    return chain.TYPE_PREFIX + FINISHED in kinds


def _must_launch(record: LaunchRecord, purpose: Purpose) -> None:
    phases = ("Pending", "Training") if purpose is Purpose.TRAIN else ("Certifying",)
    resting = purpose is Purpose.TRAIN and record.waiting_since is None
    if record.phase not in phases or purpose in record.children or resting:
        raise Conflict(f"job {record.job.name} moved on: no {purpose} Job is wanted now")


def _is_current(record: LaunchRecord, purpose: Purpose, uid: str) -> bool:
    child = record.children.get(purpose)
    return child is not None and child.uid == uid


def _without_child(record: LaunchRecord, purpose: Purpose) -> LaunchRecord:
    children = {key: child for key, child in record.children.items() if key != purpose}
    phase = "Pending" if purpose is Purpose.TRAIN else record.phase
    return record.with_changes(children=children, phase=phase)


def _says(line: str, kind: str, data: dict[str, object]) -> bool:
    found = chain.parse_line(line)
    return found.type == chain.TYPE_PREFIX + kind and data.items() <= found.data.items()
