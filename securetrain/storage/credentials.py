"""The login of an S3 server: read from files that kubelet mounted, never from the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securetrain.errors import StorageMisconfigured
from securetrain.secret import Secret

ACCESS_KEY_ID: Final = "AWS_ACCESS_KEY_ID"
SECRET_ACCESS_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 the name of a key of a Secret
SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 the same
REQUIRED: Final = (ACCESS_KEY_ID, SECRET_ACCESS_KEY)
MAX_BYTES: Final = 1 << 13


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login; both keys are needed, so that no library goes looking for others."""

    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None = None


def read_credentials(folder: Path) -> Credentials:
    """The login in a mounted Secret.

    Raises:
        StorageMisconfigured: a file is missing, empty, too long or not one line of ASCII.
    """
    key, secret = (_read(folder, name) for name in REQUIRED)
    token = _read(folder, SESSION_TOKEN) if (folder / SESSION_TOKEN).exists() else None
    return Credentials(key, secret, token)


def _read(folder: Path, name: str) -> Secret:
    try:
        with (folder / name).open("rb") as stream:
            value = stream.read(MAX_BYTES + 1).strip()
    except OSError:
        value = b""
    if not value or len(value) > MAX_BYTES or not all(0x20 < byte < 0x7F for byte in value):
        raise StorageMisconfigured(
            f"{name} of the storage's credentials is missing, empty or not one line",
            fix=f"give the connection's credentialsSecret the keys {' and '.join(REQUIRED)}",
        )
    return Secret(value)
