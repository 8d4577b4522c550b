"""Looking at one job: all reads that `decide` needs, and no more.

The watch store answers what it can. Whatever leads to a launch, or to an end, is read fresh: the
launch record always, child Jobs unless the store shows the very Job of the record.
"""

from __future__ import annotations

from collections.abc import Mapping

from securetrain.api import names
from securetrain.api.names import Purpose
from securetrain.errors import AuditBroken, SecuretrainError
from securetrain_operator import kinds
from securetrain_operator.core.connections import connection_of
from securetrain_operator.core.observed import (
    Child,
    Job,
    Observed,
    Preconditions,
    claims,
    jobs_enabled,
    parse_child,
    parse_job,
    wanted,
)
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.ports import (
    Cluster,
    GrantBoard,
    Object,
    ProgressBoard,
    Records,
    Store,
    Vault,
)
from securetrain_operator.settings import Settings


class Observer:
    """Takes one look at a job."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        records: Records,
        vault: Vault,
        progress: ProgressBoard,
        board: GrantBoard,
        settings: Settings,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._records = records
        self._vault = vault
        self._progress = progress
        self._board = board
        self._settings = settings

    async def look(self, item: Object) -> Observed:
        """One look at a SecureTrainingJob; a launch record that is not whole is an observation too.

        Raises what the ports raise, but for what Vault's check says.
        """
        job = parse_job(item)
        try:
            record = await self._records.get(job.ref.uid)
            children = await self._children(job, record)
            if any(child.finished for child in children.values()):
                # Results arrive before their Job ends: what came with this end must be seen.
                record = await self._records.get(job.ref.uid)
        except AuditBroken as error:
            return Observed(job, None, children=await self._named(job), broken=error)
        if Observed(job, record).record_lost:
            return Observed(job, None, children=await self._named(job))
        return Observed(
            job=job,
            record=record,
            launch=await self._preconditions(job, record),
            children=children,
            pods=await self._pods(job, record, children),
            progress=self._progress.latest(job.ref.uid),
            asking=self._board.waiting(job.ref.uid),
        )

    async def _children(self, job: Job, record: LaunchRecord | None) -> Mapping[Purpose, Child]:
        if record is None:
            return {}
        cached = {item["metadata"]["name"]: item for item in self._store.children(job.ref.uid)}
        found: dict[Purpose, Child] = {}
        for purpose in Purpose:
            name = names.child_job(job.ref.name, purpose)
            item = cached.get(name)
            if purpose is wanted(record) and not _is_recorded(item, record, purpose):
                item = await self._cluster.read(kinds.JOBS, job.ref.namespace, name)
            if item is not None:
                found[purpose] = parse_child(item)
        return found

    async def _named(self, job: Job) -> Mapping[Purpose, Child]:
        """The Jobs of our children's names, where no launch record can say which are ours."""
        found: dict[Purpose, Child] = {}
        for purpose in Purpose:
            name = names.child_job(job.ref.name, purpose)
            item = await self._cluster.read(kinds.JOBS, job.ref.namespace, name)
            if item is not None:
                found[purpose] = parse_child(item)
        return found

    async def _pods(
        self, job: Job, record: LaunchRecord | None, children: Mapping[Purpose, Child]
    ) -> tuple[Object, ...]:
        """Pods from the store; fresh where they may decide that the job has failed."""
        purpose = wanted(record)
        if record is None or purpose is None:
            return tuple(self._store.pods(job.ref.uid))
        grants = len(record.grants_of(purpose))
        child = children.get(purpose)
        failed = child is not None and child.state == "failed"
        if not failed and grants < self._settings.max_grants_per_phase:
            return tuple(self._store.pods(job.ref.uid))
        labels = {names.JOB_UID_LABEL: job.ref.uid}
        return tuple(await self._cluster.list(kinds.PODS, job.ref.namespace, labels))

    async def _preconditions(self, job: Job, record: LaunchRecord | None) -> Preconditions:
        """What a launch needs, if one is ahead; Vault is asked only if all else is there."""
        purpose = wanted(record)
        launched = record is not None and purpose in record.children
        resting = job.spec is not None and job.spec.suspend and purpose is Purpose.TRAIN
        if purpose is None or launched or resting or job.deleting:
            return Preconditions()
        enabled = await self._namespace_enabled(job.ref.namespace)
        if not enabled or record is None or job.spec is None:
            return Preconditions(namespace_enabled=enabled)
        missing = tuple([c for c in claims(job.spec) if not await self._has_claim(job, c)])
        guards = await self._missing_guards()
        fault = None if missing or guards else await self._vault_fault(job, record)
        return Preconditions(enabled, missing, guards, fault)

    async def _namespace_enabled(self, namespace: str) -> bool:
        return jobs_enabled(await self._cluster.read(kinds.NAMESPACES, None, namespace))

    async def _has_claim(self, job: Job, claim: str) -> bool:
        return await self._cluster.read(kinds.CLAIMS, job.ref.namespace, claim) is not None

    async def _missing_guards(self) -> tuple[str, ...]:
        if not self._settings.require_guards:
            return ()
        return tuple(await self._cluster.missing_guards())

    async def _vault_fault(self, job: Job, record: LaunchRecord) -> SecuretrainError | None:
        namespace = job.ref.namespace
        connection = job.spec and connection_of(job.spec, self._settings, namespace)
        if not job.spec or not connection:
            return None
        kek = None if record.model_key else job.spec.output.kek  # it has wrapped all it has to
        try:
            await self._vault.check(connection, namespace, kek)
        except SecuretrainError as error:
            return error
        return None


def _is_recorded(item: Object | None, record: LaunchRecord, purpose: Purpose) -> bool:
    known = record.children.get(purpose)
    return item is not None and known is not None and item["metadata"]["uid"] == known.uid
