"""A named Vault connection: an operator setting, never part of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from securetrain.api.gateway import MountName
from securetrain.api.types import KekName, Model, Name


class VaultConnection(Model):
    """Where a Vault is and how the operator uses it: whoever writes it could steal logins."""

    name: Name = "default"
    address: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.\-\[\]:]+$", max_length=253)]
    ca: str
    """PEM bundle that the Vault server's certificate is checked against."""
    auth_mount: MountName = "kubernetes-securetrain"
    audience: str = "vault"
    transit_mount: MountName = "transit"
    pki_mount: MountName = "securetrain-pki"
    pki_role: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=63)] = (
        "gateway"
    )
    signing_key: KekName = "securetrain-models"
    allowed_namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs may name this connection; `*` alone means all."""
    egress_cidrs: tuple[str, ...] = ()
    """Where job pods may connect to reach this Vault."""

    def allows(self, namespace: str) -> bool:
        """True if jobs of `namespace` may use this connection."""
        return "*" in self.allowed_namespaces or namespace in self.allowed_namespaces
