"""Kubernetes Events about a job, for people: failing to post one harms nothing."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

from securetrain.api.conditions import cut
from securetrain.api.digest import canonical_sha256
from securetrain.api.names import API_VERSION, KIND
from securetrain.errors import SecuretrainError
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.errors import AlreadyExists
from securetrain_operator.ports import Clock, Object

EVENTS: Final = "v1/events"
COMPONENT: Final = "securetrain-operator"
MAX_REMEMBERED: Final = 4096

log = logging.getLogger(__name__)


class KubeEvents:
    """ports.Events on core/v1: what is said again raises the count of the first Event."""

    def __init__(self, cluster: KubeCluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def emit(self, job: Object, *, reason: str, message: str, warning: bool = False) -> None:
        """Post an Event about a job; failures are logged and forgotten."""
        event = _event(job, reason, message, "Warning" if warning else "Normal")
        event["firstTimestamp"] = event["lastTimestamp"] = self._clock.rfc3339()
        try:
            await self._post(event)
        except SecuretrainError as error:
            log.warning("an Event was not posted: %s", error, extra={"reason": error.reason})

    async def _post(self, event: Object) -> None:
        name, namespace = event["metadata"]["name"], event["metadata"]["namespace"]
        count = self._remember(name)
        again = {"count": count, "lastTimestamp": event["lastTimestamp"]}
        if count > 1 and await self._cluster.merge(EVENTS, namespace, name, again):
            return
        try:
            await self._cluster.create(EVENTS, namespace, event)
        except AlreadyExists:
            # Said by an earlier life of this process, whose count is not known here.
            later = {"lastTimestamp": event["lastTimestamp"]}
            await self._cluster.merge(EVENTS, namespace, name, later)

    def _remember(self, name: str) -> int:
        count = self._counts.pop(name, 0) + 1
        self._counts[name] = count
        if len(self._counts) > MAX_REMEMBERED:
            self._counts.popitem(last=False)
        return count


def _event(job: Object, reason: str, message: str, kind: str) -> Object:
    metadata = job["metadata"]
    said = cut(message)
    digest = canonical_sha256([metadata["uid"], kind, reason, said])
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{digest[:16]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": said,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    }
