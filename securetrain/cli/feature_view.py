"""Features, classes and splits of a dataset, in the words and tables that people are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType

from securetrain.api.names import Split
from securetrain.cli import render
from securetrain.sealed.features import Feature, Task, image_name, inputs
from securetrain.sealed.ledger import Balance

SHOWN_CATEGORIES: Final = 6
SHOWN_CLASSES: Final = 20


def describe_features(features: Mapping[str, Feature], task: Task) -> str:
    """Features and task in one line, such as `image uint8 28×28×1 · label 10 classes`."""
    seen = inputs(features, task)
    image = image_name(features, task)
    if image is not None:
        encoded = " PNG/JPEG" if seen[image].encoding == "image" else ""
        first = f"{image} {seen[image].dtype} {_shape(seen[image])}{encoded}"
    else:
        named = sum(1 for feature in seen.values() if feature.categories)
        first = f"table {len(seen) - named} numeric, {named} categorical"
    return f"{first} · {task.label_name} {task.classes} classes"


def feature_table(features: Mapping[str, Feature], task: Task) -> RenderableType:
    """A row for each feature: what a model gets of it."""
    rows = [(name, *_row(feature)) for name, feature in inputs(features, task).items()]
    rows.append((task.label_name, "label", f"{task.classes} classes", _some(task.labels)))
    return render.table(("feature", "kind", "shape", ""), rows)


def balance_table(balance: Balance, task: Task) -> RenderableType:
    """A row for each class: how many records of it each split has."""
    columns = [balance.classes[split] for split in Split]
    rows = [
        (label, *(str(of[number]) for of in columns))
        for number, label in enumerate(task.labels[:SHOWN_CLASSES])
    ]
    if task.classes > SHOWN_CLASSES:
        rows.append((f"… {task.classes - SHOWN_CLASSES} more", *("" for _ in columns)))
    return render.table(("class", *Split), rows)


def split_line(balance: Balance) -> str:
    """Records of the splits, and copies, in one line."""
    parts = [f"{split} {balance.records[split]}" for split in Split]
    parts.append(f"duplicates: {balance.duplicates}")
    parts.append(f"duplicates across: {balance.duplicates_across}")
    return " · ".join(parts)


def warnings_of(balance: Balance) -> tuple[str, ...]:
    """What is odd about the data, as lines of a problem and its fix."""
    found: list[str] = []
    if balance.duplicates_across:
        found += [
            f"warning: {balance.duplicates_across} records lie in more than one split.",
            "fix: give copies of a record the same group key",
        ]
    if balance.contradictions:
        found += [
            f"warning: {balance.contradictions} records come with different labels.",
            "fix: decide which label is right and seal again",
        ]
    return tuple(found)


def data_value(
    features: Mapping[str, Feature], task: Task, balance: Balance, notes: Sequence[str]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "features": {name: feature.to_wire() for name, feature in sorted(features.items())},
        "task": task.to_wire(),
        "splits": balance.records,
        "classes": {
            label: {split: balance.classes[split][number] for split in Split}
            for number, label in enumerate(task.labels)
        },
        "duplicates": balance.duplicates,
        "duplicatesAcross": balance.duplicates_across,
        "contradictions": balance.contradictions,
        "notes": list(notes),
    }


def _row(feature: Feature) -> tuple[str, str, str]:
    if feature.is_image:
        kind = "PNG/JPEG" if feature.encoding == "image" else "pixels"
        return kind, _shape(feature), "others are scaled to it" if feature.resize else ""
    if feature.categories:
        shown = _some(feature.categories)
        return "categorical", f"{len(feature.categories)} categories", shown
    return "numeric", _shape(feature), ""


def _shape(feature: Feature) -> str:
    return "×".join(str(side) for side in feature.shape) or "1"


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > SHOWN_CATEGORIES else ""
    return ", ".join(names[:SHOWN_CATEGORIES]) + more
