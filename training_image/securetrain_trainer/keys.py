"""How a pod gets its keys: it asks the gateway for single-use tokens and spends each at Vault.

Which keys are asked for follows from the purpose alone: nothing that training code does can make
this module ask for the key of the test split, and neither the gateway nor Vault would give it.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable
from typing import Protocol

from securetrain.api.gateway import GrantRequest, GrantResponse, KeyGrant, RunSpec
from securetrain.api.names import MODEL_KEY_NAME, SPLITS_OF
from securetrain.api.status import DatasetStatus
from securetrain.errors import GrantTampered, WrongKey
from securetrain.sealed.dataset import SealedDataset, key_check
from securetrain.secret import Secret
from securetrain.vault.unwrap import unwrap
from securetrain_trainer.ports import Keys

Unwrap = Callable[[str, str, KeyGrant, str], Secret]


class Granter(Protocol):
    """The call of the gateway that this module needs."""

    def grant(self, request: GrantRequest) -> GrantResponse:
        """Ask for keys, once."""
        ...


class GrantedKeys:
    """A KeySource: the key gateway and Vault."""

    def __init__(self, gateway: Granter, spend: Unwrap = unwrap) -> None:
        self._gateway = gateway
        self._spend = spend

    def acquire(self, run: RunSpec, dataset: SealedDataset) -> Keys:
        """Ask, unwrap at once (the tokens live for seconds), and check the keys.

        Raises:
            GrantLost, GatewayUnavailable: a new pod may try.
            GrantTampered: the tokens are not what was asked for.
            WrongKey: a key is not the one that sealed the dataset.
            SecuretrainError: whatever the gateway or Vault refused with.
        """
        answer = self._gateway.grant(grant_request(run, dataset))
        paths = expected_paths(run, dataset)
        names = [grant.name for grant in answer.keys]
        if sorted(names) != sorted(paths):
            raise GrantTampered(f"the gateway granted keys {names}, not {sorted(paths)}")
        found = {
            grant.name: self._spend(run.vault.url, run.vault.ca, grant, paths[grant.name])
            for grant in answer.keys
        }
        splits = {split: found[split] for split in SPLITS_OF[run.purpose]}
        keys = Keys(splits, found[MODEL_KEY_NAME], answer.wrapped_model_key)
        check_keys(keys, dataset)
        return keys


def grant_request(run: RunSpec, dataset: SealedDataset) -> GrantRequest:
    """The request for exactly the keys of the run's purpose, with the bytes that were hashed."""
    return GrantRequest(
        purpose=run.purpose,
        dataset_sha256=dataset.manifest_sha256,
        dataset=DatasetStatus(
            name=run.dataset_name,
            id=dataset.manifest.id,
            digest=f"sha256:{dataset.manifest_sha256}",
            policy_digest=f"sha256:{dataset.policy_sha256}",
            records=dataset.manifest.total_records,
        ),
        policy=b64encode(dataset.policy_bytes),
        keys={split: dataset.keys[split] for split in SPLITS_OF[run.purpose]},
    )


def expected_paths(run: RunSpec, dataset: SealedDataset) -> dict[str, str]:
    """Per key, the path of Vault at which its token must have been made."""
    paths = {MODEL_KEY_NAME: f"{run.transit_mount}/decrypt/{run.model_kek}"}
    for split in SPLITS_OF[run.purpose]:
        wrapped = dataset.keys[split]
        paths[str(split)] = f"{wrapped.mount}/decrypt/{wrapped.kek}"
    return paths


def check_keys(keys: Keys, dataset: SealedDataset) -> None:
    """Compare each split's key with the key check of dataset.json; raises WrongKey."""
    for split, dek in keys.splits.items():
        told = dataset.manifest.splits[split].key_check
        if not hmac.compare_digest(key_check(dek, dataset.manifest.id, split), told):
            raise WrongKey(
                f"the key of split {split} is not the one that sealed the dataset",
                fix="restore dataset.json and keys.json from the owner's copy",
            )
