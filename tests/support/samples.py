"""A SecureTrainingJob that the API server accepts, to be bent by tests."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

IMAGE = "registry.example.org/team-a/train@sha256:" + "c" * 64


def training_job(name: str = "digits-v7", namespace: str = "team-a", **spec: Any) -> Object:
    """A minimal job; keyword arguments replace fields of its spec."""
    return {
        "apiVersion": "securetrain.dev/v1alpha1",
        "kind": "SecureTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
            "model": {"architecture": "cnn"},
            "output": {"uri": f"pvc://models/{name}", "kek": "team-a-models"},
            **spec,
        },
    }
