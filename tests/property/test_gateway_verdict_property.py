"""The verdict: certified exactly if every gate holds on a finite, plainly written value."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from securetrain.api.types import Gate, Metric
from securetrain_operator.core.verdict import judge, missed_lines

names = st.sampled_from(["accuracy", "loss", "auc"])
bounds = st.floats(-10, 10)
gates = st.builds(
    lambda metric, one, other: Gate(metric=metric, min=min(one, other), max=max(one, other)),
    names,
    bounds,
    bounds,
)
metrics = st.lists(
    st.builds(
        Metric,
        name=names,
        value=bounds.map(repr) | st.sampled_from(["nan", "inf", "-inf", "1e999", "", "1_0", " 1"]),
    ),
    max_size=4,
)


def value_of(found: list[Metric], name: str) -> float:
    values = [metric.value for metric in found if metric.name == name]
    plain = len(values) == 1 and values[0] not in ("", "1_0", " 1")
    return float(values[0]) if plain else math.nan


@given(found=metrics, wanted=st.lists(gates, max_size=3), owners=st.lists(gates, max_size=2))
def test_certified_only_if_every_gate_holds(
    found: list[Metric], wanted: list[Gate], owners: list[Gate]
) -> None:
    verdict = judge(found, wanted, owners)
    held = [gate.passes(value_of(found, gate.metric)) for gate in (*wanted, *owners)]
    expected = "evaluated" if not held else "certified" if all(held) else "gatesMissed"
    assert verdict.outcome == expected
    assert bool(missed_lines(verdict.gates)) == (expected == "gatesMissed")


@given(found=metrics)
def test_no_gates_never_certify(found: list[Metric]) -> None:
    assert judge(found).outcome == "evaluated"


@given(gate=gates)
def test_a_missing_or_doubled_metric_misses(gate: Gate) -> None:
    for value in (gate.min, gate.max):
        twice = [Metric(name=gate.metric, value=str(value))] * 2
        assert judge(twice, [gate]).outcome == "gatesMissed"
    assert judge([], [gate]).outcome == "gatesMissed"
