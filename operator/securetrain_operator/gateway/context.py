"""What grants and results share: the job of an attested pod, and how a job fails for good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from securetrain.api.conditions import cut
from securetrain.api.types import JobSpec
from securetrain.errors import (
    GrantLost,
    IntegrityError,
    KeyRevoked,
    NotOurPod,
    PolicyDenied,
    SecuretrainError,
    StorageMisconfigured,
    VaultMisconfigured,
)
from securetrain.storage.connection import StorageConnection
from securetrain.vault.connection import VaultConnection
from securetrain_operator.core import diagnose
from securetrain_operator.core.connections import storages_of
from securetrain_operator.core.observed import parse_job
from securetrain_operator.core.transitions import failed
from securetrain_operator.errors import GrantsExhausted, RecordFull
from securetrain_operator.gateway.gatekeeper import Attested
from securetrain_operator.gateway.problems import status_of
from securetrain_operator.kinds import TRAINING_JOBS
from securetrain_operator.ports import (
    Clock,
    Cluster,
    Events,
    GrantBoard,
    Object,
    Records,
    Vault,
    Wakeup,
)
from securetrain_operator.settings import Settings

FATAL: Final = (PolicyDenied, KeyRevoked, IntegrityError, GrantsExhausted, RecordFull)
"""What an attested pod may bring on its own job; all else is waited for or the pod's own affair."""


@dataclass(frozen=True, slots=True)
class Services:
    """The ports that answer a call, in one hand."""

    cluster: Cluster
    records: Records
    vault: Vault
    events: Events
    board: GrantBoard
    wakeup: Wakeup
    settings: Settings
    clock: Clock


@dataclass(frozen=True, slots=True)
class Resolved:
    """The job that an attested pod works for, as it stands in the cluster and the settings."""

    job: Object
    spec: JobSpec
    connection: VaultConnection
    storages: tuple[StorageConnection, ...] = ()


async def resolve(services: Services, pod: Attested) -> Resolved:
    """Read the job and its Vault connection.

    Raises:
        NotOurPod: the job is gone, is being deleted, or is not the one that was launched.
        VaultMisconfigured, StorageMisconfigured: the settings no longer hold a connection that the
            pod was told.
    """
    ref = pod.record.job
    item = await services.cluster.read(TRAINING_JOBS, ref.namespace, ref.name)
    job = parse_job(item) if item else None
    if item is None or job is None or job.ref.uid != ref.uid or job.deleting or job.spec is None:
        raise NotOurPod(f"{pod.caller}: its job is gone")
    if job.spec_sha256 != pod.record.spec_sha256:
        raise NotOurPod(f"{pod.caller}: its job was changed since it was launched")
    name = job.spec.vault_connection_ref.name
    connection = services.settings.connection(name)
    told = (pod.run.vault.url, pod.run.transit_mount)
    if (
        connection is None
        or not connection.allows(ref.namespace)
        or (connection.address, connection.transit_mount) != told
    ):
        raise VaultMisconfigured(
            f"Vault connection {name} is not what it was when the job was launched",
            fix="restore it in the operator's settings, or run the job again under a new name",
        )
    return Resolved(item, job.spec, connection, _storages(services.settings, job.spec, pod))


def _storages(settings: Settings, spec: JobSpec, pod: Attested) -> tuple[StorageConnection, ...]:
    storages = storages_of(spec, settings, pod.record.job.namespace)
    told = {s.name: s for s in (pod.run.dataset_storage, pod.run.output_storage) if s is not None}
    if storages is None or any(s.told(told[s.name].credentials) != told[s.name] for s in storages):
        raise StorageMisconfigured(
            f"storage connection {' or '.join(told)} is not what it was when the job was launched",
            fix="restore it in the operator's settings, or run the job again under a new name",
        )
    return storages


@asynccontextmanager
async def failing(services: Services, pod: Attested) -> AsyncIterator[None]:
    """Let an attested pod's own job fail for good on errors that no retry can mend."""
    try:
        yield
    except FATAL as error:
        await fail(services, pod, error)
        raise


@asynccontextmanager
async def showing_waits(services: Services, pod: Attested) -> AsyncIterator[None]:
    """Show in the job's status what its attested pod waits for, until it has its keys."""
    try:
        yield
    except SecuretrainError as error:
        waits = status_of(error) == HTTPStatus.SERVICE_UNAVAILABLE
        if waits and not isinstance(error, GrantLost):  # which the pod does not wait for: it ends
            reason = diagnose.from_error(error)
            if services.board.wait(pod.uid, pod.caller.pod_uid, reason):
                services.wakeup.enqueue(pod.uid)
        raise
    services.board.forget(pod.uid)


async def fail(services: Services, pod: Attested, error: SecuretrainError) -> None:
    """Mark a pod's job as failed, with the error's reason, and have it reconciled.

    A phase whose results are stored needs no more grants, so that it has none left is no failure.
    """
    done = pod.purpose if isinstance(error, GrantsExhausted) else None
    change = failed(error.reason, cut(str(error)), services.clock.rfc3339(), done)
    await services.records.update(pod.uid, change)
    services.wakeup.enqueue(pod.uid)
