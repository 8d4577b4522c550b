"""Keys of the kinds of objects that the operator works with, as `ports.Cluster` takes them."""

from __future__ import annotations

from typing import Final

from securetrain.api.names import API_VERSION, PLURAL

TRAINING_JOBS: Final = f"{API_VERSION}/{PLURAL}"
JOBS: Final = "batch/v1/jobs"
PODS: Final = "v1/pods"
NAMESPACES: Final = "v1/namespaces"
CLAIMS: Final = "v1/persistentvolumeclaims"
CONFIG_MAPS: Final = "v1/configmaps"
ACCOUNTS: Final = "v1/serviceaccounts"
NETWORK_POLICIES: Final = "networking.k8s.io/v1/networkpolicies"
