"""Renders the chart with the real Helm, as an installer would see it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries

Object = dict[str, Any]

CHART = Path(__file__).resolve().parents[2] / "charts" / "securetrain"
RELEASE = "securetrain"
OPERATOR_NAMESPACE = "securetrain-system"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:securetrain-operator"
AUDIENCE = f"test-cluster/{OPERATOR_NAMESPACE}/securetrain"
KUBE_VERSION = binaries.KUBERNETES.removeprefix("v")

VALUES: Object = {
    "clusterName": "test-cluster",
    "image": {
        "operator": "registry.example.org/securetrain/operator@sha256:" + "a" * 64,
        "trainer": "registry.example.org/securetrain/trainer@sha256:" + "b" * 64,
    },
    "vault": {
        "connections": [
            {
                "name": "default",
                "address": "https://vault.example.org:8200",
                "ca": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
                "allowedNamespaces": ["team-a"],
                "egressCidrs": ["192.0.2.7/32"],
            }
        ]
    },
}


class ChartError(Exception):
    """Helm refused to render; holds what it said."""


def render(values: Mapping[str, Any] = VALUES, *, extra: Sequence[str] = ()) -> list[Object]:
    """All objects of the release; raises ChartError with Helm's words."""
    command = [
        str(binaries.ensure() / "helm"),
        "template",
        RELEASE,
        str(CHART),
        "--namespace",
        OPERATOR_NAMESPACE,
        "--kube-version",
        KUBE_VERSION,
        "--values",
        "-",
        *extra,
    ]
    done = subprocess.run(
        command, input=yaml.safe_dump(dict(values)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChartError(done.stderr)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds, in order."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    (found,) = (item for item in of_kind(objects, kind) if item["metadata"]["name"] == name)
    return found
