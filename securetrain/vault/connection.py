"""A named Vault connection: an operator setting, never part of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from securetrain.api.gateway import MountName
from securetrain.api.types import KekName
from securetrain.connections import Connection, HttpsUrl


class VaultConnection(Connection):
    """Where a Vault is and how the operator uses it."""

    address: HttpsUrl
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
