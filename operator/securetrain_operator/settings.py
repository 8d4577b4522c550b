"""Operator settings: one YAML file without secrets, mounted from the chart's ConfigMap."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from securetrain import strict_yaml
from securetrain.api.names import GATEWAY_PORT, HEALTH_PORT, Purpose
from securetrain.api.types import IMAGE, MAX_GRANTS, SUBDOMAIN, Model, Name
from securetrain.connections import Connection, NamespaceOrAll
from securetrain.errors import InvalidInput
from securetrain.storage.connection import StorageConnection
from securetrain.validation import first_problem, parse_strictly
from securetrain.vault.connection import VaultConnection

Image = Annotated[str, Field(pattern=IMAGE, max_length=512)]
Claim = Annotated[str, Field(pattern=rf"^\*$|{SUBDOMAIN}", max_length=253)]
Port = Annotated[int, Field(ge=1, le=65_535)]
GatewayUrl = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
DnsName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]


def _an_address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("no IP address, such as 127.0.0.1 or ::1") from None


Address = Annotated[str, AfterValidator(_an_address)]


class NamespaceRule(Model):
    """What jobs of one namespace may use; the rule for `*` holds where no other does."""

    claims: tuple[Claim, ...] = ("*",)
    """PersistentVolumeClaims that datasets and outputs may name; `*` alone means all."""
    images: tuple[Image, ...] = ()
    """Train images, by digest, that jobs may name besides the built-in one."""


class Settings(Model):
    """All settings, with the names of the chart's values."""

    namespace: Name
    """The operator's own namespace, which holds the launch records."""
    audience: Annotated[str, Field(min_length=1, max_length=200)]
    """Audience of the pods' tokens; names cluster and release."""
    trainer_image: Image
    """The built-in trainer, by digest; it also certifies."""
    gateway_url: GatewayUrl
    gateway_port: Port = GATEWAY_PORT
    health_port: Port = HEALTH_PORT
    listen_address: Address | None = None
    """Address of this machine that both ports are on, for an operator outside a pod; else all."""
    gateway_names: Annotated[tuple[DnsName, ...], Field(min_length=1)]
    """DNS names in the gateway's certificate."""
    gateway_egress: dict[str, str] = {"app.kubernetes.io/name": "securetrain-operator"}
    """Labels of the operator's pods, for the jobs' NetworkPolicy."""
    watch_namespaces: tuple[Name, ...] = ()
    """Namespaces to watch; none means all that carry the label securetrain.dev/jobs: enabled."""
    namespaces: dict[NamespaceOrAll, NamespaceRule] = {"*": NamespaceRule()}
    vault_connections: Annotated[tuple[VaultConnection, ...], Field(min_length=1)]
    storage_connections: tuple[StorageConnection, ...] = ()
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

    @field_validator("vault_connections", "storage_connections")
    @classmethod
    def _named_apart(cls, found: tuple[Connection, ...]) -> tuple[Connection, ...]:
        names = [connection.name for connection in found]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two connections have the name {double}")
        return found

    @field_validator("health_port")
    @classmethod
    def _apart(cls, port: int, info: ValidationInfo) -> int:
        if port == info.data.get("gateway_port"):
            raise ValueError("gatewayPort is the same: choose another")
        return port

    def connection(self, name: str) -> VaultConnection | None:
        """The Vault connection of that name."""
        return next((c for c in self.vault_connections if c.name == name), None)

    def storage(self, name: str) -> StorageConnection | None:
        """The storage connection of that name."""
        return next((c for c in self.storage_connections if c.name == name), None)

    def rule(self, namespace: str) -> NamespaceRule:
        """The rule that holds for a namespace."""
        return (
            self.namespaces.get(namespace) or self.namespaces.get("*") or NamespaceRule(claims=())
        )


def load(path: Path) -> Settings:
    """Read settings; raises InvalidInput naming the first wrong field."""
    fix = f"correct it in {path}, or in the chart's values"
    try:
        documents = strict_yaml.load_all(path.read_text())
        document = documents[0] if len(documents) == 1 else None
        if not isinstance(document, dict):
            raise InvalidInput("settings", str(path), "does not hold exactly one object", fix=fix)
        settings = parse_strictly(Settings, document)
        _require_certificates(settings, fix)
        return settings
    except ValidationError as error:
        raise first_problem(error).error(fix=fix) from None
    except strict_yaml.YamlError as problem:
        raise InvalidInput("settings", str(path), str(problem), fix=fix) from None
    except (OSError, UnicodeDecodeError) as error:
        told = f"cannot be read ({type(error).__name__})"
        mount = "mount the chart's ConfigMap there, or set SECURETRAIN_SETTINGS"
        raise InvalidInput("settings", str(path), told, fix=mount) from None


def _require_certificates(settings: Settings, fix: str) -> None:
    bundles = {f"vaultConnections.{i}.ca": c.ca for i, c in enumerate(settings.vault_connections)}
    for index, storage in enumerate(settings.storage_connections):
        if storage.ca is not None:
            bundles[f"storageConnections.{index}.ca"] = storage.ca
    for field, bundle in bundles.items():
        try:
            x509.load_pem_x509_certificates(bundle.encode())
        except ValueError:
            told = "holds no certificate in PEM"
            raise InvalidInput(field, bundle, told, fix=fix) from None
