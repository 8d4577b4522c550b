"""Wraps a dataset's data keys again: under a new version of the KEK, and to a new policy.

Shards are neither read nor changed. Each re-wrap makes a KEK version of its own, so that to revoke
is to have Vault refuse all versions before it. The order lets a crash at any point be followed by
the same command again:

    open every key · rotate · wrap and check · replace the two files · read them back · revoke
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Split, dek_associated_data
from securetrain.errors import ManifestInvalid, WrongKey
from securetrain.sealed import pair
from securetrain.sealed.dataset import (
    DATASET_FILE,
    KEYS_FILE,
    SealedDataset,
    dump_keys,
    key_check,
    load_dataset,
)
from securetrain.sealed.model import KeyFile
from securetrain.sealed.policy import parse_policy
from securetrain.secret import Secret


class Versions(Protocol):
    """Versions of a KEK."""

    @property
    def latest(self) -> int:
        """The one that wraps."""
        ...

    @property
    def least(self) -> int:
        """The oldest one whose wrapped keys are opened."""
        ...


class Opener(Protocol):
    """Opens wrapped data keys, through the owner's login."""

    def unwrap(self, wrapped: str, associated_data: bytes) -> Secret:
        """The data key; raises WrongKey or KeyRevoked."""
        ...


class Kek(Opener, Protocol):
    """One KEK in the owner's hand."""

    def wrap(self, dek: Secret, associated_data: bytes, *, version: int | None = None) -> str:
        """The wrapped key."""
        ...

    def versions(self) -> Versions:
        """The versions as they are now."""
        ...

    def rotate(self) -> int:
        """Make a new version; its number."""
        ...

    def refuse_before(self, version: int) -> None:
        """Have nothing opened that an earlier version wrapped."""
        ...


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a dataset's keys are wrapped, and by which version at most."""

    mount: str
    kek: str
    version: int
    """The highest one among the splits."""


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a re-wrap did."""

    version: int
    """KEK version that wraps the keys now."""
    wrapped: bool
    """False if they were already wrapped as asked."""
    policy_sha256: str
    previous_policy_sha256: str
    refused_before: int
    """Vault opens nothing that a version before this one wrapped."""


def key_place(sealed: SealedDataset) -> KeyPlace:
    """The one KEK of a dataset; raises ManifestInvalid if keys.json names several."""
    places = {(key.mount, key.kek) for key in sealed.keys.values()}
    if len(places) != 1:
        raise ManifestInvalid(f"{KEYS_FILE} names more than one KEK.")
    ((mount, kek),) = places
    return KeyPlace(mount, kek, max(map(key_version, sealed.keys.values())))


def open_keys(sealed: SealedDataset, kek: Opener) -> dict[Split, Secret]:
    """The data keys of all splits, each compared with its key check.

    Raises:
        WrongKey: manifest, policy and keys do not belong together.
        KeyRevoked: they were revoked.
    """
    deks: dict[Split, Secret] = {}
    for split, key in sealed.keys.items():
        bound_to = dek_associated_data(split, sealed.manifest_sha256, sealed.policy_sha256)
        deks[split] = kek.unwrap(key.wrapped, bound_to)
        told = sealed.manifest.splits[split].key_check
        if not hmac.compare_digest(key_check(deks[split], sealed.manifest.id, split), told):
            raise WrongKey(f"The key of split {split} is not the one that sealed the dataset.")
    return deks


def settled(sealed: SealedDataset, versions: Versions, policy: bytes) -> bool:
    """Whether a re-wrap has made the latest version for these keys and this policy.

    Then nothing earlier of this dataset was wrapped by it, and to refuse all before it is enough:
    the same command after a crash, or once more, costs no version and hurts no copy. Version 1 is
    never a re-wrap's.
    """
    versions_used = set(map(key_version, sealed.keys.values()))
    return (
        policy == sealed.policy_bytes and versions_used == {versions.latest} and versions.latest > 1
    )


def rewrap(
    folder: Path,
    sealed: SealedDataset,
    kek: Kek,
    *,
    policy: bytes | None = None,
    revoke: bool = False,
    move: tuple[str, Kek] | None = None,
) -> Rewrapped:
    """Wrap a dataset's keys again.

    Args:
        folder: the dataset.
        sealed: its description, as the owner was shown it.
        kek: the KEK that `key_place` names.
        policy: bytes of the policy from now on; None keeps the present one. To revoke needs one,
            since whoever writes to the storage may have put an older one back.
        revoke: make every earlier wrapped key useless.
        move: another KEK of the same mount to wrap by, and its name. What the present one wrapped
            stays valid, so it excludes `revoke`.

    Raises:
        ManifestInvalid: the policy is not valid, or the dataset changed since it was shown.
        WrongKey, KeyRevoked, Vault…: nothing was replaced; do the same again.
        BadConfiguration: the files cannot be written; do the same again.
    """
    if revoke and (policy is None or move is not None):
        raise ValueError("to revoke takes a policy, and the KEK that wrapped the keys")
    name, target = move or (key_place(sealed).kek, kek)
    with pair.alone(folder, DATASET_FILE):
        pair.finish(folder)
        if load_dataset(folder) != sealed:
            raise ManifestInvalid(f"{folder} changed meanwhile.", fix="look at it and try again")
        wanted = sealed.policy_bytes if policy is None else policy
        parse_policy(wanted)
        wraps = not (revoke and settled(sealed, kek.versions(), wanted))
        version = (
            _wrap_again(folder, sealed, kek, name, target, wanted)
            if wraps
            else key_place(sealed).version
        )
        open_keys(load_dataset(folder), target)  # what lies there now opens, before others do not
        if revoke:
            kek.refuse_before(version)
        return Rewrapped(
            version=version,
            wrapped=wraps,
            policy_sha256=sha256_hex(wanted),
            previous_policy_sha256=sealed.policy_sha256,
            refused_before=target.versions().least,
        )


def _wrap_again(
    folder: Path, sealed: SealedDataset, kek: Opener, name: str, target: Kek, policy: bytes
) -> int:
    deks, mount = open_keys(sealed, kek), key_place(sealed).mount
    version, policy_sha256 = target.rotate(), sha256_hex(policy)
    keys: dict[Split, WrappedDek] = {}
    for split, dek in deks.items():
        bound_to = dek_associated_data(split, sealed.manifest_sha256, policy_sha256)
        wrapped = target.wrap(dek, bound_to, version=version)
        keys[split] = WrappedDek(mount=mount, kek=name, wrapped=wrapped)
        if key_version(keys[split]) != version or target.unwrap(wrapped, bound_to) != dek:
            raise WrongKey(f"Vault did not wrap the key of split {split} as it was asked to.")
    pair.replace(folder, policy, dump_keys(keys))
    return version


def key_version(key: WrappedDek | KeyFile) -> int:
    """The KEK's version that wrapped a key."""
    return int(key.wrapped.split(":")[1].removeprefix("v"))
