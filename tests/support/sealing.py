"""Small real datasets, sealed by the real command under the real Vault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from localcluster.platform import ROOT, Platform

DIGITS = ROOT / "examples/digits/digits.npz"
MARKER = b"\x5aPLAINTEXT-MARKER-7f3a91c4e2\x5a"
"""Lies in the pixels of all data that the end-to-end tests train on."""
MEMORY = {"memory": "1536Mi"}
SMALL = {"resources": {"requests": {"cpu": "450m"}, "limits": MEMORY}}
"""As much as lets a node of two cores start three pods at once, and no more."""
IDLE = {"resources": {"requests": {"cpu": "10m"}, "limits": MEMORY}}
"""For a pod that leaves the node to others once it runs, and for copies of it."""


def some_digits(path: Path, count: int) -> Path:
    """The first digits as an npz file, the marker in every 20th image."""
    with np.load(DIGITS) as data:
        images, labels = data["images"][:count].copy(), data["labels"][:count]
    flat = images.reshape(count, -1)
    flat[::20, 300 : 300 + len(MARKER)] = np.frombuffer(MARKER, np.uint8)
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


def manifest(namespace: str, name: str, dataset: str, **changes: Any) -> dict[str, Any]:
    """A small quick job; `changes` replace parts of its spec."""
    spec = {
        "datasets": [{"name": "digits", "uri": f"pvc://datasets/{dataset}"}],
        "model": {"architecture": "mlp"},
        "training": {"epochs": 1},
        "certification": SMALL,
        "output": {"uri": f"pvc://models/{name}", "kek": f"{namespace}-models"},
        "pod": SMALL,
        **changes,
    }
    return {
        "apiVersion": "securetrain.dev/v1alpha1",
        "kind": "SecureTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
