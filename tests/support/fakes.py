"""Small in-memory stand-ins for the operator's ports, with the API server's rules that matter here.

`FakeCluster` hands out UIDs and resourceVersions, answers 409 as the API server does, and deletes
dependents. A `Tripwire` cuts the power before or after any step of any fake.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from securetrain.api.gateway import KeyGrant, ProgressReport
from securetrain.api.names import API_VERSION, JOB_UID_LABEL, KIND, PLURAL
from securetrain.errors import SecuretrainError
from securetrain.vault.connection import VaultConnection
from securetrain_operator.core.record import LaunchRecord, ModelKey
from securetrain_operator.errors import AlreadyExists, Conflict, RecordFull
from securetrain_operator.ports import DigestFor, Object, Signature, WrappedToken, WrapRequest

JOBS = f"{API_VERSION}/{PLURAL}"
BATCH_JOBS = "batch/v1/jobs"
PODS = "v1/pods"
KINDS = {
    JOBS: (API_VERSION, KIND),
    BATCH_JOBS: ("batch/v1", "Job"),
    PODS: ("v1", "Pod"),
}


class Crash(Exception):
    """The process died here (a test's doing)."""


class Tripwire:
    """Counts every step that the fakes take and raises `Crash` at the chosen one."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.steps = 0
        self.crash_at = crash_at
        self.log: list[str] = []

    def step(self, what: str) -> None:
        """One more step; the process dies if it is the chosen one."""
        self.steps += 1
        self.log.append(what)
        if self.steps == self.crash_at:
            raise Crash(f"step {self.steps}: {what}")


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def rfc3339(self) -> str:
        return datetime.fromtimestamp(int(self.time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def advance(self, seconds: float) -> None:
        self.time += seconds


class FakeCluster:
    """An API server in memory."""

    def __init__(self, clock: ManualClock | None = None, trip: Tripwire | None = None) -> None:
        self.clock = clock or ManualClock()
        self.trip = trip or Tripwire()
        self.objects: dict[tuple[str, str | None, str], Object] = {}
        self.guards_missing: tuple[str, ...] = ()
        self.tokens: dict[str, Object] = {}
        self.created: list[tuple[str, str]] = []
        """(kind, name) of everything that `create` stored, in order."""
        self.status_writes = 0
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def put(self, kind: str, namespace: str | None, body: Object) -> Object:
        """Store an object as it is, with the metadata that the server adds (for test set-up)."""
        stored = copy.deepcopy(body)
        meta = stored.setdefault("metadata", {})
        if namespace is not None:
            meta["namespace"] = namespace
        meta.setdefault("uid", f"00000000-0000-4000-8000-{next(self._uids):012d}")
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", self.clock.rfc3339())
        meta["resourceVersion"] = str(next(self._versions))
        if kind in KINDS:
            stored["apiVersion"], stored["kind"] = KINDS[kind]
        self.objects[(kind, namespace, meta["name"])] = stored
        return copy.deepcopy(stored)

    def remove(self, kind: str, namespace: str | None, name: str) -> None:
        """Delete an object and, as the garbage collector does, all that it owns."""
        gone = self.objects.pop((kind, namespace, name), None)
        if gone is None:
            return
        uid = gone["metadata"]["uid"]
        for (owned_kind, owned_namespace, owned_name), item in list(self.objects.items()):
            owners = item["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == uid for owner in owners):
                self.remove(owned_kind, owned_namespace, owned_name)

    def of_kind(self, kind: str) -> list[Object]:
        """All objects of one kind."""
        return [copy.deepcopy(item) for key, item in self.objects.items() if key[0] == kind]

    async def read(self, kind: str, namespace: str | None, name: str) -> Object | None:
        self.trip.step(f"read {kind} {name}")
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Object]:
        self.trip.step(f"list {kind}")
        wanted = (labels or {}).items()
        return [
            item
            for item in self.of_kind(kind)
            if (namespace is None or item["metadata"].get("namespace") == namespace)
            and wanted <= item["metadata"].get("labels", {}).items()
        ]

    async def create(self, kind: str, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        self.trip.step(f"before create {kind} {name}")
        if (kind, namespace, name) in self.objects:
            raise AlreadyExists(f"{kind} {namespace}/{name} exists already")
        stored = self.put(kind, namespace, body)
        self.created.append((kind, name))
        self.trip.step(f"after create {kind} {name}")
        return stored

    async def replace(self, kind: str, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        self.trip.step(f"before replace {kind} {name}")
        now = self.objects.get((kind, namespace, name))
        if now is None or now["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(f"{kind} {namespace}/{name} was changed or removed")
        stored = copy.deepcopy(body)
        stored["metadata"]["uid"] = now["metadata"]["uid"]
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        if stored.get("spec") != now.get("spec"):
            stored["metadata"]["generation"] = now["metadata"].get("generation", 1) + 1
        self.objects[(kind, namespace, name)] = stored
        self.trip.step(f"after replace {kind} {name}")
        return copy.deepcopy(stored)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        self.trip.step(f"before delete {kind} {name}")
        item = self.objects.get((kind, namespace, name))
        if item is not None and uid in (None, item["metadata"]["uid"]):
            self.remove(kind, namespace, name)
        self.trip.step(f"after delete {kind} {name}")

    async def write_status(self, job: Object, status: Mapping[str, Any]) -> None:
        meta = job["metadata"]
        self.trip.step(f"before status {meta['name']}")
        now = self.objects.get((JOBS, meta["namespace"], meta["name"]))
        if now is None or now["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict(f"job {meta['namespace']}/{meta['name']} was changed or removed")
        now["status"] = {k: copy.deepcopy(v) for k, v in status.items() if v is not None}
        now["metadata"]["resourceVersion"] = str(next(self._versions))
        self.status_writes += 1
        self.trip.step(f"after status {meta['name']}")

    async def review_token(self, token: str, audience: str) -> Object:
        self.trip.step("token review")
        return copy.deepcopy(self.tokens.get(token, {"authenticated": False}))

    async def missing_guards(self) -> Sequence[str]:
        self.trip.step("guards")
        return self.guards_missing


class FakeStore:
    """A watch store that is never behind, unless `freeze` holds it back."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.frozen: dict[tuple[str, str | None, str], Object] | None = None

    def freeze(self) -> None:
        """Stop following: the watch hangs."""
        self.frozen = copy.deepcopy(self.cluster.objects)

    def thaw(self) -> None:
        """Follow again."""
        self.frozen = None

    def _all(self, kind: str) -> list[Object]:
        objects = self.cluster.objects if self.frozen is None else self.frozen
        return [copy.deepcopy(item) for key, item in objects.items() if key[0] == kind]

    def _labelled(self, kind: str, uid: str) -> list[Object]:
        return [
            item
            for item in self._all(kind)
            if item["metadata"].get("labels", {}).get(JOB_UID_LABEL) == uid
        ]

    def job(self, uid: str) -> Object | None:
        return next((j for j in self._all(JOBS) if j["metadata"]["uid"] == uid), None)

    def children(self, uid: str) -> Sequence[Object]:
        return self._labelled(BATCH_JOBS, uid)

    def pods(self, uid: str) -> Sequence[Object]:
        return self._labelled(PODS, uid)


class FakeRecords:
    """Launch records in memory; each goes through its JSON form, as in a ConfigMap."""

    def __init__(self, trip: Tripwire | None = None) -> None:
        self.trip = trip or Tripwire()
        self.stored: dict[str, str] = {}
        self.sink: list[str] = []
        """Audit lines in the order in which the sinks saw them."""
        self.writes = 0
        self.full_at: int | None = None
        """Length of a record's audit at which there is room for its end only."""

    def now(self, uid: str) -> LaunchRecord:
        """The record of a job; it must exist."""
        return LaunchRecord.model_validate_json(self.stored[uid])

    def set(self, record: LaunchRecord) -> None:
        """Store a record (for test set-up)."""
        self.stored[record.job.uid] = record.model_dump_json(by_alias=True)

    async def get(self, uid: str) -> LaunchRecord | None:
        self.trip.step("get record")
        return self.now(uid) if uid in self.stored else None

    async def create(self, record: LaunchRecord, owner: Object) -> LaunchRecord:
        self.trip.step("before create record")
        uid = record.job.uid
        if uid not in self.stored:
            self._write(record, ())
        self.trip.step("after create record")
        return self.now(uid)

    async def update(
        self, uid: str, change: Callable[[LaunchRecord], LaunchRecord]
    ) -> LaunchRecord:
        self.trip.step("before update record")
        old = self.now(uid)
        new = change(old)
        if new is not old:
            self._write(new, old.audit)
        self.trip.step("after update record")
        return self.now(uid)

    async def delete(self, uid: str) -> None:
        self.trip.step("before delete record")
        self.stored.pop(uid, None)
        self.trip.step("after delete record")

    def _write(self, record: LaunchRecord, known: Sequence[str]) -> None:
        assert list(record.audit[: len(known)]) == list(known), "a change rewrote the audit chain"
        if self.full_at is not None and len(record.audit) > self.full_at and not record.terminal:
            raise RecordFull("the launch record is full", fix="run it again")
        self.sink.extend(record.audit[len(known) :])
        self.set(record)
        self.writes += 1


class FakeVault:
    """A Vault that does what it is asked, or raises `fault`."""

    def __init__(self, trip: Tripwire | None = None) -> None:
        self.trip = trip or Tripwire()
        self.fault: SecuretrainError | None = None
        self.checks = 0
        self.proved: list[str | None] = []
        """The model KEK that each check was to prove."""
        self.signed: list[tuple[bytes, str]] = []
        """(digest, correlation) of every signature."""
        self.wrapped: list[WrapRequest] = []
        self.burnt: list[WrappedToken] = []
        self.spent: set[str] = set()
        """Names of keys whose wrapping tokens somebody has spent."""

    def _call(self, what: str) -> None:
        self.trip.step(f"vault {what}")
        if self.fault is not None:
            raise self.fault

    async def check(
        self, connection: VaultConnection, namespace: str, kek: str | None = None
    ) -> None:
        self.checks += 1
        self.proved.append(kek)
        self._call("check")

    async def new_model_key(
        self, connection: VaultConnection, namespace: str, kek: str, context: bytes
    ) -> ModelKey:
        self._call("model key")
        return ModelKey(mount=connection.transit_mount, kek=kek, wrapped="vault:v1:" + "A" * 80)

    async def wrap_keys(
        self, connection: VaultConnection, request: WrapRequest
    ) -> Sequence[WrappedToken]:
        self._call("wrap keys")
        self.wrapped.append(request)
        names = [*(str(split) for split in request.deks), "model"]
        return [self._token(connection, request, name) for name in names]

    def _token(self, connection: VaultConnection, request: WrapRequest, name: str) -> WrappedToken:
        grant = KeyGrant(
            name=name,
            token=f"wrapping-token-{len(self.wrapped)}-{name}",
            creation_path=f"{connection.transit_mount}/decrypt/kek",
            creation_time="2027-01-15T08:00:00Z",
            ttl=request.ttl,
        )
        return WrappedToken(grant, f"accessor-{len(self.wrapped)}-{name}")

    async def burn(
        self, connection: VaultConnection, tokens: Sequence[WrappedToken]
    ) -> Sequence[bool]:
        self._call("burn")
        self.burnt.extend(tokens)
        return [token.grant.name not in self.spent for token in tokens]

    async def sign(
        self, connection: VaultConnection, digest_for: DigestFor, correlation: str
    ) -> Signature:
        self._call("sign")
        digest = digest_for(1)
        assert len(digest) == 32
        self.signed.append((digest, correlation))
        return Signature(b"a DER signature", 1, b"a public key")


class FakeEvents:
    """Remembers Events."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, str, bool]] = []

    async def emit(self, job: Object, *, reason: str, message: str, warning: bool = False) -> None:
        self.emitted.append((reason, message, warning))


class FakeProgress:
    """The latest progress, as put there."""

    def __init__(self) -> None:
        self.reports: dict[str, tuple[ProgressReport, str]] = {}

    def put(self, uid: str, pod_uid: str, report: ProgressReport, time: str) -> bool:
        known = self.reports.get(uid)
        if known is not None and known[0].sequence >= report.sequence:
            return False
        self.reports[uid] = (report, time)
        return True

    def latest(self, uid: str) -> tuple[ProgressReport, str] | None:
        return self.reports.get(uid)


class FakeWakeup:
    """Remembers which jobs were woken."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    def enqueue(self, uid: str) -> None:
        self.woken.append(uid)
