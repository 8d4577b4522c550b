from __future__ import annotations

import pytest
from pydantic import ValidationError

from securetrain.api.conditions import Fact, conditions_for, cut, find, read_conditions
from securetrain.api.status import Condition, JobStatus
from securetrain.api.types import Phase

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def made(
    phase: Phase, previous: tuple[Condition, ...] = (), now: str = NOW
) -> tuple[Condition, ...]:
    facts = {"Accepted": Fact(True, "SpecAccepted"), "Certified": Fact(False, "NoGates", "none")}
    return conditions_for(phase, "SomeReason", "Some message.", facts, previous, 3, now)  # type: ignore[arg-type]


def shown(conditions: tuple[Condition, ...]) -> dict[str, str]:
    return {condition.type: condition.status for condition in conditions}


FACTS = {"Accepted": "True", "Certified": "False"}


@pytest.mark.parametrize(
    ("phase", "health"),
    [
        ("Pending", {"Ready": "False", "Reconciling": "True"}),
        ("Training", {"Ready": "False", "Reconciling": "True"}),
        ("Certifying", {"Ready": "False", "Reconciling": "True"}),
        ("Succeeded", {"Ready": "True", "Complete": "True"}),
        ("Failed", {"Ready": "False", "Stalled": "True", "Failed": "True"}),
        ("Suspended", {"Suspended": "True"}),
    ],
)
def test_each_phase_has_its_conditions(phase: Phase, health: dict[str, str]) -> None:
    assert shown(made(phase)) == health | FACTS


def test_reason_and_message_of_the_phase_are_on_its_conditions_and_facts_keep_theirs() -> None:
    ready, certified = find(made("Failed"), "Ready"), find(made("Failed"), "Certified")
    assert ready is not None
    assert certified is not None
    assert (ready.reason, ready.message) == ("SomeReason", "Some message.")
    assert (certified.reason, certified.message) == ("NoGates", "none")


def test_transition_time_changes_only_with_the_status() -> None:
    earlier = made("Pending", now=THEN)
    ready = find(made("Training", earlier), "Ready")
    assert ready is not None
    assert ready.last_transition_time == THEN
    done = find(made("Succeeded", earlier), "Ready")
    assert done is not None
    assert done.last_transition_time == NOW


def test_conditions_that_no_longer_hold_disappear() -> None:
    failed = made("Failed", made("Training"))
    assert find(failed, "Reconciling") is None
    assert find(made("Training", made("Suspended")), "Suspended") is None


def test_generation_is_on_every_condition() -> None:
    assert {condition.observed_generation for condition in made("Pending")} == {3}


def test_long_messages_are_cut_to_what_the_crd_takes() -> None:
    assert cut("x" * 1024) == "x" * 1024
    assert cut("x" * 1025) == "x" * 1023 + "…"


def test_a_reason_that_is_not_camel_case_is_refused() -> None:
    with pytest.raises(ValidationError):
        conditions_for("Pending", "not a reason", "", {}, (), 1, NOW)


def test_conditions_are_read_back_from_a_stored_status_and_broken_ones_are_not() -> None:
    status = JobStatus(conditions=made("Training")).to_wire()
    assert read_conditions(status) == made("Training")
    status["conditions"].append({"type": "Ready"})
    assert read_conditions(status) == made("Training")
    assert read_conditions(None) == ()
    assert read_conditions({}) == ()


def test_no_type_occurs_twice_whatever_was_there_before() -> None:
    doubled = made("Training") + made("Training")
    types = [condition.type for condition in made("Training", doubled)]
    assert len(types) == len(set(types))
