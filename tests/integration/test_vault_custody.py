"""Data owner's keys and signatures on a real OpenBao."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from localcluster.openbao import OpenBao
from securetrain.errors import (
    InvalidInput,
    KeyRevoked,
    VaultDenied,
    VaultMisconfigured,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain.vault import signing
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian, KekVersions
from securetrain.vault.wrap import WrappedKey, wrap_key
from support import vaultkit

MOUNT, KEK, MODEL_KEK = "transit-custody", "custody-digits", "custody-models"


@pytest.fixture(scope="module")
def kit(openbao: OpenBao) -> vaultkit.Kit:
    return vaultkit.prepare(openbao, "custody")


@pytest.fixture
def owner(kit: vaultkit.Kit) -> Iterator[VaultClient]:
    body = {"policies": ["st-owner-team-custody"], "no_default_policy": True, "ttl": "5m"}
    with kit.admin() as admin:
        token = admin.write("auth/token/create", body).login
    with kit.client(token) as client:
        yield client


def test_wrap_and_unwrap(owner: VaultClient) -> None:
    custodian, dek = Custodian(owner, MOUNT, KEK), Secret(os.urandom(32))
    text = custodian.wrap(dek, b"here")
    assert custodian.unwrap(text, b"here") == dek
    with pytest.raises(WrongKey):
        custodian.unwrap(text, b"there")


def test_a_mistyped_kek_is_not_made(kit: vaultkit.Kit, owner: VaultClient) -> None:
    with kit.admin() as admin:
        for client in (owner, admin):
            with pytest.raises((VaultMisconfigured, VaultDenied)):
                Custodian(client, MOUNT, "custody-digit").wrap(Secret(os.urandom(32)), b"x")
        assert admin.find(f"{MOUNT}/keys/custody-digit") is None
    body = {"plaintext": vaultkit.b64(b"x")}
    with pytest.raises(VaultDenied):  # nor by Vault itself, whatever the client does
        owner.write(f"{MOUNT}/encrypt/custody-digit", body)


def test_an_owner_opens_a_model_and_wraps_nothing_by_its_kek(
    kit: vaultkit.Kit, owner: VaultClient
) -> None:
    context = b"securetrain/model-dek/v1|uid|p"
    with kit.admin() as admin:
        text = made(admin, MODEL_KEK, context)
    custodian = Custodian(owner, MOUNT, MODEL_KEK)
    assert len(custodian.open_model_key(text, context)) == 32
    with pytest.raises(WrongKey):
        custodian.open_model_key(text, context + b"x")
    with pytest.raises(VaultMisconfigured, match="derived is not false"):
        custodian.wrap(Secret(os.urandom(32)), b"x")


def test_a_models_key_that_its_kek_does_not_open_is_blamed_on_no_file_of_the_dataset(
    kit: vaultkit.Kit,
) -> None:
    """Neither to the operator, who asks for it in a wrapping token, nor to the owner."""
    context, kek = b"securetrain/model-dek/v1|uid|p", "revoked-models"
    with kit.admin() as admin:
        path = f"{MOUNT}/keys/{kek}"
        admin.write(path, {"type": "aes256-gcm96", "derived": True})
        key = WrappedKey.of_model("model", MOUNT, kek, made(admin, kek, context), context)
        foreign = replace(key, binding={"context": context + b"x"})
        with pytest.raises(WrongKey, match="KEK revoked-models does not open the model's key"):
            wrap_key(admin, foreign, ttl=30, correlation=None)
        admin.write(f"{path}/rotate", {})
        admin.write(f"{path}/config", {"min_decryption_version": 2})
        told = "KEK revoked-models no longer opens the model's key"
        with pytest.raises(KeyRevoked, match=told):
            wrap_key(admin, key, ttl=30, correlation=None)
        with pytest.raises(KeyRevoked, match=told):
            Custodian(admin, MOUNT, kek).open_model_key(key.ciphertext, context)


def made(admin: VaultClient, kek: str, context: bytes) -> str:
    """A model's wrapped key."""
    path = f"{MOUNT}/datakey/wrapped/{kek}"
    return admin.write(path, {"context": vaultkit.b64(context)}).text("ciphertext")


@pytest.mark.parametrize(("dek", "data"), [(b"x" * 31, b"a"), (b"x" * 32, b"")])
def test_what_is_no_key_or_unbound_is_not_wrapped(
    owner: VaultClient, dek: bytes, data: bytes
) -> None:
    with pytest.raises(WrongKey):
        Custodian(owner, MOUNT, KEK).wrap(Secret(dek), data)


def test_to_destroy_versions_revives_none_that_was_revoked(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin:
        admin.write(f"{MOUNT}/keys/custody-shred", {"type": "aes256-gcm96"})
        kek = Custodian(admin, MOUNT, "custody-shred")
        assert [kek.rotate(), kek.rotate()] == [2, 3]
        kek.refuse_before(3)
        kek.destroy_before(2)
        assert kek.versions() == KekVersions(latest=3, least=3, kept=2)


def test_signatures_verify_and_pin_a_version(kit: vaultkit.Kit) -> None:
    message = b"a statement"
    name = kit.request.signing_key
    with kit.login("st-sign") as client:
        first = signing.sign_digest(client, MOUNT, name, lambda _: hashlib.sha256(message).digest())
        with kit.admin() as admin:
            admin.write(f"{MOUNT}/keys/{name}/rotate", {})
        second = signing.sign_digest(
            client, MOUNT, name, lambda _: hashlib.sha256(message).digest()
        )
    assert (first.key_version, second.key_version) == (1, 2)
    assert first.public_key_pem != second.public_key_pem
    for signed in (first, second):
        key = load_pem_public_key(signed.public_key_pem)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signed.der, message, ec.ECDSA(SHA256()))


def test_a_short_digest_is_never_sent(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin, pytest.raises(InvalidInput, match="SHA-256"):
        signing.sign_digest(admin, MOUNT, kit.request.signing_key, lambda _: b"x" * 20)


def test_a_signing_key_of_another_type_is_refused(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin, pytest.raises(VaultMisconfigured, match="ecdsa-p256"):
        signing.public_key(admin, MOUNT, KEK)
