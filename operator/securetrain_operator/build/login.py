"""How a pod gets the login of its object storage: a Secret that only kubelet reads.

The operator has no verb on Secrets, so it cannot look whether one is there: a pod whose Secret is
missing does not start, and `core.diagnose` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from securetrain.api import names
from securetrain.storage.connection import StorageConnection
from securetrain.storage.credentials import REQUIRED, SESSION_TOKEN

READ_ONLY: Final = 0o400
"""Mode of the files; for a pod with an fsGroup kubelet lets that group read them too."""


def credentials_folder(storage: StorageConnection) -> str:
    """Where a storage connection's login is mounted."""
    return f"{names.STORAGE_MOUNT}/{storage.name}"


def credential_volumes(storages: Sequence[StorageConnection]) -> list[dict[str, Any]]:
    """One volume per connection, of the named keys only; a session token may be absent."""
    return [
        {
            "name": _volume(index),
            "projected": {"sources": _sources(storage.credentials_secret), "defaultMode": READ_ONLY},
        }
        for index, storage in enumerate(storages)
    ]


def credential_mounts(storages: Sequence[StorageConnection]) -> list[dict[str, Any]]:
    """The mounts of `credential_volumes`."""
    return [
        {"name": _volume(index), "mountPath": credentials_folder(storage), "readOnly": True}
        for index, storage in enumerate(storages)
    ]


def _volume(index: int) -> str:
    return f"storage-{index}"


def _sources(secret: str) -> list[dict[str, Any]]:
    return [
        {"secret": {"name": secret, "items": [_item(key) for key in REQUIRED]}},
        {"secret": {"name": secret, "items": [_item(SESSION_TOKEN)], "optional": True}},
    ]


def _item(key: str) -> dict[str, str]:
    return {"key": key, "path": key}
