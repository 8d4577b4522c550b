"""Launch records in ConfigMaps of the operator's own namespace, by compare-and-swap.

The order is fixed: audit lines to the sinks, then the swap, then whatever the caller does. A line
whose swap failed is an orphan in the sinks; the launch record is what counts. A record has no owner
in the cluster's sense, because owners cannot be in another namespace; the reconciler deletes it
when its job is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

from pydantic import ValidationError

from securetrain.api import names
from securetrain.api.digest import canonical_json
from securetrain.audit import chain
from securetrain.errors import AuditBroken
from securetrain.validation import first_problem
from securetrain_operator.adapters.sinks import Sink
from securetrain_operator.core.record import Change, LaunchRecord
from securetrain_operator.errors import (
    AlreadyExists,
    ApiUnavailable,
    Conflict,
    RecordFull,
    RecordGone,
)
from securetrain_operator.kinds import CONFIG_MAPS
from securetrain_operator.ports import Cluster, Object

MAX_BYTES: Final = 900_000
"""What a job may use while it runs."""
MAX_BYTES_ENDED: Final = 1_048_576
"""What a ConfigMap may hold: so there is always room to say how a job ended."""
TRIES: Final = 8
MAX_DOUBTS: Final = 3
RETRY_SECONDS: Final = 0.05
NAMESPACE_ANNOTATION: Final = f"{names.GROUP}/namespace"


@dataclass(frozen=True, slots=True)
class _Stored:
    config_map: Object
    text: str
    record: LaunchRecord


@dataclass(slots=True)
class _Attempt:
    """What one update has sent so far: neither sinks nor swap must get the same thing twice."""

    lines: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    doubts: int = 0


class ConfigMapRecords:
    """ports.Records in ConfigMaps."""

    def __init__(self, cluster: Cluster, namespace: str, sinks: Sequence[Sink]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._sinks = tuple(sinks)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, uid: str) -> LaunchRecord | None:
        """The record of a job, read fresh, or None; raises AuditBroken if it is not whole."""
        stored = await self._read(uid)
        return stored.record if stored else None

    async def create(self, record: LaunchRecord, owner: Object) -> LaunchRecord:
        """Store a new record; if one exists already, that one is returned unchanged."""
        uid = record.job.uid
        async with self._lock(uid):
            stored = await self._read(uid)
            if stored:
                return stored.record
            body = self._config_map(record, owner)
            await self._publish(record.audit, _Attempt())
            try:
                await self._cluster.create(CONFIG_MAPS, self._namespace, body)
            except AlreadyExists:
                raise Conflict(f"somebody else made the launch record of job {uid}") from None
            return record

    async def update(self, uid: str, change: Change) -> LaunchRecord:
        """Apply `change` to the newest record and store it, again on conflict.

        Raises what `change` raises; AuditBroken if the record or the change breaks the chain;
        SinkUnavailable; RecordGone; Conflict if the record keeps changing; ApiUnavailable if the
        outcome stays unknown.
        """
        attempt = _Attempt()
        async with self._lock(uid):
            for number in range(1, TRIES + 1):
                try:
                    return await self._swap(uid, change, attempt)
                except Conflict:
                    await asyncio.sleep(RETRY_SECONDS * number)
                except ApiUnavailable:
                    # Only a swap that was sent leaves doubt; the next try reads whether it arrived.
                    attempt.doubts += 1
                    if not attempt.texts or attempt.doubts >= MAX_DOUBTS:
                        raise
                    await asyncio.sleep(RETRY_SECONDS * number)
        raise Conflict(f"the launch record of job {uid} keeps changing")

    async def delete(self, uid: str) -> None:
        """Forget a job that no longer exists; absence is no error."""
        await self._cluster.delete(CONFIG_MAPS, self._namespace, names.launch_record(uid))

    async def uids(self) -> Sequence[str]:
        """UIDs of all jobs that have a record, whether the jobs still exist or not."""
        labels = {names.MANAGED_BY_LABEL: names.MANAGED_BY}
        found = await self._cluster.list(CONFIG_MAPS, self._namespace, labels)
        uids = [item["metadata"]["labels"].get(names.JOB_UID_LABEL) for item in found]
        own = {item["metadata"]["name"] for item in found}
        return [uid for uid in uids if uid and names.launch_record(uid) in own]

    async def _swap(self, uid: str, change: Change, attempt: _Attempt) -> LaunchRecord:
        stored = await self._read(uid)
        if stored is None:
            raise RecordGone(f"job {uid} has no launch record")
        if stored.text in attempt.texts:  # the answer to an earlier try was lost, the write was not
            return stored.record
        changed = change(stored.record)
        if changed is stored.record or changed == stored.record:
            return stored.record
        added = _added_lines(stored.record, changed)
        text = _dump(changed)
        await self._publish(added, attempt)
        attempt.texts.add(text)
        body = {**stored.config_map, "data": {names.RECORD_KEY: text}}
        await self._cluster.replace(CONFIG_MAPS, self._namespace, body)
        return changed

    async def _publish(self, lines: Sequence[str], attempt: _Attempt) -> None:
        new = [line for line in lines if line not in attempt.lines]
        if new:
            for sink in self._sinks:
                await sink.write(new)
            attempt.lines.update(new)

    async def _read(self, uid: str) -> _Stored | None:
        name = names.launch_record(uid)
        config_map = await self._cluster.read(CONFIG_MAPS, self._namespace, name)
        if config_map is None:
            return None
        text = (config_map.get("data") or {}).get(names.RECORD_KEY, "")
        return _Stored(config_map, text, parse(text, uid))

    def _config_map(self, record: LaunchRecord, owner: Object) -> Object:
        metadata: dict[str, Any] = {
            "name": names.launch_record(record.job.uid),
            "namespace": self._namespace,
            "labels": {
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
                names.JOB_UID_LABEL: record.job.uid,
                names.JOB_LABEL: owner["metadata"]["name"],
            },
            "annotations": {NAMESPACE_ANNOTATION: owner["metadata"]["namespace"]},
        }
        _added_lines(record.with_changes(audit=()), record)
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {names.RECORD_KEY: _dump(record)},
        }

    def _lock(self, uid: str) -> asyncio.Lock:
        lock = self._locks.get(uid)
        if lock is None:
            lock = self._locks[uid] = asyncio.Lock()
        return lock


def parse(text: str, uid: str) -> LaunchRecord:
    """A stored record of that job, its audit chain checked; raises AuditBroken."""
    try:
        record = LaunchRecord.model_validate_json(text)
    except ValidationError as error:
        where = first_problem(error).field or "the whole"
        raise _broken(uid, f"does not parse at {where}") from None
    if record.job.uid != uid:
        raise _broken(uid, f"is of job {record.job.uid}")
    chain.verify_chain(record.audit, record.genesis)
    return record


def _added_lines(old: LaunchRecord, new: LaunchRecord) -> Sequence[str]:
    """The lines that a change appended: it may do nothing else to chain and identity."""
    if new.audit[: len(old.audit)] != old.audit or new.genesis != old.genesis:
        raise _broken(old.job.uid, "would lose or rewrite audit records")
    chain.verify_chain(new.audit, new.genesis)
    return new.audit[len(old.audit) :]


def _broken(uid: str, what: str) -> AuditBroken:
    return AuditBroken(
        f"the launch record of job {uid} {what}",
        fix="somebody other than the operator wrote it; read the audit sinks, then delete the job",
    )


def _dump(record: LaunchRecord) -> str:
    data = canonical_json(record.model_dump(mode="json", by_alias=True))
    limit = MAX_BYTES_ENDED if record.terminal else MAX_BYTES
    if len(data) > limit:
        raise RecordFull(
            f"the launch record of job {record.job.uid} would have {len(data)} bytes,"
            f" more than {limit}",
            fix="run it again under a new name, with a smaller policy or fewer restarts",
        )
    return data.decode()
