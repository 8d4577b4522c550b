"""Which files are to blame when Vault does not open a key: a dataset's, or what keeps a model's.

Vault's answer is the same for both, and names neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from securetrain.errors import KeyRevoked, WrongKey


@contextmanager
def of_split(name: str) -> Iterator[None]:
    """Around the opening of the key of a dataset's split; raises WrongKey that names its files."""
    try:
        yield
    except WrongKey:
        raise WrongKey(
            f"Vault does not open the key of split {name}:"
            " dataset.json or policy.json is not the one that was sealed",
            fix="restore both files, and keys.json, from the data owner's copy",
        ) from None


@contextmanager
def of_model(kek: str) -> Iterator[None]:
    """Around the opening of a model's key; raises WrongKey, KeyRevoked that name no dataset."""
    try:
        yield
    except WrongKey:
        raise WrongKey(
            f"KEK {kek} does not open the model's key: it was not wrapped by it, or not for"
            " this job",
            fix="restore the model's key.json from a copy, or run the job again under a new name",
        ) from None
    except KeyRevoked:
        raise KeyRevoked(
            f"KEK {kek} no longer opens the model's key: its owner revoked that version",
            fix="have the owner of the KEK allow the version again, or run the job again under a"
            " new name",
        ) from None
