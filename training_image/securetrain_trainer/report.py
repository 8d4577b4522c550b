"""The evaluation report: `report.json` in canonical form, the source of `report.html`.

It holds no time and nothing random, so that a certify pod that is repeated writes the same bytes.
Numbers that are not whole are decimals as text, as published and as judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from securetrain.api.digest import canonical_json
from securetrain.api.gateway import RunSpec
from securetrain.api.types import Metric
from securetrain.sealed.dataset import SealedDataset
from securetrain_trainer.evaluate import Evaluation, GateResult, decimal
from securetrain_trainer.phase import StoredModel

FORMAT: Final = "securetrain/report/v1"


def verdict_of(gates: Sequence[GateResult]) -> str:
    """`certified`, `evaluated` (there are no gates) or `gatesMissed`."""
    if not gates:
        return "evaluated"
    return "certified" if all(gate.passed for gate in gates) else "gatesMissed"


def make_report(
    run: RunSpec,
    dataset: SealedDataset,
    model: StoredModel,
    evaluation: Evaluation,
    gates: Sequence[GateResult],
) -> dict[str, Any]:
    """The report as a JSON value of strings, whole numbers, booleans, lists and objects."""
    manifest = dataset.manifest
    return {
        "format": FORMAT,
        "verdict": verdict_of(gates),
        "job": {
            "namespace": run.job.namespace,
            "name": run.job.name,
            "uid": run.job.uid,
            "specSha256": run.spec_sha256,
        },
        "model": {
            "architecture": run.model.architecture,
            "parameters": dict(run.model.parameters),
            "epochs": run.training.epochs,
            "seed": run.training.seed,
            "sealedSha256": model.manifest.weights.sha256,
            "plaintextSha256": model.manifest.weights.plaintext_sha256,
        },
        "dataset": {
            "name": run.dataset_name,
            "id": manifest.id,
            "sha256": dataset.manifest_sha256,
            "policySha256": dataset.policy_sha256,
            "records": {str(split): info.records for split, info in manifest.splits.items()},
        },
        "images": {"train": run.image, "certify": run.certify_image},
        "gates": [
            {
                "metric": result.gate.metric,
                "rule": result.gate.rule,
                "value": result.value,
                "passed": result.passed,
            }
            for result in gates
        ],
        "evaluation": _evaluation(evaluation, manifest.task.labels),
        "training": [_pair(metric) for metric in model.manifest.metrics],
    }


def report_bytes(report: dict[str, Any]) -> bytes:
    """Content of report.json: RFC 8785 JSON and a line feed."""
    return canonical_json(report) + b"\n"


def _evaluation(evaluation: Evaluation, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "split": "test",
        "records": evaluation.records,
        "metrics": [_pair(metric) for metric in evaluation.metrics()],
        "classes": [
            {
                "label": label,
                "records": records,
                "accuracy": "" if accuracy is None else decimal(accuracy),
            }
            for label, records, accuracy in zip(
                labels, evaluation.class_records, evaluation.class_accuracy, strict=True
            )
        ],
        "confusion": [list(cell) for cell in evaluation.confusion],
    }


def _pair(metric: Metric) -> dict[str, str]:
    return {"name": metric.name, "value": metric.value}
