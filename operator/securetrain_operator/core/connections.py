"""The connections that a job names, and what is said where it may not use one. Pure.

A job names connections of the operator's settings; it can never give an address of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from securetrain.api.types import JobSpec
from securetrain.connections import Connection
from securetrain.storage.connection import StorageConnection
from securetrain.vault.connection import VaultConnection
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.observed import storage_fields, storage_names
from securetrain_operator.settings import Settings


def connection_of(spec: JobSpec, settings: Settings, namespace: str) -> VaultConnection | None:
    """The Vault connection that a job names, if its namespace may use it."""
    connection = settings.connection(spec.vault_connection_ref.name)
    return connection if connection and connection.allows(namespace) else None


def storages_of(
    spec: JobSpec, settings: Settings, namespace: str
) -> tuple[StorageConnection, ...] | None:
    """The storage connections that a job names; None if its namespace may not use them all."""
    found = [settings.storage(name) for name in storage_names(spec)]
    usable = tuple(storage for storage in found if storage and storage.allows(namespace))
    return usable if len(usable) == len(found) else None


def connection_lack(spec: JobSpec, settings: Settings, namespace: str) -> Diagnosis | None:
    """The first connection that the job has to wait for."""
    vault = spec.vault_connection_ref.name
    lack = _lack("Vault", "vaultConnectionRef.name", vault, settings.vault_connections, namespace)
    for storage in storage_names(spec):
        fields = storage_fields(spec, storage)
        lack = lack or _lack("Storage", fields, storage, settings.storage_connections, namespace)
    return lack


def _lack(
    kind: str, field: str, name: str, known: Sequence[Connection], namespace: str
) -> Diagnosis | None:
    called = f"{kind if kind == 'Vault' else kind.lower()} connection"
    found = next((connection for connection in known if connection.name == name), None)
    if found is None:
        usable = [connection.name for connection in known if connection.allows(namespace)]
        choice = f"name one of {', '.join(usable)} in a new job, or " if usable else ""
        fix = f"{choice}have the platform admin add it to the operator's settings"
        message = f"spec.{field}: no {called} is named {name}."
        return Diagnosis(f"{kind}ConnectionUnknown", message, fix)
    if found.allows(namespace):
        return None
    fix = f"have the platform admin add {namespace} to its allowedNamespaces"
    message = f"spec.{field}: namespace {namespace} may not use the {called} {name}."
    return Diagnosis(f"{kind}ConnectionNotAllowed", message, fix)


def secret_names(spec: JobSpec, settings: Settings) -> str:
    """The Secrets with the logins of a job's storage, for people; empty if it needs none."""
    found = (settings.storage(name) for name in storage_names(spec))
    return " or ".join(dict.fromkeys(s.credentials_secret for s in found if s))
