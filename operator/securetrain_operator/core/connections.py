"""The connections that a job names, and what is said where it may not use one. Pure.

A job names connections of the operator's settings; it can never give an address of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    vault = _Named("Vault", spec.vault_connection_ref.name, "vaultConnectionRef.name")
    if said := vault.unknown(settings.vault_connections, namespace):
        return Diagnosis("VaultConnectionUnknown", *said)
    if said := vault.closed(settings.vault_connections, namespace):
        return Diagnosis("VaultConnectionNotAllowed", *said)
    for name in storage_names(spec):
        storage = _Named("storage", name, storage_fields(spec, name))
        if said := storage.unknown(settings.storage_connections, namespace):
            return Diagnosis("StorageConnectionUnknown", *said)
        if said := storage.closed(settings.storage_connections, namespace):
            return Diagnosis("StorageConnectionNotAllowed", *said)
    return None


@dataclass(frozen=True, slots=True)
class _Named:
    """A connection as a job names it; what is said about it is a message and its fix."""

    kind: str
    name: str
    field: str

    def unknown(self, known: Sequence[Connection], namespace: str) -> tuple[str, str] | None:
        if any(connection.name == self.name for connection in known):
            return None
        usable = [connection.name for connection in known if connection.allows(namespace)]
        choice = f"name one of {', '.join(usable)} in a new job, or " if usable else ""
        message = f"spec.{self.field}: no {self.kind} connection is named {self.name}."
        return message, f"{choice}have the platform admin add it to the operator's settings"

    def closed(self, known: Sequence[Connection], namespace: str) -> tuple[str, str] | None:
        if any(c.name == self.name and c.allows(namespace) for c in known):
            return None
        called = f"{self.kind} connection {self.name}"
        message = f"spec.{self.field}: namespace {namespace} may not use the {called}."
        return message, f"have the platform admin add {namespace} to its allowedNamespaces"


def secret_names(spec: JobSpec, settings: Settings) -> str:
    """The Secrets with the logins of a job's storage, for people; empty if it needs none."""
    found = (settings.storage(name) for name in storage_names(spec))
    return " or ".join(dict.fromkeys(s.credentials_secret for s in found if s))
