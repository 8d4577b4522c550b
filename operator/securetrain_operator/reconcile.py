"""The reconciler: observe, decide, act, report. Any trigger leads here; any run may be the first.

It looks, carries out the plan, and looks again until a look asks for nothing new; then it reports.
A run that dies anywhere is made good by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securetrain.api import names
from securetrain.errors import AuditBroken, SecuretrainError
from securetrain_operator import kinds
from securetrain_operator.act import Actor
from securetrain_operator.build.audit_view import audit_view
from securetrain_operator.core import plan, status, transitions
from securetrain_operator.core.decide import GONE_SECONDS, decide
from securetrain_operator.core.diagnose import Diagnosis, from_error
from securetrain_operator.core.observed import Observed, controller_uid
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.errors import AlreadyExists, Conflict, RecordFull
from securetrain_operator.lost_grants import LostGrants
from securetrain_operator.observe import Observer
from securetrain_operator.ports import (
    Clock,
    Cluster,
    Events,
    GrantBoard,
    Object,
    ProgressBoard,
    Records,
    Store,
    Vault,
)
from securetrain_operator.settings import Settings

CONFLICT_SECONDS: Final = 1.0
TROUBLE_SECONDS: Final = 30.0
RENAME: Final = "remove or rename it, and the job's audit trail is shown there"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rest:
    """Where a run came to rest: the last look, what the job waits for, when to look again."""

    observed: Observed
    waiting: Diagnosis | None
    again_after: float | None


class Reconciler:
    """Brings one job at a time closer to its end."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        records: Records,
        vault: Vault,
        events: Events,
        progress: ProgressBoard,
        board: GrantBoard,
        settings: Settings,
        clock: Clock,
        gateway_ca: Callable[[], str],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._records = records
        self._events = events
        self._settings = settings
        self._clock = clock
        self._observer = Observer(store, cluster, records, vault, progress, board, settings)
        lost_grants = LostGrants(records, vault, events, board, clock)
        self._actor = Actor(cluster, records, vault, lost_grants, settings, clock, gateway_ca)
        self._mirrored: dict[str, tuple[str, bool]] = {}
        self._hidden: set[str] = set()

    async def reconcile(self, uid: str) -> float | None:
        """One run for the job of that UID.

        Returns:
            Seconds until the next look; None if there is none before something changes.
        """
        item = self._store.job(uid)
        try:
            if item is None:
                return await self._absent(uid)
            rest = await self._settle(item)
            if rest.observed.job.deleting:
                return None
            return _soonest(rest.again_after, *await self._report(item, rest))
        except (Conflict, AlreadyExists):
            return CONFLICT_SECONDS
        except SecuretrainError as error:
            logger.warning("job %s: %s: %s", uid, error.reason, error)
            return TROUBLE_SECONDS

    async def _settle(self, item: Object) -> _Rest:
        """Act until a look asks for nothing that was not done already."""
        done: set[plan.Action] = set()
        while True:
            observed = await self._observer.look(item)
            wanted = decide(observed, self._settings, self._clock.now())
            ahead = [action for action in wanted.actions if action not in done]
            if not ahead:
                again = GONE_SECONDS if wanted.actions else wanted.again_after
                return _Rest(observed, wanted.waiting, again)
            for action in ahead:
                try:
                    await self._actor.perform(action, observed, item)
                except (Conflict, AlreadyExists):
                    raise
                except RecordFull as error:  # what a job does is recorded, or it is not done
                    change = transitions.failed(error.reason, str(error), self._clock.rfc3339())
                    await self._records.update(observed.job.ref.uid, change)
                    done.add(action)
                    break
                except SecuretrainError as error:
                    logger.warning("job %s: %s: %s", observed.job.ref.uid, error.reason, error)
                    return _Rest(observed, from_error(error), TROUBLE_SECONDS)
                done.add(action)

    async def _report(self, item: Object, rest: _Rest) -> tuple[float | None, float | None]:
        """Status, Event and audit mirror; the seconds after which each wants to be written."""
        now = self._clock.now()
        fresh = status.status_of(rest.observed, rest.waiting, now)
        old = item.get("status") or {}
        later = status.to_write(old, fresh.to_wire(), now)
        if later == 0:
            await self._cluster.write_status(item, fresh.to_wire())
            notice = status.notice(old, fresh)
            if notice is not None:
                await self._events.emit(
                    item, reason=notice.reason, message=notice.message, warning=notice.warning
                )
        return later or None, await self._mirror(item, rest.observed.record)

    async def _mirror(self, item: Object, record: LaunchRecord | None) -> float | None:
        """Show the audit trail in the job's namespace: a convenience that never holds a job up."""
        if record is None:
            return None
        shown = (record.head, record.head_signature is not None)
        if self._mirrored.get(record.job.uid) == shown:
            return None
        try:
            written = await self._write_mirror(item, record)
        except SecuretrainError as error:
            logger.warning("audit mirror of job %s: %s", record.job.uid, error)
            return TROUBLE_SECONDS
        if not written:
            return float(self._settings.resync_seconds)
        self._mirrored[record.job.uid] = shown
        return None

    async def _write_mirror(self, item: Object, record: LaunchRecord) -> bool:
        """Write the ConfigMap; False if one of that name is not this job's, which is told once."""
        body, namespace = audit_view(record), record.job.namespace
        name = body["metadata"]["name"]
        found = await self._cluster.read(kinds.CONFIG_MAPS, namespace, name)
        if found is None:
            await self._cluster.create(kinds.CONFIG_MAPS, namespace, body)
        elif controller_uid(found) != record.job.uid:
            if _is_of_a_job(found):
                raise Conflict(f"ConfigMap {name} of an earlier job is still being deleted")
            if record.job.uid not in self._hidden:
                self._hidden.add(record.job.uid)
                message = f"ConfigMap {name} is not this job's and is left alone. Fix: {RENAME}"
                await self._events.emit(item, reason="AuditHidden", message=message, warning=True)
            return False
        elif found.get("data") != body["data"]:
            body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            await self._cluster.replace(kinds.CONFIG_MAPS, namespace, body)
        return True

    async def _absent(self, uid: str) -> float | None:
        """The store has no such job: forget it, if the API server has none either."""
        try:
            record = await self._records.get(uid)
        except AuditBroken as error:
            logger.error("job %s is gone and its launch record is kept: %s", uid, error)
            return None
        if record is None:
            return None
        ref = record.job
        found = await self._cluster.read(kinds.TRAINING_JOBS, ref.namespace, ref.name)
        if found is not None and found["metadata"]["uid"] == uid:
            return float(self._settings.resync_seconds)
        # To the sinks, for the record goes: a job that was running ends here.
        await self._records.update(uid, transitions.deleted(self._clock.rfc3339()))
        await self._records.delete(uid)
        self._mirrored.pop(uid, None)
        self._hidden.discard(uid)
        return None


def _is_of_a_job(item: Object) -> bool:
    owners = item["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("kind") == names.KIND for owner in owners)


def _soonest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)
