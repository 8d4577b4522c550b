"""Errors about keys name what is to blame: files of the dataset, or what keeps a model's key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest

from securetrain.errors import KeyRevoked, SecuretrainError, WrongKey
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from securetrain.vault.wrap import WrappedKey, wrap_key

WRAPPED = "vault:v1:" + "A" * 80
FILES = ("dataset.json", "policy.json", "keys.json")
SPLIT = WrappedKey.of_split("train", "transit", "digits", WRAPPED, b"x")
MODEL = WrappedKey.of_model("model", "transit", "models", WRAPPED, b"x")


class Refusing:
    """A Vault that knows the KEK and opens nothing."""

    def __init__(self, error: SecuretrainError) -> None:
        self._error = error

    def write(self, *_: Any, **__: Any) -> NoReturn:
        raise self._error


class Owned(Custodian):
    """Whose KEK was looked at before."""

    def require(self, *, derived: bool = False) -> None:
        pass


def granted(key: WrappedKey) -> Callable[[VaultClient], object]:
    return lambda client: wrap_key(client, key, ttl=30, correlation=None)


def opened(client: VaultClient) -> object:
    return Owned(client, "transit", "models").open_model_key(WRAPPED, b"x")


@pytest.mark.parametrize("ask", [granted(MODEL), opened])
@pytest.mark.parametrize("kind", [WrongKey, KeyRevoked])
def test_a_models_key_is_never_blamed_on_the_dataset(
    ask: Callable[[VaultClient], object], kind: type[SecuretrainError]
) -> None:
    with pytest.raises(kind, match=r"KEK models .*the model's key") as caught:
        ask(cast("VaultClient", Refusing(kind("Vault refused"))))
    assert not [name for name in FILES if name in str(caught.value)]
    assert "new name" in caught.value.fix


def test_a_splits_key_is_blamed_on_the_files_that_were_sealed_together() -> None:
    with pytest.raises(WrongKey, match="split train") as caught:
        granted(SPLIT)(cast("VaultClient", Refusing(WrongKey("Vault refused"))))
    assert [name for name in FILES if name in str(caught.value)] == list(FILES)


def test_a_splits_revoked_key_sends_to_the_data_owner() -> None:
    with pytest.raises(KeyRevoked, match="ask the data owner"):
        granted(SPLIT)(cast("VaultClient", Refusing(KeyRevoked("Vault refused"))))
