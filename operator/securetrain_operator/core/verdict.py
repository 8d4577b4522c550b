"""The verdict on a model, recomputed from reported metrics: a pod's own is not believed.

Pure. The gates are those of the job and those that the data owner's policy demands; a gate passes
only on a finite value, and a metric that is missing misses its gate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from securetrain.api.types import Gate, GateStatus, Metric, Model

DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
MISSING: Final = "missing"
GATES_MISSED_FIX: Final = (
    "read report.html beside the sealed model; train differently under a new name"
)

Outcome = Literal["certified", "evaluated", "gatesMissed"]


class Verdict(Model):
    """What the metrics say about the gates."""

    outcome: Outcome
    gates: tuple[GateStatus, ...] = ()


def judge(metrics: Sequence[Metric], *gates: Sequence[Gate]) -> Verdict:
    """Compare reported metrics with gates.

    Args:
        metrics: what the certify pod reported; a metric that is named twice counts as missing.
        gates: the job's gates, and the data owner's.

    Returns:
        `evaluated` without gates, `gatesMissed` if one is missed, else `certified`.
    """
    wanted = tuple(dict.fromkeys(gate for group in gates for gate in group))
    results = tuple(_result(gate, metrics) for gate in wanted)
    if not results:
        return Verdict(outcome="evaluated")
    passed = all(result.passed for result in results)
    return Verdict(outcome="certified" if passed else "gatesMissed", gates=results)


def missed_lines(gates: Sequence[GateStatus]) -> tuple[str, ...]:
    """One line per missed gate, for people."""
    return tuple(
        f"{gate.metric} {gate.value} is not {gate.rule}" for gate in gates if not gate.passed
    )


def _result(gate: Gate, metrics: Sequence[Metric]) -> GateStatus:
    values = [metric.value for metric in metrics if metric.name == gate.metric]
    value = values[0] if len(values) == 1 else MISSING
    passed = bool(DECIMAL.fullmatch(value)) and gate.passes(float(value))
    return GateStatus(metric=gate.metric, rule=gate.rule, value=value, passed=passed)
