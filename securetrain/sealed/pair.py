"""policy.json and keys.json: one thing in two files, read and replaced as one.

Each wrapped key is bound to the policy's bytes, so one file without the other opens nothing. A
replacement is first written whole into `rewrap.json`, which appears by one rename. From then on it
counts instead of the two files, until both hold what it says and it is removed. So a crash at any
moment leaves a dataset that can be read, and the next re-wrap tidies up.
"""

from __future__ import annotations

import base64
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import MAX_POLICY_BYTES, Sha256
from securetrain.api.types import Model
from securetrain.errors import BadConfiguration, ManifestInvalid
from securetrain.sealed import files, strict_json
from securetrain.sealed.files import SealedFolder

POLICY_FILE: Final = "policy.json"
KEYS_FILE: Final = "keys.json"
PENDING_FILE: Final = "rewrap.json"
"""There only while the two others are being replaced, or after that was interrupted."""

MAX_KEYS_BYTES: Final = 1 << 14
MAX_PENDING_BYTES: Final = 2 * (MAX_POLICY_BYTES + MAX_KEYS_BYTES)
TRIES: Final = 5


class Pending(Model):
    """rewrap.json: what the two files are about to hold, in base64.

    Its digest tells a damaged one, whose keys could mean the same or be refused by Vault only.
    """

    format: Literal["securetrain/rewrap/v1"]
    policy: str
    keys: str
    sha256: Sha256
    """Of both texts, the first one ended by a newline."""

    @field_validator("policy", "keys")
    @classmethod
    def _fits(cls, text: str, info: ValidationInfo) -> str:
        size = len(base64.b64decode(text, validate=True))
        limit = MAX_POLICY_BYTES if info.field_name == "policy" else MAX_KEYS_BYTES
        if size > limit:
            raise ValueError(f"{size} bytes, more than {limit}")
        return text

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.sha256 != _digest(self.policy, self.keys):
            raise ValueError("sha256 is not the digest of policy and keys")
        return self

    @classmethod
    def of(cls, policy: bytes, keys: bytes) -> Self:
        """The record of a replacement by these bytes."""
        texts = [base64.b64encode(data).decode() for data in (policy, keys)]
        return cls(
            format="securetrain/rewrap/v1",
            policy=texts[0],
            keys=texts[1],
            sha256=_digest(*texts),
        )

    @property
    def contents(self) -> tuple[bytes, bytes]:
        """Bytes of policy.json and keys.json."""
        return base64.b64decode(self.policy), base64.b64decode(self.keys)


def _digest(policy: str, keys: str) -> str:
    return sha256_hex(f"{policy}\n{keys}".encode())


def read(folder: SealedFolder) -> tuple[bytes, bytes]:
    """Bytes of policy.json and keys.json that belong together.

    Raises:
        ManifestInvalid: one of them is missing, a link or too long, or they change all the time.
        BadConfiguration: they may not be read.
    """
    for left in reversed(range(TRIES)):
        try:
            if (found := _read_once(folder)) is not None:
                return found
        except ManifestInvalid:  # also of a file that was replaced while it was read
            if not left:
                raise
    raise ManifestInvalid(
        f"{POLICY_FILE} and {KEYS_FILE} change while they are read.",
        fix="wait until nobody re-wraps the dataset",
    )


def _read_once(folder: SealedFolder) -> tuple[bytes, bytes] | None:
    """Both files; None if they were replaced in between. Raises ManifestInvalid."""
    if (pending := _pending(folder)) is not None:
        return pending.contents
    policy = files.read(folder, POLICY_FILE, MAX_POLICY_BYTES)
    keys = files.read(folder, KEYS_FILE, MAX_KEYS_BYTES)
    # A replacement in between has begun, or has ended and left another policy.
    if _exists(folder) or files.read(folder, POLICY_FILE, MAX_POLICY_BYTES) != policy:
        return None
    return policy, keys


def replace(folder: Path, policy: bytes, keys: bytes) -> None:
    """Replace both files; what was there, or what is new, can be read at every moment."""
    if policy == files.read(folder, POLICY_FILE, MAX_POLICY_BYTES):
        files.replace(folder, KEYS_FILE, keys)  # one rename: nothing to tie together
        return
    files.replace(folder, PENDING_FILE, dump_pending(policy, keys))
    finish(folder)


def dump_pending(policy: bytes, keys: bytes) -> bytes:
    """Bytes of rewrap.json."""
    return strict_json.dump(Pending.of(policy, keys))


def parse_pending(data: bytes) -> Pending:
    """Parse rewrap.json; raises ManifestInvalid."""
    return strict_json.parse(Pending, data, name=PENDING_FILE, limit=MAX_PENDING_BYTES)


def finish(folder: Path) -> bool:
    """Finish a replacement that was interrupted; True if there was one.

    Raises:
        ManifestInvalid: `rewrap.json` is not what a re-wrap writes.
    """
    pending = _pending(folder)
    if pending is None:
        return False
    for name, data in zip((POLICY_FILE, KEYS_FILE), pending.contents, strict=True):
        files.replace(folder, name, data)
    files.remove(folder, PENDING_FILE)
    return True


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Keep other re-wraps of the dataset off while the block runs.

    A file system that knows no locks, as some network ones, is taken as it is.

    Args:
        folder: the dataset.
        name: a file of it that is never replaced.

    Raises:
        BadConfiguration: another one is under way.
    """
    with files.open_regular(folder, name, files.ANY_SIZE, ManifestInvalid) as (stream, _):
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfiguration(
                f"Another re-wrap of {folder} is under way.", fix="wait until it has ended"
            ) from None
        except OSError:  # no locks here: nothing is lost but this courtesy
            yield
        else:
            yield


def _exists(folder: SealedFolder) -> bool:
    return files.exists(folder, PENDING_FILE)


def _pending(folder: SealedFolder) -> Pending | None:
    if not _exists(folder):
        return None
    try:
        data = files.read(folder, PENDING_FILE, MAX_PENDING_BYTES)
    except ManifestInvalid:
        if not _exists(folder):  # it was finished this moment
            return None
        raise
    return parse_pending(data)
