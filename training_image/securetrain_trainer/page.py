"""`report.html`: the report for people, one self-contained page without scripts or other files.

Everything that comes from a report is escaped, because labels and names come from data owners and
users. The page is a pure function of the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

VERDICTS: Final = {
    "certified": ("Certified", "good", "All gates passed on data that training never saw."),
    "evaluated": ("Evaluated", "plain", "Measured on data that training never saw; no gates set."),
    "gatesMissed": ("Gates missed", "bad", "The model is stored sealed, and is not signed."),
}
Json = Mapping[str, Any]

MATRIX_CLASSES: Final = 32
"""Most classes for which the confusion matrix is drawn; beyond, the worst confusions are listed."""
LISTED: Final = 25
TITLES: Final[Mapping[str, str]] = {
    "accuracy": "Accuracy",
    "loss": "Loss",
    "macroRecall": "Macro recall",
    "worstClassAccuracy": "Worst class",
    "expectedCalibrationError": "Calibration error",
}
_POINT: Final = re.compile(r"valAccuracy\.([0-9]{1,6}) ([01]\.[0-9]{1,9})")


def render(report: Json) -> str:
    """The page of a report from `report.make_report`."""
    title, tone, sentence = VERDICTS[report["verdict"]]
    evaluation = report["evaluation"]
    labels = [entry["label"] for entry in evaluation["classes"]]
    template = Template((files("securetrain_trainer") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        job=escape(f"{report['job']['namespace']}/{report['job']['name']}"),
        verdict=title,
        tone=tone,
        sentence=sentence,
        cards=_cards(evaluation["metrics"]),
        gates=_gates(report["gates"]),
        records=str(evaluation["records"]),
        classes=_classes(evaluation["classes"]),
        confusion=_confusion(evaluation["confusion"], labels),
        curve=_curve(report["training"]),
        provenance=_provenance(report),
    )


def _cards(metrics: Sequence[Json]) -> str:
    return "".join(
        f'<div class="card"><span>{escape(TITLES.get(m["name"], str(m["name"])))}</span>'
        f"<b>{_short(m['value'])}</b></div>"
        for m in metrics
    )


def _gates(gates: Sequence[Json]) -> str:
    if not gates:
        return "<p class=quiet>The job set no gates.</p>"
    rows = "".join(
        f"<tr><td>{escape(g['metric'])}</td><td>{escape(g['rule'])}</td>"
        f"<td class=n>{escape(g['value'])}</td>"
        f"{_outcome(g['passed'])}</tr>"
        for g in gates
    )
    return (
        "<table><tr><th>Metric</th><th>Gate</th><th class=n>Value</th><th>Outcome</th></tr>"
        f"{rows}</table>"
    )


def _outcome(passed: bool) -> str:
    return "<td class=good>✓ passed</td>" if passed else "<td class=bad>✗ missed</td>"


def _classes(classes: Sequence[Json]) -> str:
    rows = []
    for entry in classes:
        value = entry["accuracy"]
        width = 100 * float(value or 0)
        bar = f'<div class=bar><i style="width:{width:.1f}%"></i></div>' if value else "no examples"
        rows.append(
            f"<tr><td>{escape(entry['label'])}</td><td class=n>{entry['records']}</td>"
            f"<td class=n>{_short(value)}</td><td class=wide>{bar}</td></tr>"
        )
    return (
        "<table><tr><th>Class</th><th class=n>Records</th><th class=n>Accuracy</th><th></th></tr>"
        f"{''.join(rows)}</table>"
    )


def _confusion(cells: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    if len(labels) > MATRIX_CLASSES:
        return _confusion_list(cells, labels)
    counts = {(row, column): count for row, column, count in cells}
    totals = [sum(counts.get((r, c), 0) for c in range(len(labels))) for r in range(len(labels))]
    head = "".join(f"<th scope=col>{escape(label)}</th>" for label in labels)
    body = []
    for row, label in enumerate(labels):
        squares = []
        for column in range(len(labels)):
            count = counts.get((row, column), 0)
            share = count / totals[row] if totals[row] else 0.0
            hue = "hit" if row == column else "miss"
            # Rare confusions must be visible beside the diagonal: the root lifts small shares.
            strength = share if row == column else share**0.5
            squares.append(
                f'<td class={hue} style="--s:{strength:.3f}" title="{escape(label)} taken for '
                f'{escape(labels[column])}: {count}">{count or ""}</td>'
            )
        body.append(f"<tr><th scope=row>{escape(label)}</th>{''.join(squares)}</tr>")
    return (
        "<div class=scroll><table class=matrix><tr><th class=corner>true ↓ &nbsp;said →</th>"
        f"{head}</tr>{''.join(body)}</table></div>"
    )


def _confusion_list(cells: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    worst = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
    rows = "".join(
        f"<tr><td>{escape(labels[row])}</td><td>{escape(labels[column])}</td>"
        f"<td class=n>{count}</td></tr>"
        for row, column, count in worst[:LISTED]
    )
    return f"<table><tr><th>True</th><th>Said</th><th class=n>Records</th></tr>{rows}</table>"


def _curve(training: Sequence[Json]) -> str:
    """Validation accuracy over epochs as inline SVG."""
    points = _points(training)
    if len(points) < 2:
        return "<p class=quiet>Fewer than two epochs are known.</p>"
    low = min(value for _, value in points)
    span = max(1.0 - low, 1e-6)
    first, last = points[0][0], points[-1][0]
    places = [
        (40 + 540 * (epoch - first) / max(1, last - first), 150 - 130 * (value - low) / span)
        for epoch, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3">'
        f"<title>epoch {epoch}: {value:.4f}</title></circle>"
        for (x, y), (epoch, value) in zip(places, points, strict=True)
    )
    return (
        '<svg viewBox="0 0 600 180" role="img" aria-label="Validation accuracy by epoch">'
        '<line x1="40" y1="20" x2="580" y2="20"/><line x1="40" y1="150" x2="580" y2="150"/>'
        f'<text x="34" y="24" text-anchor="end">1</text>'
        f'<text x="34" y="154" text-anchor="end">{low:.2f}</text>'
        f'<text x="40" y="172">epoch {first}</text>'
        f'<text x="580" y="172" text-anchor="end">epoch {last}</text>'
        f'<polyline points="{line}"/>{dots}</svg>'
    )


def _points(training: Sequence[Json]) -> list[tuple[int, float]]:
    """Epoch and validation accuracy; what a training pod wrote differently is left out."""
    points = []
    for metric in training:
        match = _POINT.fullmatch(f"{metric['name']} {metric['value']}")
        if match:
            points.append((int(match[1]), float(match[2])))
    return sorted(points)


def _provenance(report: Json) -> str:
    job, model, dataset = report["job"], report["model"], report["dataset"]
    parameters = ", ".join(f"{k} {v}" for k, v in sorted(model["parameters"].items()))
    records = ", ".join(f"{split} {n}" for split, n in dataset["records"].items())
    pairs = (
        ("Job UID", job["uid"]),
        ("Run (spec)", job["specSha256"]),
        ("Architecture", f"{model['architecture']} ({parameters or 'defaults'})"),
        ("Training", f"{model['epochs']} epochs, seed {model['seed']}"),
        ("Weights, sealed", model["sealedSha256"]),
        ("Weights, plaintext", model["plaintextSha256"]),
        ("Dataset", f"{dataset['name']} · {dataset['id']} · {records}"),
        ("dataset.json", dataset["sha256"]),
        ("policy.json", dataset["policySha256"]),
        ("Train image", report["images"]["train"]),
        ("Certify image", report["images"]["certify"]),
    )
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs)


def _short(value: str) -> str:
    """A decimal of four places for people; the exact one stands in report.json."""
    return escape(f"{float(value):.4f}") if value else "–"
