"""What programs that were killed leave in the cluster."""

from __future__ import annotations

from typing import Any, Final

from localcluster.platform import OPERATOR_NAMESPACE

PENDING_RELEASE: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "helm.sh/release.v1",
    "metadata": {
        "name": "sh.helm.release.v1.securetrain.v999",
        "namespace": OPERATOR_NAMESPACE,
        "labels": {
            "owner": "helm",
            "name": "securetrain",
            "status": "pending-upgrade",
            "version": "999",
        },
    },
}
"""A Helm that had begun an upgrade: every other Helm refuses to begin one beside it."""
