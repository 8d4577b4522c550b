"""A named Vault connection: an operator setting, never part of a job."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from securetrain.api.gateway import MountName
from securetrain.api.types import DNS_LABEL, KekName, Model, Name

NamespaceOrAll = Annotated[str, Field(pattern=rf"^\*$|{DNS_LABEL}", max_length=63)]


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("write a network, such as 192.0.2.0/24, without host bits") from None
    return text


Cidr = Annotated[str, AfterValidator(_network)]


class VaultConnection(Model):
    """Where a Vault is and how the operator uses it: whoever writes it could steal logins."""

    name: Name = "default"
    address: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.\-\[\]:]+$", max_length=253)]
    ca: Annotated[str, Field(min_length=1, max_length=1 << 20)]
    """PEM bundle that the Vault server's certificate is checked against."""
    auth_mount: MountName = "kubernetes-securetrain"
    audience: Annotated[str, Field(min_length=1, max_length=200)] = "vault"
    transit_mount: MountName = "transit"
    pki_mount: MountName = "securetrain-pki"
    pki_role: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=63)] = (
        "gateway"
    )
    signing_key: KekName = "securetrain-models"
    allowed_namespaces: tuple[NamespaceOrAll, ...] = ()
    """Namespaces whose jobs may name this connection; `*` alone means all."""
    egress_cidrs: tuple[Cidr, ...] = ()
    """Where job pods may connect to reach this Vault."""

    def allows(self, namespace: str) -> bool:
        """True if jobs of `namespace` may use this connection."""
        return "*" in self.allowed_namespaces or namespace in self.allowed_namespaces
