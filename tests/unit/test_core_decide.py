"""`decide` as a table: what was seen, and what is then to be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from securetrain.api.gateway import ResultsRequest
from securetrain.api.names import Purpose
from securetrain.api.types import MAX_GRANTS
from securetrain.errors import VaultSealed
from securetrain_operator.core import plan, transitions
from securetrain_operator.core.decide import decide
from securetrain_operator.core.observed import Child, Observed, Preconditions, parse_job
from securetrain_operator.core.record import ChildRecord, GrantRecord, LaunchRecord, VerdictRecord
from securetrain_operator.core.status import status_of
from support.world import FILES, NAMESPACE, TIME, job_object, settings, waiting

NOW = 1_800_000_000.0
TRAIN, CERTIFY = Purpose.TRAIN, Purpose.CERTIFY
RESULTS = {purpose: ResultsRequest(purpose=purpose, files=FILES) for purpose in Purpose}


def job(deleting: bool = False, **spec: Any) -> Any:
    item = job_object(**spec)
    item["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": TIME, "generation": 1}
    if deleting:
        item["metadata"]["deletionTimestamp"] = TIME
    return parse_job(item)


def record(**changes: Any) -> LaunchRecord:
    made = transitions.accepted(job().ref, job().spec_sha256, TIME)
    return made.with_changes(**changes)


def known(purpose: Purpose) -> dict[Purpose, ChildRecord]:
    child = ChildRecord(
        name=f"stj-digits-v7-{purpose}",
        uid=f"{purpose}-uid",
        template={},
        template_digest="sha256:" + "0" * 64,
        launched=TIME,
    )
    return {purpose: child}


def child(purpose: Purpose, state: str = "active", **changes: Any) -> dict[Purpose, Child]:
    made = Child(f"stj-digits-v7-{purpose}", f"{purpose}-uid", "active", created=NOW)
    return {purpose: replace(made, **({"state": state} | changes))}


def running(purpose: Purpose, **changes: Any) -> LaunchRecord:
    phase = "Training" if purpose is TRAIN else "Certifying"
    return record(phase=phase, children=known(purpose), **changes)


def verdict(outcome: str, bundle: str | None) -> VerdictRecord:
    return VerdictRecord.model_validate({"outcome": outcome, "bundle": bundle})


def failed() -> LaunchRecord:
    return record().failed("PolicyDenied", "no", TIME)


def names_of(observed: Observed, **changes: Any) -> list[str]:
    actions = decide(observed, settings(**changes), NOW).actions
    return [
        f"{type(a).__name__}:{a.diagnosis.reason}"
        if isinstance(a, plan.MarkFailed)
        else type(a).__name__
        for a in actions
    ]


LAUNCH = ["EnsureAccount", "EnsureNetworkPolicy", "LaunchJob"]

TABLE = {
    "a new job is accepted": (Observed(job(), None), ["CreateRecord"]),
    "a bad spec": (
        Observed(job(model={}), None),
        ["CreateRecord", "MarkFailed:SpecInvalid"],
    ),
    "a deleted job": (Observed(job(deleting=True), record()), []),
    "all is there": (Observed(job(), record()), LAUNCH),
    "a stray Job": (Observed(job(), record(), children=child(TRAIN)), ["DeleteChild", *LAUNCH]),
    "a stray Job on its way out": (
        Observed(job(), record(), children=child(TRAIN, deleting=True)),
        [],
    ),
    "training": (Observed(job(), running(TRAIN), children=child(TRAIN)), []),
    "another Job in the place of ours": (
        Observed(job(), running(TRAIN), children=child(TRAIN, uid="another")),
        ["ForgetChild"],
    ),
    "the train Job is gone": (Observed(job(), running(TRAIN)), ["ForgetChild"]),
    "gone after its results": (
        Observed(job(), running(TRAIN, results=RESULTS)),
        ["AdvancePhase"],
    ),
    "trained": (
        Observed(job(), running(TRAIN, results=RESULTS), children=child(TRAIN, "complete")),
        ["AdvancePhase"],
    ),
    "complete without results": (
        Observed(job(), running(TRAIN), children=child(TRAIN, "complete")),
        ["MarkFailed:ResultsMissing"],
    ),
    "train failed": (
        Observed(job(), running(TRAIN), children=child(TRAIN, "failed", reason="DeadlineExceeded")),
        ["MarkFailed:DeadlineExceeded"],
    ),
    "train failed after its results": (
        Observed(
            job(),
            running(TRAIN, results=RESULTS),
            children=child(TRAIN, "failed", reason="PodFailurePolicy"),
        ),
        ["AdvancePhase"],
    ),
    "certify is launched": (Observed(job(), record(phase="Certifying")), LAUNCH),
    "certify lost its Job": (Observed(job(), running(CERTIFY)), ["ForgetChild"]),
    "certified": (
        Observed(
            job(),
            running(CERTIFY, results=RESULTS, verdict=verdict("certified", "{}")),
            children=child(CERTIFY, "complete"),
        ),
        ["Finish"],
    ),
    "certified but unsigned": (
        Observed(
            job(),
            running(CERTIFY, results=RESULTS, verdict=verdict("certified", None)),
            children=child(CERTIFY, "complete"),
        ),
        ["MarkFailed:SignatureMissing"],
    ),
    "gates missed": (
        Observed(
            job(),
            running(CERTIFY, results=RESULTS, verdict=verdict("gatesMissed", None)),
            children=child(CERTIFY, "failed"),
        ),
        ["MarkFailed:GatesMissed"],
    ),
    "suspended while training": (
        Observed(job(suspend=True), running(TRAIN), children=child(TRAIN)),
        ["DeleteChild", "Suspend"],
    ),
    "suspended at rest": (Observed(job(suspend=True), record(waiting_since=None)), []),
    "suspended too late": (
        Observed(
            job(suspend=True), running(TRAIN, results=RESULTS), children=child(TRAIN, "complete")
        ),
        ["AdvancePhase"],
    ),
    "resumed": (Observed(job(), record(waiting_since=None)), ["Resume"]),
    "the deadline changed": (
        Observed(job(activeDeadlineSeconds=9), running(TRAIN), children=child(TRAIN)),
        ["SetDeadline"],
    ),
    "ended by the gateway": (Observed(job(), failed()), ["CloseAudit"]),
    "ended and closed": (Observed(job(), transitions.closed(TIME)(failed())), ["SignHead"]),
    "ended with a stray Job": (
        Observed(job(), transitions.closed(TIME)(failed()), children=child(TRAIN)),
        ["DeleteChild", "SignHead"],
    ),
    "ended, closed and signed": (
        Observed(job(), transitions.closed(TIME)(failed()).with_changes(head_signature="{}")),
        [],
    ),
}


@pytest.mark.parametrize(("observed", "wanted"), TABLE.values(), ids=TABLE.keys())
def test_what_is_seen_decides_what_is_done(observed: Observed, wanted: list[str]) -> None:
    assert names_of(observed) == wanted


WAITING = {
    "NamespaceNotEnabled": (Preconditions(namespace_enabled=False), {}),
    "ClaimMissing": (Preconditions(missing_claims=("datasets",)), {}),
    "GuardMissing": (Preconditions(missing_guards=("securetrain-job",)), {}),
    "VaultSealed": (Preconditions(vault_fault=VaultSealed("sealed")), {}),
    "VaultConnectionUnknown": (Preconditions(), {"vaultConnectionRef": {"name": "other"}}),
}


@pytest.mark.parametrize("purpose_phase", ["Pending", "Certifying"])
@pytest.mark.parametrize(("reason", "seen"), WAITING.items(), ids=WAITING.keys())
def test_what_a_launch_waits_for(
    reason: str, seen: tuple[Preconditions, dict[str, Any]], purpose_phase: str
) -> None:
    preconditions, spec = seen
    wanted = job(**spec)
    accepted = transitions.accepted(wanted.ref, wanted.spec_sha256, TIME)
    observed = Observed(wanted, accepted.with_changes(phase=purpose_phase), preconditions)
    found = decide(observed, settings(), NOW)
    assert found.actions == ()
    assert found.waiting is not None
    assert found.waiting.reason == reason
    assert found.waiting.fix or reason == "VaultSealed"
    assert found.again_after == settings().resync_seconds


def test_a_connection_of_another_namespace_is_waited_for() -> None:
    elsewhere = (
        settings().vault_connections[0].model_copy(update={"allowed_namespaces": ("team-b",)})
    )
    found = decide(
        Observed(job(), record()),
        settings().model_copy(update={"vault_connections": (elsewhere,)}),
        NOW,
    )
    assert found.actions == ()
    assert found.waiting is not None
    assert found.waiting.reason == "VaultConnectionNotAllowed"


def test_missing_guards_do_not_matter_where_the_settings_say_so() -> None:
    observed = Observed(job(), record(), Preconditions(missing_guards=("securetrain-job",)))
    assert names_of(observed, requireGuards=False) == LAUNCH


def pod(uid: str, owner: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": uid,
            "uid": uid,
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "status": status,
    }


def grants(count: int) -> tuple[GrantRecord, ...]:
    return tuple(
        GrantRecord(
            pod_uid=f"pod-{n}", pod_name="p", pod_ip="", purpose=TRAIN, time=TIME, keys=("model",)
        )
        for n in range(count)
    )


@pytest.mark.parametrize(
    ("count", "phase", "exhausted"),
    [(9, "Failed", False), (10, "Running", False), (10, "Succeeded", False), (10, "Failed", True)],
)
def test_grants_run_out_only_when_no_pod_with_keys_is_left(
    count: int, phase: str, exhausted: bool
) -> None:
    observed = Observed(
        job(),
        running(TRAIN, grants=grants(count)),
        children=child(TRAIN),
        pods=tuple(pod(f"pod-{n}", "train-uid", phase=phase) for n in range(count)),
    )
    assert names_of(observed) == (["MarkFailed:GrantsExhausted"] if exhausted else [])


def test_grants_of_an_earlier_attempt_do_not_count() -> None:
    used = running(TRAIN, grants=grants(10), attempt=2)
    assert names_of(Observed(job(), used, children=child(TRAIN))) == []


def test_a_status_shows_the_latest_grants_as_far_as_there_is_room() -> None:
    many = grants(MAX_GRANTS + 1)
    shown = status_of(Observed(job(), running(TRAIN, grants=many)), None, NOW).grants
    assert [grant.pod_uid for grant in shown] == [grant.pod_uid for grant in many[1:]]


def test_a_pod_of_another_job_says_nothing_about_ours() -> None:
    bad = pod("x", "another", containerStatuses=[waiting("ImagePullBackOff")])
    observed = Observed(job(), running(TRAIN), children=child(TRAIN), pods=(bad,))
    found = decide(observed, settings(), NOW)
    assert found.waiting is not None
    assert found.waiting.reason == "PodStarting"


def test_launching_is_audited_once_per_attempt_however_often_it_is_tried() -> None:
    first = transitions.launching(TRAIN, TIME)(record())
    assert transitions.launching(TRAIN, "2027-01-15T09:00:00Z")(first) is first


def test_changes_that_come_too_late_change_nothing() -> None:
    ended = transitions.closed(TIME)(failed())
    for change in (
        transitions.failed("Other", "other", TIME),
        transitions.forgotten(TRAIN, "train-uid", TIME),
        transitions.suspended(TIME),
        transitions.resumed(TIME),
        transitions.certifying(TIME),
        transitions.succeeded(TIME),
        transitions.closed(TIME),
    ):
        assert change(ended) is ended


def test_a_head_that_has_grown_is_not_given_an_old_signature() -> None:
    closed = transitions.closed(TIME)(failed())
    grown = closed.appended("other", TIME, {})
    assert transitions.head_signed(closed.head, "{}")(grown) is grown
