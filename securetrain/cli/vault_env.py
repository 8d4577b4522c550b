"""Vault as the command line finds it: in the variables that Vault's own command line uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from securetrain.cli.user_files import read_text
from securetrain.errors import UsageError
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient

ADDRESS: Final = "VAULT_ADDR"
TOKEN: Final = "VAULT_TOKEN"  # noqa: S105 the variable's name
CA_FILE: Final = "VAULT_CACERT"
TOKEN_FILE: Final = ".vault-token"  # noqa: S105 the file's name


def client_from_env() -> VaultClient:
    """A client with the caller's own login.

    Reads VAULT_ADDR, VAULT_CACERT, and VAULT_TOKEN or ~/.vault-token.

    Raises:
        UsageError: no address or no login.
        InvalidInput: the CA file cannot be read, or the address is not HTTPS.
    """
    address = os.environ.get(ADDRESS, "")
    if not address:
        raise UsageError(f"{ADDRESS} is not set.", fix=f"export {ADDRESS}=https://vault:8200")
    ca_file = os.environ.get(CA_FILE, "")
    ca_pem = read_text(CA_FILE, Path(ca_file)) if ca_file else None
    return VaultClient(address, ca_pem, token=_token())


def _token() -> Secret:
    token = os.environ.get(TOKEN, "")
    file = Path.home() / TOKEN_FILE
    if not token and file.is_file():
        token = read_text(f"~/{TOKEN_FILE}", file).strip()
    if not token:
        raise UsageError("There is no login to Vault.", fix=f"vault login, or set {TOKEN}")
    return Secret.from_text(token)
