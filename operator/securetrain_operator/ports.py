"""The small Protocols at which effects stop: what reconciler and gateway need from outside.

Adapters implement them; tests implement them with a few lines. All errors that they raise are of
`securetrain.errors` or `securetrain_operator.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from securetrain.api.gateway import KeyGrant, ProgressReport, WrappedDek
from securetrain.api.names import Purpose, Split
from securetrain.vault.connection import VaultConnection
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.record import Change, LaunchRecord, ModelKey

DigestFor = Callable[[int], bytes]
"""The SHA-256 digest to sign, by the version of the key that signs: what is signed names it."""

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


class Clock(Protocol):
    """The current time; a test sets it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def rfc3339(self) -> str:
        """The same as RFC 3339 text in UTC, whole seconds."""
        ...


class Records(Protocol):
    """Launch records, by compare-and-swap."""

    async def get(self, uid: str) -> LaunchRecord | None:
        """The record of a job, read fresh, or None."""
        ...

    async def create(self, record: LaunchRecord, owner: Object) -> LaunchRecord:
        """Store a new record; if one exists already, that one is returned unchanged."""
        ...

    async def update(self, uid: str, change: Change) -> LaunchRecord:
        """Apply `change` to the newest record and store it, again on conflict.

        Audit lines that `change` appended go to the sinks before the swap. `change` must be pure;
        it may raise to leave everything as it is. A change that returns its argument writes
        nothing.
        """
        ...

    async def delete(self, uid: str) -> None:
        """Forget a job that no longer exists; absence is no error."""
        ...


class Cluster(Protocol):
    """The API server. Reads are fresh. `kind` is a key such as `batch/v1/jobs` or `v1/pods`."""

    async def read(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """An object, or None if it does not exist."""
        ...

    async def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Object]:
        """Objects of one kind."""
        ...

    async def create(self, kind: str, namespace: str, body: Object) -> Object:
        """Create an object and return it as stored; raises AlreadyExists on 409."""
        ...

    async def replace(self, kind: str, namespace: str, body: Object) -> Object:
        """Replace an object at its resourceVersion; raises Conflict on 409."""
        ...

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Delete an object with its dependents (background); absence or another UID is no error."""
        ...

    async def write_status(self, job: Object, status: Mapping[str, Any]) -> None:
        """Replace a SecureTrainingJob's status by merge at its resourceVersion."""
        ...

    async def review_token(self, token: str, audience: str) -> Object:
        """`status` of a TokenReview for exactly one audience."""
        ...

    async def missing_guards(self) -> Sequence[str]:
        """Names of admission guards that are not in place and enforcing."""
        ...


class Vault(Protocol):
    """What the operator may ask of Vault; no call blocks the event loop."""

    async def check(
        self, connection: VaultConnection, namespace: str, kek: str | None = None
    ) -> None:
        """Log in under both roles of a namespace, and prove a model KEK if one is named.

        Raises:
            OutputKekUnusable: the KEK is missing, not the namespace's, or of the wrong kind.
            VaultSealed, VaultUnavailable: Vault is away.
            VaultDenied, VaultMisconfigured: a role is missing or does not let the operator in.
        """
        ...

    async def new_model_key(
        self, connection: VaultConnection, namespace: str, kek: str, context: bytes
    ) -> ModelKey:
        """A new wrapped model DEK, by `transit/datakey/wrapped`."""
        ...

    async def wrap_keys(
        self, connection: VaultConnection, request: WrapRequest
    ) -> Sequence[WrappedToken]:
        """One wrapped decrypt per key, under the role of the purpose and namespace.

        If one fails for sure, those already issued are burnt and the error is raised.

        Raises:
            VaultSealed, VaultUnavailable: `in_doubt` is True if an answer may have been lost.
            VaultDenied, WrongKey: Vault refused.
        """
        ...

    async def burn(
        self, connection: VaultConnection, tokens: Sequence[WrappedToken]
    ) -> Sequence[bool]:
        """Spend wrapping tokens so that nobody else can; True where the token was still unspent."""
        ...

    async def sign(
        self, connection: VaultConnection, digest_for: DigestFor, correlation: str
    ) -> Signature:
        """Have Vault sign a SHA-256 digest; the signature is verified before it is returned."""
        ...


@dataclass(frozen=True, slots=True)
class WrapRequest:
    """Which keys to wrap for which pod."""

    namespace: str
    purpose: Purpose
    deks: Mapping[Split, WrappedDek]
    associated_data: Mapping[Split, bytes]
    model_key: ModelKey
    model_context: bytes
    correlation: str
    ttl: int = 30


@dataclass(frozen=True, slots=True)
class WrappedToken:
    """An issued wrapping token; `accessor` is for the audit."""

    grant: KeyGrant
    accessor: str


@dataclass(frozen=True, slots=True, repr=False)
class HeldTokens:
    """Issued wrapping tokens, while they can be spent; never shown nor stored."""

    connection: VaultConnection
    tokens: Sequence[WrappedToken]
    until: float
    """Seconds since the epoch; later Vault does not tell a spent token from one that ran out."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A DER signature and the public key that verifies it."""

    der: bytes
    key_version: int
    public_key_pem: bytes


class Events(Protocol):
    """Kubernetes Events: for people, never the record."""

    async def emit(self, job: Object, *, reason: str, message: str, warning: bool = False) -> None:
        """Post an Event about a job; failures are logged and forgotten."""
        ...


class Wakeup(Protocol):
    """The work queue, as others see it."""

    def enqueue(self, uid: str) -> None:
        """Reconcile this job soon."""
        ...


class ProgressBoard(Protocol):
    """The latest progress of running jobs; in memory only."""

    def put(self, uid: str, pod_uid: str, report: ProgressReport, time: str) -> bool:
        """Take a report; False if its sequence number is not newer."""
        ...

    def latest(self, uid: str) -> tuple[ProgressReport, str] | None:
        """The last report of a job and its time."""
        ...


class GrantBoard(Protocol):
    """What the gateway knows of grants beyond the launch record; in memory only."""

    def hold(self, pod_uid: str, tokens: HeldTokens, now: float) -> None:
        """Keep the wrapping tokens of a pod's grant until they run out."""
        ...

    def take(self, pod_uid: str) -> HeldTokens | None:
        """The tokens of a pod's grant, once; None if they are not known (any more)."""
        ...

    def wait(self, uid: str, pod_uid: str, reason: Diagnosis) -> bool:
        """Note why a job's pod has no keys yet; False if that was known."""
        ...

    def waiting(self, uid: str) -> tuple[str, Diagnosis] | None:
        """UID of the pod that asked last and was put off, and why."""
        ...

    def forget(self, uid: str) -> None:
        """Drop what a job waits for: its pod has its keys, or the job no longer exists."""
        ...


class Store(Protocol):
    """The local store that watches feed; it may lag: it alone decides nothing irreversible."""

    def job(self, uid: str) -> Object | None:
        """A SecureTrainingJob."""
        ...

    def children(self, uid: str) -> Sequence[Object]:
        """batch/v1 Jobs that carry the job's UID label."""
        ...

    def pods(self, uid: str) -> Sequence[Object]:
        """Pods that carry the job's UID label."""
        ...
