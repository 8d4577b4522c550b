"""Measures of a classifier: pure functions of logits and labels.

Published values are decimals of six places, and gates are judged on the published value, so that
the pod, the operator and anyone who reads the report come to the same verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from securetrain.api import rules
from securetrain.api.types import Gate, Metric
from securetrain.errors import InvalidInput

METRICS: Final = tuple(rules.METRICS)
BINS: Final = 15
PLACES: Final = 6
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model shows on one split.

    `confusion` holds (i, j, n): n > 0 examples of class i were taken for class j.
    A class without examples has no accuracy (None) and does not count for the worst or the mean.
    """

    records: int
    accuracy: float
    loss: float
    macro_recall: float
    worst_class_accuracy: float
    expected_calibration_error: float
    class_records: tuple[int, ...]
    class_accuracy: tuple[float | None, ...]
    confusion: tuple[tuple[int, int, int], ...]

    def metrics(self) -> tuple[Metric, ...]:
        """The published values, in the order of `METRICS`."""
        values = (
            self.accuracy,
            self.loss,
            self.macro_recall,
            self.worst_class_accuracy,
            self.expected_calibration_error,
        )
        return tuple(
            Metric(name=name, value=decimal(value))
            for name, value in zip(METRICS, values, strict=True)
        )


@dataclass(frozen=True, slots=True)
class GateResult:
    """The outcome of one gate."""

    gate: Gate
    value: str
    passed: bool

    @property
    def sentence(self) -> str:
        """Such as `accuracy 0.951000, wanted ≥ 0.97`."""
        return f"{self.gate.metric} {self.value}, wanted {self.gate.rule}"


def decimal(value: float) -> str:
    """A metric as published; `nan` or `inf` if it is not finite, which passes no gate."""
    return f"{value:.{PLACES}f}"


def check_gates_known(gates: Iterable[Gate]) -> None:
    """Refuse gates on metrics that nobody will measure; raises InvalidInput."""
    for gate in gates:
        if gate.metric not in METRICS:
            raise InvalidInput(
                "certification.gates.metric",
                gate.metric,
                "is not measured",
                fix=f"use one of {', '.join(METRICS)}",
            )


def judge(gates: Sequence[Gate], metrics: Sequence[Metric]) -> tuple[GateResult, ...]:
    """Compare published metrics with gates; a metric that is absent fails its gate."""
    values = {metric.name: metric.value for metric in metrics}
    results = []
    for gate in gates:
        value = values.get(gate.metric, "nan")
        results.append(GateResult(gate, value, gate.passes(float(value))))
    return tuple(results)


def measure(logits: Floats, labels: Integers, classes: int) -> Evaluation:
    """Evaluate.

    Args:
        logits: [n, classes], n ≥ 1.
        labels: [n], each in 0 … classes-1.
        classes: number of classes.
    """
    logits = logits.astype(np.float64)
    predicted = logits.argmax(axis=1)
    correct = predicted == labels
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[correct], minlength=classes)
    recalls = np.divide(hits, totals, where=totals > 0, out=np.zeros(classes))
    present = recalls[totals > 0]
    log_likelihood = log_softmax(logits)
    return Evaluation(
        records=len(labels),
        accuracy=float(correct.mean()),
        loss=float(-log_likelihood[np.arange(len(labels)), labels].mean()),
        macro_recall=float(present.mean()),
        worst_class_accuracy=float(present.min()),
        expected_calibration_error=calibration_error(np.exp(log_likelihood.max(axis=1)), correct),
        class_records=tuple(int(n) for n in totals),
        class_accuracy=tuple(
            float(recall) if n else None for recall, n in zip(recalls, totals, strict=True)
        ),
        confusion=_confusion(labels, predicted, classes),
    )


def _confusion(
    labels: Integers, predicted: Integers, classes: int
) -> tuple[tuple[int, int, int], ...]:
    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    return tuple(
        (int(cell) // classes, int(cell) % classes, int(n))
        for cell, n in zip(cells, counts, strict=True)
    )


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of the probabilities, [n, classes], without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over `BINS` bins of equal width of the top confidence."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def predict(model: Any, batches: Iterable[tuple[Any, Any]]) -> tuple[Floats, Integers]:
    """Logits [n, classes] and labels [n] of all batches; float32 arithmetic, no dropout."""
    logits: list[Any] = []
    labels: list[Any] = []
    for images, batch_labels in batches:
        logits.append(np.asarray(model(images, training=False)))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(logits).astype(np.float64), np.concatenate(labels)
