"""The cluster without one of its admission guards, to see what stands behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from localcluster.platform import Platform


@contextmanager
def without_guard(platform: Platform, name: str) -> Iterator[None]:
    """Take one admission guard's binding away for a while."""
    kubectl = platform.cluster.kubectl
    kind = "validatingadmissionpolicybinding"
    binding = json.loads(kubectl("get", kind, name, "-o", "json"))
    kubectl("delete", kind, name)
    time.sleep(2)  # the API server notices a removed binding after a moment
    try:
        yield
    finally:
        for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
            binding["metadata"].pop(field, None)
        kubectl.apply(binding)
        time.sleep(2)
