"""What a data owner does: wrap data keys for a KEK, and open them.

Only here do plain keys and Vault's encrypt meet. Owners hold `update`, never `create`, and a KEK
is looked at before its first use, so that a mistyped name never makes a new KEK.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from securetrain.api.gateway import WRAPPED
from securetrain.errors import VaultMisconfigured, WrongKey
from securetrain.secret import Secret
from securetrain.vault.answers import SETUP
from securetrain.vault.client import VaultClient, checked_segment

KEK_TYPE: Final = "aes256-gcm96"
DEK_BYTES: Final = 32

_WRAPPED: Final = re.compile(WRAPPED)
_REFUSED_FLAGS: Final = ("convergent_encryption", "exportable", "allow_plaintext_backup")


def kek_faults(data: Mapping[str, Any], *, derived: bool) -> tuple[str, ...]:
    """What is wrong with a transit key, as Vault describes it, for use as a KEK. Pure."""
    faults = [] if data.get("type") == KEK_TYPE else [f"type is not {KEK_TYPE}"]
    if bool(data.get("derived")) is not derived:
        faults.append(f"derived is not {str(derived).lower()}")
    return (*faults, *(f"{flag} is true" for flag in _REFUSED_FLAGS if data.get(flag)))


class Custodian:
    """An owner's use of one KEK.

    Args:
        client: under the owner's token.
        mount: the transit mount.
        kek: the KEK's name.
    """

    def __init__(self, client: VaultClient, mount: str, kek: str) -> None:
        self._client = client
        self._mount = checked_segment("transit mount", mount)
        self._kek = checked_segment("KEK", kek)
        self._derived: bool | None = None

    def require(self, *, derived: bool = False) -> None:
        """Raise VaultMisconfigured unless the KEK exists and is of the right kind."""
        if self._derived is derived:
            return
        found = self._client.find(f"{self._mount}/keys/{self._kek}")
        if found is None:
            raise VaultMisconfigured(
                f"there is no KEK {self._kek} in {self._mount}",
                fix=f"check the name, or ask your Vault admin to {SETUP}",
            )
        faults = kek_faults(found.data or {}, derived=derived)
        if faults:
            raise VaultMisconfigured(
                f"KEK {self._kek} is of the wrong kind: {', '.join(faults)}",
                fix=f"use another name and {SETUP}",
            )
        self._derived = derived

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        """Wrap a 32-byte data key, bound to `associated_data`; `vault:v…` text."""
        if len(dek) != DEK_BYTES:
            raise WrongKey(f"a data key has {DEK_BYTES} bytes, not {len(dek)}")
        if not associated_data:
            raise WrongKey("a data key must be bound to associated data")
        self.require()
        body = {"plaintext": _base64(dek.reveal()), "associated_data": _base64(associated_data)}
        wrapped = self._client.write(f"{self._mount}/encrypt/{self._kek}", body).text("ciphertext")
        return self._well_formed(wrapped)

    def unwrap(self, wrapped: str, associated_data: bytes) -> Secret:
        """Open a wrapped data key; raises WrongKey if KEK or associated data do not fit."""
        self.require()
        return self._decrypt(wrapped, {"associated_data": _base64(associated_data)})

    def open_model_key(self, wrapped: str, context: bytes) -> Secret:
        """Open a model's data key; raises WrongKey if KEK or context do not fit."""
        self.require(derived=True)
        return self._decrypt(wrapped, {"context": _base64(context)})

    def _decrypt(self, wrapped: str, binding: Mapping[str, str]) -> Secret:
        body = {"ciphertext": self._well_formed(wrapped), **binding}
        plain = self._client.write(f"{self._mount}/decrypt/{self._kek}", body).text("plaintext")
        try:
            dek = Secret(base64.b64decode(plain, validate=True))
        except (ValueError, binascii.Error):
            dek = Secret(b"")
        if len(dek) != DEK_BYTES:
            raise WrongKey(f"KEK {self._kek} opened something that is not a data key")
        return dek

    def _well_formed(self, wrapped: str) -> str:
        if not _WRAPPED.fullmatch(wrapped):
            raise WrongKey(
                f"a key wrapped by KEK {self._kek} is malformed", fix="check keys.json or key.json"
            )
        return wrapped


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
