"""Data keys in the hands of whoever owns them: opened with the caller's own Vault login."""

from __future__ import annotations

import hmac

from securetrain.api.names import MODEL_KEY_NAME, Split, model_dek_context
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import WrongKey
from securetrain.sealed.dataset import SealedDataset, key_check
from securetrain.sealed.model import KeyFile, ModelManifest
from securetrain.sealed.rewrap import key_place, open_keys
from securetrain.secret import Secret
from securetrain.vault.custody import Custodian


def dataset_keys(sealed: SealedDataset) -> dict[Split, Secret]:
    """The data keys of all splits of a dataset, checked.

    Raises WrongKey, KeyRevoked, and what Vault refuses with.
    """
    place = key_place(sealed)
    with client_from_env() as client:
        return open_keys(sealed, Custodian(client, place.mount, place.kek))


def model_key(manifest: ModelManifest, key: KeyFile) -> Secret:
    """A model's data key, checked; raises as `dataset_keys`."""
    context = model_dek_context(key.job_uid, key.policy_sha256)
    with client_from_env() as client:
        dek = Custodian(client, key.mount, key.kek).open_model_key(key.wrapped, context)
    if not hmac.compare_digest(key_check(dek, manifest.id, MODEL_KEY_NAME), manifest.key_check):
        raise WrongKey(
            "The model's key is not the one that sealed it.",
            fix="restore key.json and model.json from a copy that you trust",
        )
    return dek
