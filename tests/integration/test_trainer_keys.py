"""A pod's keys from a real Vault server, through wrapping tokens that a gateway hands out."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import Endpoint, GrantRequest, GrantResponse, KeyGrant, RunSpec
from securetrain.api.names import Purpose, Split, dek_associated_data, model_dek_context
from securetrain.errors import GrantLost, GrantTampered
from securetrain.sealed.dataset import SealedDataset
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from securetrain.vault.wrap import WrappedKey, new_model_key, wrap_key
from securetrain_trainer.gateway import Gateway
from securetrain_trainer.keys import GrantedKeys
from support.tls_server import Reply, Request, TlsServer, answer
from support.trainer_kit import UID, Wrapper, dataset_of, run_spec, seal_dataset


@dataclass
class Owned:
    """A dataset whose keys a real server wraps, and the run on it."""

    root: Path
    mount: str
    client: VaultClient
    deks: Wrapper
    vault: Endpoint

    @property
    def dataset(self) -> SealedDataset:
        return dataset_of(self.root)

    def run(self, purpose: Purpose, gateway: Endpoint) -> RunSpec:
        return run_spec(
            self.root, purpose, vault=self.vault, gateway=gateway, transit_mount=self.mount
        )


class Recording(Wrapper):
    """Wraps with a real KEK and remembers the keys for comparison."""

    def __init__(self, custodian: Custodian) -> None:
        super().__init__()
        self._custodian = custodian

    def wrap(self, dek: object, associated_data: bytes) -> str:
        super().wrap(dek, associated_data)  # type: ignore[arg-type]
        return self._custodian.wrap(dek, associated_data)  # type: ignore[arg-type]


@pytest.fixture
def owned(openbao: OpenBao, tmp_path: Path) -> Iterator[Owned]:
    mount = f"transit-{uuid4().hex[:8]}"
    openbao.api("POST", f"/v1/sys/mounts/{mount}", {"type": "transit"})
    openbao.api("POST", f"/v1/{mount}/keys/digits", {"type": "aes256-gcm96"})
    openbao.api(
        "POST", f"/v1/{mount}/keys/team-a-models", {"type": "aes256-gcm96", "derived": True}
    )
    vault = Endpoint(url=openbao.address, ca=openbao.ca_pem)
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        deks = Recording(Custodian(client, mount, "digits"))
        seal_dataset(tmp_path / "data", wrapper=deks, mount=mount)
        yield Owned(tmp_path, mount, client, deks, vault)


def granting(owned: Owned, change: Callable[[KeyGrant], KeyGrant] = lambda grant: grant) -> Reply:
    """A gateway's answer: the asked keys, each decrypted by Vault into a wrapping token."""

    def reply(request: Request, secure: ssl.SSLSocket) -> None:
        asked = GrantRequest.model_validate_json(request.body)
        policy_sha256 = sha256_hex(asked.policy)
        context = model_dek_context(UID, policy_sha256)
        model = new_model_key(owned.client, owned.mount, "team-a-models", context)
        keys = [
            WrappedKey.of_split(
                split,
                dek.mount,
                dek.kek,
                dek.wrapped,
                dek_associated_data(split, asked.dataset_sha256, policy_sha256),
            )
            for split, dek in asked.keys.items()
        ]
        keys.append(WrappedKey.of_model("model", owned.mount, "team-a-models", model, context))
        grants = tuple(
            change(wrap_key(owned.client, key, ttl=30, correlation=None).grant) for key in keys
        )
        response = GrantResponse(keys=grants, wrapped_model_key=model)
        answer(200, json.dumps(response.to_wire()).encode())(request, secure)

    return reply


def ask(owned: Owned, server: TlsServer, purpose: Purpose) -> GrantedKeys:
    token = owned.root / "token"
    token.write_text("token-of-the-pod")
    return GrantedKeys(Gateway(Endpoint(url=server.url, ca=server.ca_pem), token_file=token))


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_pod_gets_the_keys_of_its_purpose(owned: Owned, purpose: Purpose) -> None:
    with TlsServer(owned.root / "pki", [granting(owned)]) as server:
        run = owned.run(purpose, Endpoint(url=server.url, ca=server.ca_pem))
        keys = ask(owned, server, purpose).acquire(run, owned.dataset)
    asked = {Purpose.TRAIN: {Split.TRAIN, Split.VALIDATION}, Purpose.CERTIFY: {Split.TEST}}
    assert set(keys.splits) == asked[purpose]
    for split, dek in keys.splits.items():
        assert dek == owned.deks.deks[split]
    assert len(keys.model) == 32
    opened = Custodian(owned.client, owned.mount, "team-a-models").open_model_key(
        keys.wrapped_model_key, model_dek_context(UID, owned.dataset.policy_sha256)
    )
    assert keys.model == opened


def test_a_token_that_somebody_spent_first_loses_the_grant(owned: Owned) -> None:
    def spend(grant: KeyGrant) -> KeyGrant:
        with VaultClient(owned.vault.url, owned.vault.ca) as thief:
            thief.write("sys/wrapping/lookup", {"token": grant.token})
        owned.client.write("sys/wrapping/unwrap", {"token": grant.token})
        return grant

    with TlsServer(owned.root / "pki", [granting(owned, spend)]) as server:
        run = owned.run(Purpose.TRAIN, Endpoint(url=server.url, ca=server.ca_pem))
        with pytest.raises(GrantLost) as caught:
            ask(owned, server, Purpose.TRAIN).acquire(run, owned.dataset)
    assert caught.value.exit_code == 11


def test_a_token_that_was_wrapped_again_is_refused(owned: Owned) -> None:
    def rewrap(grant: KeyGrant) -> KeyGrant:
        info = owned.client.write("sys/wrapping/rewrap", {"token": grant.token}).wrap_info
        assert info is not None
        return grant.model_copy(update={"token": info.token.reveal_text()})

    with TlsServer(owned.root / "pki", [granting(owned, rewrap)]) as server:
        run = owned.run(Purpose.TRAIN, Endpoint(url=server.url, ca=server.ca_pem))
        with pytest.raises(GrantTampered):
            ask(owned, server, Purpose.TRAIN).acquire(run, owned.dataset)


def test_a_token_of_another_key_is_refused(owned: Owned) -> None:
    def other(grant: KeyGrant) -> KeyGrant:
        return grant.model_copy(update={"creation_path": f"{owned.mount}/decrypt/other"})

    with TlsServer(owned.root / "pki", [granting(owned, other)]) as server:
        run = owned.run(Purpose.TRAIN, Endpoint(url=server.url, ca=server.ca_pem))
        with pytest.raises(GrantTampered):
            ask(owned, server, Purpose.TRAIN).acquire(run, owned.dataset)
