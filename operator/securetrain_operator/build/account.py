"""The service account of a namespace's job pods: an identity without any rights."""

from __future__ import annotations

from typing import Any

from securetrain.api import names


def service_account(namespace: str) -> dict[str, Any]:
    """ServiceAccount `securetrain-job`; shared by all jobs of the namespace, so owned by none."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": names.SERVICE_ACCOUNT,
            "namespace": namespace,
            "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
        },
        "automountServiceAccountToken": False,
    }
