"""kstatus, restated from its documentation, is the judge of the conditions."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from securetrain.api.conditions import FACT_TYPES, Fact, conditions_for, read_conditions
from securetrain.api.status import Condition, JobStatus
from securetrain.api.types import REASON, Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
EXPECTED = {
    "Pending": "InProgress",
    "Training": "InProgress",
    "Certifying": "InProgress",
    "Succeeded": "Current",
    "Failed": "Failed",
    "Suspended": "Current",
}

phases = st.sampled_from(PHASES)
reasons = st.from_regex(REASON, fullmatch=True).filter(lambda text: len(text) <= 64)
facts = st.dictionaries(
    st.sampled_from(FACT_TYPES),
    st.builds(Fact, st.booleans(), reasons, st.text(max_size=1100)),
)
times = st.integers(0, 59).map(lambda second: f"2026-01-01T00:00:{second:02d}Z")


@st.composite
def histories(draw: st.DrawFn) -> tuple[Phase, int, tuple[Condition, ...]]:
    """Conditions as a chain of writes leaves them."""
    conditions: tuple[Condition, ...] = ()
    phase: Phase = "Pending"
    generation = 1
    for _ in range(draw(st.integers(1, 4))):
        phase, generation = draw(phases), draw(st.integers(1, 5))
        conditions = conditions_for(
            phase,
            draw(reasons),
            draw(st.text(max_size=1100)),
            draw(facts),
            conditions,
            generation,
            draw(times),
        )
    return phase, generation, conditions


def kstatus(generation: int, status: dict[str, Any]) -> str:
    """What kstatus says of an object that is not being deleted."""
    if status.get("observedGeneration", generation) != generation:
        return "InProgress"
    conditions = status.get("conditions", [])
    for condition in conditions:
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    ready = [c["status"] for c in conditions if c["type"] == "Ready"]
    return "InProgress" if ready and ready[0] != "True" else "Current"


@given(histories())
def test_kstatus_reads_every_history_as_its_last_phase(
    history: tuple[Phase, int, tuple[Condition, ...]],
) -> None:
    phase, generation, conditions = history
    status = JobStatus(observed_generation=generation, conditions=conditions).to_wire()
    assert kstatus(generation, status) == EXPECTED[phase]


@given(histories())
def test_a_list_is_always_valid(history: tuple[Phase, int, tuple[Condition, ...]]) -> None:
    phase, _, conditions = history
    types = [condition.type for condition in conditions]
    assert len(types) == len(set(types)) <= 16
    assert all(c.status == "True" for c in conditions if c.type in ("Reconciling", "Stalled"))
    assert not {"Reconciling", "Stalled"} <= set(types)
    assert ("Complete" in types) == (phase == "Succeeded")
    assert ("Failed" in types) == (phase == "Failed")
    assert ("Ready" in types) == (phase != "Suspended")
    assert all(len(condition.message) <= 1024 for condition in conditions)


@given(histories(), reasons, times)
def test_writing_the_same_phase_again_moves_no_transition_time(
    history: tuple[Phase, int, tuple[Condition, ...]], reason: str, now: str
) -> None:
    phase, generation, conditions = history
    stored = read_conditions(JobStatus(conditions=conditions).to_wire())
    again = conditions_for(phase, reason, "", {}, stored, generation, now)
    before = {condition.type: condition.last_transition_time for condition in conditions}
    assert all(condition.last_transition_time == before[condition.type] for condition in again)
