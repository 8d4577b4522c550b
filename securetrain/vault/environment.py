"""A person's own login to Vault, as the `vault` command finds it.

Neither the operator nor a pod ever takes a login from its environment.
"""

from __future__ import annotations

import os
from pathlib import Path

from securetrain.errors import BadConfiguration
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient


def client_from_environment() -> VaultClient:
    """A client by VAULT_ADDR, VAULT_CACERT and VAULT_TOKEN or ~/.vault-token.

    Raises BadConfiguration that names what is missing.
    """
    address = os.environ.get("VAULT_ADDR", "")
    if not address:
        raise BadConfiguration("VAULT_ADDR is not set", fix="export VAULT_ADDR=https://host:8200")
    if os.environ.get("VAULT_NAMESPACE"):
        raise BadConfiguration(
            "VAULT_NAMESPACE is set, and Vault namespaces are not supported", fix="unset it"
        )
    return VaultClient(address, ca_from_environment(), token=_token())


def ca_from_environment() -> str | None:
    """The PEM text that VAULT_CACERT names; None, so the system's CAs, if it is not set."""
    file = os.environ.get("VAULT_CACERT")
    return _text(Path(file), "VAULT_CACERT") if file else None


def _token() -> Secret:
    if token := os.environ.get("VAULT_TOKEN"):
        return Secret.from_text(token)
    file = Path.home() / ".vault-token"
    if not file.exists():
        raise BadConfiguration("there is no Vault login", fix="vault login, or set VAULT_TOKEN")
    return Secret.from_text(_text(file, "the Vault token").strip())


def _text(file: Path, what: str) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeError) as error:
        raise BadConfiguration(
            f"{what} cannot be read from {file} ({type(error).__name__})",
            fix="name a readable text file",
        ) from None
