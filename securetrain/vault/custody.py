"""What a data owner does with a KEK: wrap data keys and open them, rotate, revoke, destroy.

Only here do plain keys and Vault's encrypt meet. Owners hold `update`, never `create`, and a KEK
is looked at before its first use, so that a mistyped name never makes a new KEK.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.gateway import WRAPPED
from securetrain.errors import VaultMisconfigured, WrongKey
from securetrain.secret import Secret
from securetrain.vault import blame
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


@dataclass(frozen=True, slots=True)
class KekVersions:
    """Versions of a KEK, counted from 1."""

    latest: int
    """The one that wraps."""
    least: int
    """The oldest one whose wrapped keys Vault still opens."""
    kept: int
    """The oldest one that still exists; earlier ones were destroyed."""


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
        self._key = f"{self._mount}/keys/{self._kek}"
        self._derived: bool | None = None

    def require(self, *, derived: bool = False) -> None:
        """Raise VaultMisconfigured unless the KEK exists and is of the right kind."""
        if self._derived is derived:
            return
        found = self._client.find(self._key)
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

    def wrap(self, dek: Secret, associated_data: bytes, *, version: int | None = None) -> str:
        """Wrap a 32-byte data key, bound to `associated_data`; `vault:v…` text.

        Args:
            dek: the data key.
            associated_data: needed again to open it.
            version: of the KEK; None for the latest.
        """
        if len(dek) != DEK_BYTES:
            raise WrongKey(f"a data key has {DEK_BYTES} bytes, not {len(dek)}")
        if not associated_data:
            raise WrongKey("a data key must be bound to associated data")
        self.require()
        body: dict[str, str | int] = {
            "plaintext": _base64(dek.reveal()),
            "associated_data": _base64(associated_data),
        }
        if version is not None:
            body["key_version"] = version
        wrapped = self._client.write(f"{self._mount}/encrypt/{self._kek}", body).text("ciphertext")
        return self._well_formed(wrapped)

    def versions(self) -> KekVersions:
        """The KEK's versions as they are now; raises VaultMisconfigured as `require`."""
        self.require()
        data = self._client.read(self._key).data or {}
        # A version that was never set is answered as 0.
        latest, least, kept = (
            _version(data.get(name), self._kek)
            for name in ("latest_version", "min_decryption_version", "min_available_version")
        )
        return KekVersions(latest=latest, least=max(1, least), kept=max(1, kept))

    def rotate(self) -> int:
        """Make a new version of the KEK; its number."""
        self.require()
        before = self.versions().latest
        answer = self._client.write(f"{self._key}/rotate", {}).data or {}
        made = _version(answer.get("latest_version", 0), self._kek) or self.versions().latest
        if made <= before:
            raise VaultMisconfigured(f"Vault did not rotate KEK {self._kek}", fix=SETUP)
        return made

    def refuse_before(self, version: int) -> None:
        """Have Vault open nothing more that an earlier version wrapped; never takes that back."""
        if self.versions().least < version:
            self._client.write(f"{self._key}/config", {"min_decryption_version": version})
        if self.versions().least < version:
            raise VaultMisconfigured(f"Vault still opens old versions of {self._kek}", fix=SETUP)

    def destroy_before(self, version: int) -> None:
        """Destroy all versions before `version`, for ever: what they wrapped is lost.

        Later ones that were revoked stay so.
        """
        least = max(version, self.versions().least)
        bounds = {"min_decryption_version": least, "min_encryption_version": least}
        self._client.write(f"{self._key}/config", bounds)
        self._client.write(f"{self._key}/trim", {"min_available_version": version})
        if self.versions().kept < version:
            raise VaultMisconfigured(f"Vault kept old versions of {self._kek}", fix=SETUP)

    def unwrap(self, wrapped: str, associated_data: bytes) -> Secret:
        """Open a wrapped data key; raises WrongKey if KEK or associated data do not fit."""
        self.require()
        return self._decrypt(wrapped, {"associated_data": _base64(associated_data)})

    def open_model_key(self, wrapped: str, context: bytes) -> Secret:
        """Open a model's data key.

        Raises WrongKey if KEK or context do not fit, KeyRevoked if the KEK's owner revoked it.
        """
        self.require(derived=True)
        with blame.of_model(self._kek):
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


def _version(value: Any, kek: str) -> int:
    if type(value) is not int or value < 0:
        raise VaultMisconfigured(
            f"Vault tells no versions of KEK {kek}", fix="check that the address is a Vault's"
        )
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
