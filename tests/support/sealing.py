"""Small real datasets, sealed by the real command under the real Vault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from localcluster.platform import ROOT, Platform

DIGITS = ROOT / "examples/digits/digits.npz"


def some_digits(path: Path, count: int, *, marker: bytes = b"") -> Path:
    """The first digits as an npz file; a marker, if given, is written into every 20th image."""
    with np.load(DIGITS) as data:
        images, labels = data["images"][:count].copy(), data["labels"][:count]
    if marker:
        flat = images.reshape(count, -1)
        flat[::20, 300 : 300 + len(marker)] = np.frombuffer(marker, np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


def seal(platform: Platform, namespace: str, source: Path, name: str, **policy: Any) -> Path:
    """Seal a file for a namespace and hand it over to its volume as `name`."""
    folder = platform.work / "sealed" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    models = f"{namespace}-models"
    text = platform.run(
        "securetrain", "new", "policy", "--namespace", namespace, "--output-kek", models
    ).stdout
    rules = folder.with_suffix(".policy.json")
    rules.write_text(json.dumps({**json.loads(text), **policy}))
    kek = f"{namespace}-digits"
    platform.run(
        "securetrain", "seal", str(source), str(folder), "--kek", kek, "--policy", str(rules)
    )
    platform.hand_over(folder, namespace, name)
    return folder


def job(platform: Platform, namespace: str, name: str, dataset: str, **changes: Any) -> Path:
    """A manifest of a small quick job; `changes` replace parts of its spec."""
    spec = {
        "datasets": [{"name": "digits", "uri": f"pvc://datasets/{dataset}"}],
        "model": {"architecture": "mlp"},
        "training": {"epochs": 1},
        "output": {"uri": f"pvc://models/{name}", "kek": f"{namespace}-models"},
        **changes,
    }
    manifest = {
        "apiVersion": "securetrain.dev/v1alpha1",
        "kind": "SecureTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    path = platform.work / f"{name}.json"
    path.write_text(json.dumps(manifest))
    return path
