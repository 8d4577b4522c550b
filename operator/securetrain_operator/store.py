"""The local store that the watches feed and that the reconciler reads first.

It may lag, and a watch may miss a deletion (a relist after a lost connection reports none).
Therefore a full listing is merged in now and then; newer objects win by resourceVersion, and
nothing irreversible is decided by the store alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from securetrain.api import names
from securetrain_operator.kinds import JOBS, PODS, TRAINING_JOBS
from securetrain_operator.ports import Object

WATCHED: Final = (TRAINING_JOBS, JOBS, PODS)


class WatchStore:
    """ports.Store; all methods are for one event loop's thread."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Object]] = {kind: {} for kind in WATCHED}
        self._of_job: dict[str, dict[str, dict[str, None]]] = {JOBS: {}, PODS: {}}
        self._gone: set[str] = set()

    def job(self, uid: str) -> Object | None:
        """A SecureTrainingJob."""
        return self._objects[TRAINING_JOBS].get(uid)

    def children(self, uid: str) -> Sequence[Object]:
        """batch/v1 Jobs that carry the job's UID label."""
        return self._labelled(JOBS, uid)

    def pods(self, uid: str) -> Sequence[Object]:
        """Pods that carry the job's UID label."""
        return self._labelled(PODS, uid)

    def job_uids(self) -> Sequence[str]:
        """UIDs of all SecureTrainingJobs."""
        return tuple(self._objects[TRAINING_JOBS])

    def put(self, kind: str, item: Object) -> str | None:
        """Keep an object unless a newer one is known; returns the UID of the job it concerns."""
        uid = _uid(item)
        known = self._objects[kind].get(uid)
        if known and version_of(known) > version_of(item):
            return job_uid_of(kind, item)
        self._drop(kind, uid)
        item["metadata"].pop("managedFields", None)  # nobody reads it, and it is most of an object
        self._objects[kind][uid] = item
        job_uid = job_uid_of(kind, item)
        if kind != TRAINING_JOBS and job_uid:
            self._of_job[kind].setdefault(job_uid, {})[uid] = None
        return job_uid

    def delete(self, kind: str, item: Object) -> str | None:
        """Forget an object; returns the UID of the job it concerns, if any."""
        self._gone.add(_uid(item))
        self._drop(kind, _uid(item))
        return job_uid_of(kind, item)

    def begin_listing(self) -> None:
        """Call before asking for a listing: what is deleted from now on is not taken from it."""
        self._gone.clear()

    def merge_listing(
        self, kind: str, items: Iterable[Object], version: int, namespace: str | None = None
    ) -> set[str]:
        """Merge a full listing, of one namespace or of all, as of a resource version.

        Returns:
            UIDs of the jobs whose objects changed.
        """
        listed = {_uid(item): item for item in items}
        changed: set[str | None] = set()
        for uid, item in list(self._objects[kind].items()):
            within = namespace is None or item["metadata"]["namespace"] == namespace
            if within and uid not in listed and version_of(item) <= version:
                changed.add(job_uid_of(kind, item))
                self._drop(kind, uid)
        for uid, item in listed.items():
            known = self._objects[kind].get(uid)
            if uid not in self._gone and (not known or version_of(known) < version_of(item)):
                changed.add(self.put(kind, item))
        return {uid for uid in changed if uid}

    def _labelled(self, kind: str, uid: str) -> Sequence[Object]:
        return tuple(self._objects[kind][key] for key in self._of_job[kind].get(uid, ()))

    def _drop(self, kind: str, uid: str) -> None:
        item = self._objects[kind].pop(uid, None)
        job_uid = job_uid_of(kind, item) if item else None
        if kind == TRAINING_JOBS or not job_uid:
            return
        keys = self._of_job[kind].get(job_uid, {})
        keys.pop(uid, None)
        if not keys:
            self._of_job[kind].pop(job_uid, None)


def job_uid_of(kind: str, item: Object) -> str | None:
    """UID of the SecureTrainingJob that an object is or belongs to."""
    if kind == TRAINING_JOBS:
        return _uid(item)
    label = (item["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL)
    return str(label) if label else None


def version_of(item: Object) -> int:
    """Resource version as the number that it is on every API server since etcd 3."""
    version = item["metadata"].get("resourceVersion", "0")
    return int(version) if version.isdecimal() else 0


def _uid(item: Object) -> str:
    return str(item["metadata"]["uid"])
