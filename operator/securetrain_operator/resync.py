"""Full listings: the first one fills the store, later ones repair what the watches missed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from securetrain.api.names import JOB_UID_LABEL
from securetrain.errors import SecuretrainError
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.records import ConfigMapRecords
from securetrain_operator.kinds import TRAINING_JOBS
from securetrain_operator.ports import Wakeup
from securetrain_operator.store import WATCHED, WatchStore

MAX_RETRY_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


class Resync:
    """Merges full listings into the store and wakes every job up.

    Args:
        namespaces: namespaces to list; none means all.
        seconds: pause between two listings.
    """

    def __init__(
        self,
        cluster: KubeCluster,
        store: WatchStore,
        records: ConfigMapRecords,
        wakeup: Wakeup,
        *,
        namespaces: Sequence[str],
        seconds: float,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._records = records
        self._wakeup = wakeup
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._seconds = seconds
        self.synced: Final = asyncio.Event()
        """Set once the store holds what the cluster holds."""

    async def run(self) -> None:
        """List until cancelled; a failure is logged and tried again sooner."""
        retry = 1.0
        while True:
            try:
                await self.once()
            except SecuretrainError as error:
                log.warning("resync failed: %s", error, extra={"reason": error.reason})
                await asyncio.sleep(min(retry, self._seconds))
                retry = min(MAX_RETRY_SECONDS, retry * 2)
                continue
            retry = 1.0
            await asyncio.sleep(self._seconds)

    async def once(self) -> None:
        """List all kinds once, and wake up every job that is, or that has left something behind."""
        changed: set[str] = set()
        for kind in WATCHED:
            selector = "" if kind == TRAINING_JOBS else JOB_UID_LABEL
            for namespace in self._namespaces:
                self._store.begin_listing()
                items, version = await self._cluster.snapshot(kind, namespace, selector)
                changed |= self._store.merge_listing(kind, items, version, namespace)
        if not self.synced.is_set():  # jobs may have been deleted while nobody watched
            changed |= set(await self._records.uids())
        for uid in changed.union(self._store.job_uids()):
            self._wakeup.enqueue(uid)
        self.synced.set()
