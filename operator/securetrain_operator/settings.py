"""Operator settings: one YAML file without secrets, mounted from the chart's ConfigMap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from securetrain.api.names import GATEWAY_PORT, HEALTH_PORT, Purpose
from securetrain.api.types import IMAGE, MAX_GRANTS, Model, Name
from securetrain.errors import InvalidInput
from securetrain.validation import first_problem
from securetrain.vault.connection import VaultConnection


class NamespaceRule(Model):
    """What jobs of one namespace may use; the rule for `*` holds where no other does."""

    claims: tuple[str, ...] = ("*",)
    """PersistentVolumeClaims that datasets and outputs may name; `*` alone means all."""
    images: tuple[str, ...] = ()
    """Train images, by digest, that jobs may name besides the built-in one."""


class Settings(Model):
    """All settings, with the names of the chart's values."""

    namespace: Name
    """The operator's own namespace, which holds the launch records."""
    audience: Annotated[str, Field(min_length=1, max_length=200)]
    """Audience of the pods' tokens; names cluster and release."""
    trainer_image: Annotated[str, Field(pattern=IMAGE, max_length=512)]
    """The built-in trainer, by digest; it also certifies."""
    gateway_url: str
    gateway_port: int = GATEWAY_PORT
    health_port: int = HEALTH_PORT
    gateway_names: tuple[str, ...]
    """DNS names in the gateway's certificate."""
    gateway_egress: dict[str, str] = {"app.kubernetes.io/name": "securetrain-operator"}
    """Labels of the operator's pods, for the jobs' NetworkPolicy."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to watch; none means all that carry the label securetrain.dev/jobs: enabled."""
    namespaces: dict[str, NamespaceRule] = {"*": NamespaceRule()}
    vault_connections: tuple[VaultConnection, ...]
    peer_address_hidden: bool = False
    """The CNI hides the pods' addresses from the gateway: skip that check."""
    ignored_annotation_prefixes: tuple[str, ...] = ()
    """Annotations that the CNI adds to pods."""
    vault_token_file: str = "/var/run/secrets/vault/token"  # noqa: S105 a path
    """The operator's own projected token for Vault."""
    audit_file: str | None = None
    """A file, on a volume of its own, that gets every audit line besides standard output."""
    require_guards: bool = True
    """Refuse grants while an admission guard is missing."""
    wrap_ttl_seconds: Annotated[int, Field(ge=10, le=60)] = 30
    max_grants_per_phase: Annotated[int, Field(ge=1, le=MAX_GRANTS // len(Purpose))] = 10
    """Pods of one phase and attempt that may get keys; a job's status shows those of all phases."""
    workers: Annotated[int, Field(ge=1, le=64)] = 4
    resync_seconds: Annotated[int, Field(ge=5, le=3600)] = 30

    def connection(self, name: str) -> VaultConnection | None:
        """The Vault connection of that name."""
        return next((c for c in self.vault_connections if c.name == name), None)

    def rule(self, namespace: str) -> NamespaceRule:
        """The rule that holds for a namespace."""
        return (
            self.namespaces.get(namespace) or self.namespaces.get("*") or NamespaceRule(claims=())
        )


def load(path: Path) -> Settings:
    """Read settings; raises InvalidInput naming the first wrong field."""
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        problem = first_problem(error)
        raise InvalidInput(
            problem.field or "settings",
            problem.value,
            f"is not valid ({problem.message})",
            fix=f"correct it in {path}",
        ) from None
