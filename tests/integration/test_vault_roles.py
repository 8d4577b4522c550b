"""What Vault itself refuses to the operator, whatever the operator's code may do.

Each line is a call that a compromised or mistaken operator could make. The tokens come from real
logins, so the roles are under test too, and not only the policies.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.errors import InvalidInput, SecuretrainError, VaultClockSkew, VaultDenied
from securetrain.secret import Secret
from support import vaultkit
from support.vaultkit import b64

NS = "team-roles"
TRAIN_DATA = b64("securetrain/dek/v1|train|" + "a" * 64)
TEST_DATA = b64("securetrain/dek/v1|test|" + "a" * 64)
CONTEXT = b64("securetrain/model-dek/v1|job-1|" + "b" * 64)
DECRYPT = "transit-roles/decrypt/roles-digits"
MODEL = "transit-roles/decrypt/roles-models"
DATAKEY = "transit-roles/datakey/wrapped/roles-models"
SIGN = "transit-roles/sign/roles-signing/sha2-256"


class World:
    """Tokens of the roles, and ciphertexts that an admin made."""

    def __init__(self, kit: vaultkit.Kit) -> None:
        self.kit = kit
        root = kit.server.root_token.reveal_text()
        self.train, self.certify, self.sign, self.gateway = (
            kit.raw_login(role)
            for role in (f"st-train-{NS}", f"st-certify-{NS}", "st-sign", "st-gateway")
        )
        kit.raw("POST", "transit-roles/keys/other", {"type": "aes256-gcm96"}, root)
        kit.raw("POST", "sys/mounts/elsewhere", {"type": "transit"}, root)
        kit.raw("POST", "elsewhere/keys/roles-digits", {"type": "aes256-gcm96"}, root)
        self._root = root
        self.wrapped = self.encrypt("transit-roles/encrypt/roles-digits", TRAIN_DATA)
        self.wrapped_test = self.encrypt("transit-roles/encrypt/roles-digits", TEST_DATA)
        self.foreign = self.encrypt("transit-roles/encrypt/roles-digits", b64("something else!!"))
        self.unbound = self.encrypt("transit-roles/encrypt/roles-digits", "")
        self.of_other = self.encrypt("transit-roles/encrypt/other", TRAIN_DATA)
        self.elsewhere = self.encrypt("elsewhere/encrypt/roles-digits", TRAIN_DATA)
        self.good = {"ciphertext": self.wrapped, "associated_data": TRAIN_DATA}
        made = kit.raw("POST", DATAKEY, {"context": CONTEXT}, self.train)
        self.model = {"ciphertext": made[1]["data"]["ciphertext"], "context": CONTEXT}
        digest = b64(os.urandom(32))
        self.signing = {
            "input": digest,
            "prehashed": True,
            "marshaling_algorithm": "asn1",
            "key_version": 1,
        }

    def encrypt(self, path: str, data: str) -> str:
        body = {"plaintext": b64(os.urandom(32)), "associated_data": data}
        return str(self.kit.raw("POST", path, body, self._root)[1]["data"]["ciphertext"])

    def status(
        self,
        path: str,
        body: dict[str, Any] | None,
        token: str,
        ttl: str = "",
        method: str = "POST",
    ) -> int:
        return self.kit.raw(method, path, body, token, ttl)[0]


@pytest.fixture(scope="module")
def world(openbao: OpenBao) -> World:
    return World(vaultkit.prepare(openbao, "roles"))


def test_what_is_allowed_works(world: World) -> None:
    assert world.status(DECRYPT, world.good, world.train, "30s") == 200
    test = {"ciphertext": world.wrapped_test, "associated_data": TEST_DATA}
    assert world.status(DECRYPT, test, world.certify, "30s") == 200
    for token in (world.train, world.certify):
        assert world.status(MODEL, world.model, token, "30s") == 200
    assert world.status(SIGN, world.signing, world.sign) == 200


@pytest.mark.parametrize("ttl", ["", "0", "5s", "61s", "768h", "-30s"])
def test_keys_come_only_in_short_lived_tokens(world: World, ttl: str) -> None:
    for path, body in ((DECRYPT, world.good), (MODEL, world.model)):
        status, document = world.kit.raw("POST", path, body, world.train, ttl)
        assert status in (400, 403)
        assert not document.get("data")
        assert not document.get("wrap_info")


def test_no_role_reads_the_splits_of_the_other(world: World) -> None:
    test = {"ciphertext": world.wrapped_test, "associated_data": TEST_DATA}
    assert world.status(DECRYPT, test, world.train, "30s") == 403
    assert world.status(DECRYPT, world.good, world.certify, "30s") == 403


def test_another_splits_ciphertext_does_not_open_under_an_allowed_name(world: World) -> None:
    body = {"ciphertext": world.wrapped_test, "associated_data": TRAIN_DATA}
    assert world.status(DECRYPT, body, world.train, "30s") == 400


REFUSED_DECRYPTS: dict[str, Any] = {
    "batch": lambda w: (DECRYPT, {"batch_input": [w.good]}),
    "batch beside a good one": lambda w: (DECRYPT, {"batch_input": [w.good], **w.good}),
    "batch in other case": lambda w: (DECRYPT, {"Batch_Input": [w.good], **w.good}),
    "no associated data": lambda w: (DECRYPT, {"ciphertext": w.unbound}),
    "empty associated data": lambda w: (
        DECRYPT,
        {"ciphertext": w.unbound, "associated_data": ""},
    ),
    "foreign associated data": lambda w: (
        DECRYPT,
        {"ciphertext": w.foreign, "associated_data": b64("something else!!")},
    ),
    "newline before the prefix": lambda w: (
        DECRYPT,
        {"ciphertext": w.wrapped, "associated_data": "\n" + TRAIN_DATA},
    ),
    "extra field": lambda w: (DECRYPT, {**w.good, "partial_failure_response_code": 200}),
    "other key": lambda w: (
        "transit-roles/decrypt/other",
        {"ciphertext": w.of_other, "associated_data": TRAIN_DATA},
    ),
    "other mount": lambda w: (
        "elsewhere/decrypt/roles-digits",
        {"ciphertext": w.elsewhere, "associated_data": TRAIN_DATA},
    ),
    "rewrap": lambda w: ("transit-roles/rewrap/roles-digits", {"ciphertext": w.wrapped}),
    "plaintext data key": lambda w: ("transit-roles/datakey/plaintext/roles-digits", {}),
    "plaintext model key": lambda w: (
        "transit-roles/datakey/plaintext/roles-models",
        {"context": CONTEXT},
    ),
    "encrypt": lambda w: ("transit-roles/encrypt/roles-digits", {"plaintext": b64("x")}),
    "make a key": lambda w: ("transit-roles/keys/roles-new", {}),
    "model, no context": lambda w: (MODEL, {"ciphertext": w.model["ciphertext"]}),
    "model, empty context": lambda w: (MODEL, {**w.model, "context": ""}),
    "model, batch": lambda w: (MODEL, {"batch_input": [w.model], **w.model}),
    "sign": lambda w: (SIGN, w.signing),
    "wrap": lambda w: ("sys/wrapping/wrap", {"a": "b"}),
    "make a token": lambda w: ("auth/token/create", {}),
}


@pytest.mark.parametrize("case", REFUSED_DECRYPTS)
def test_refused_to_a_grant_role(world: World, case: str) -> None:
    path, body = REFUSED_DECRYPTS[case](world)
    assert world.status(path, body, world.train, "30s") == 403
    assert world.status(path, body, world.certify, "30s") == 403


def test_a_path_with_dots_leads_nowhere(world: World) -> None:
    body = {"ciphertext": world.of_other, "associated_data": TRAIN_DATA}
    assert world.status(f"{DECRYPT}/../other", body, world.train, "30s") in (307, 403)
    token = Secret.from_text(world.train)
    with world.kit.client(token) as client:
        for path in (f"{DECRYPT}/../other", "../../sys/seal", "sys/seal?x=", f"{DECRYPT}%2f..", ""):
            with pytest.raises(InvalidInput):
                client.write(path, body, wrap_ttl=30)


def test_model_keys_need_a_context_and_no_other_jobs_fits(world: World) -> None:
    assert world.status(DATAKEY, {}, world.train) == 403
    assert world.status(DATAKEY, {"context": ""}, world.train) == 403
    assert world.status(DATAKEY, {"context": b64("tenant-b")}, world.train) == 403
    assert world.status(DATAKEY, {"context": CONTEXT}, world.certify) == 403
    other = {**world.model, "context": b64("securetrain/model-dek/v1|job-2|" + "b" * 64)}
    assert world.status(MODEL, other, world.train, "30s") == 400


def test_keys_are_neither_readable_nor_exportable(world: World) -> None:
    for path in (
        "transit-roles/keys/roles-digits",
        "transit-roles/export/encryption-key/roles-digits",
        "transit-roles/backup/roles-digits",
        "auth/token/lookup-self",
        "sys/policies/acl/st-sign",
    ):
        assert world.status(path, None, world.train, method="GET") == 403


SIGN_MISUSES: dict[str, Any] = {
    "not prehashed": lambda w: (SIGN, {**w.signing, "prehashed": False}),
    "prehashed as text": lambda w: (SIGN, {**w.signing, "prehashed": "true"}),
    "jws": lambda w: (SIGN, {**w.signing, "marshaling_algorithm": "jws"}),
    "batch": lambda w: (SIGN, {"batch_input": [w.signing], **w.signing}),
    "no version": lambda w: (SIGN, {k: v for k, v in w.signing.items() if k != "key_version"}),
    "other hash": lambda w: ("transit-roles/sign/roles-signing/sha2-512", w.signing),
    "no hash": lambda w: ("transit-roles/sign/roles-signing", w.signing),
    "hash by field": lambda w: (SIGN, {**w.signing, "hash_algorithm": "sha1"}),
    "decrypt": lambda w: (DECRYPT, w.good),
    "export": lambda w: ("transit-roles/export/signing-key/roles-signing", {}),
}


@pytest.mark.parametrize("case", SIGN_MISUSES)
def test_refused_to_the_signing_role(world: World, case: str) -> None:
    path, body = SIGN_MISUSES[case](world)
    assert world.status(path, body, world.sign, "30s" if case == "decrypt" else "") == 403


@pytest.mark.parametrize("name", ["other.securetrain.svc", "*.securetrain.svc", "localhost"])
def test_the_gateway_role_gets_no_certificate_of_another_name(world: World, name: str) -> None:
    body = {"common_name": name, "alt_names": name, "ttl": "1h"}
    assert world.status("pki-roles/issue/gateway", body, world.gateway) == 400


def test_the_gateway_role_gets_no_address_and_no_long_life(world: World) -> None:
    name = "securetrain-gateway.securetrain.svc"
    body = {"common_name": name, "alt_names": name, "ttl": "72h"}
    path = "pki-roles/issue/gateway"
    assert world.status(path, body | {"ip_sans": "127.0.0.1"}, world.gateway) == 403
    assert world.status(path, body, world.train) == 403
    status, document = world.kit.raw("POST", path, body | {"ttl": "8760h"}, world.gateway)
    assert status == 200
    life = document["data"]["expiration"] - time.time()
    assert life <= 72 * 3600 + 60


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"aud": ["https://kubernetes.default.svc"]}, VaultDenied),
        ({"sub": "system:serviceaccount:team-roles:securetrain-operator"}, VaultDenied),
        ({"iss": "https://elsewhere"}, VaultDenied),
        ({"iat": 1, "nbf": 1, "exp": 1000}, VaultClockSkew),
    ],
    ids=["audience", "subject", "issuer", "expired"],
)
def test_no_login_but_the_operators(
    world: World, claims: dict[str, Any], error: type[SecuretrainError]
) -> None:
    with pytest.raises(error):
        world.kit.login(f"st-train-{NS}", **claims)


def test_no_login_by_another_clusters_key(world: World) -> None:
    other = vaultkit.ClusterKey().token()
    with world.kit.client() as client, pytest.raises(VaultDenied):
        client.login_jwt(world.kit.request.auth_mount, f"st-train-{NS}", other)


def test_logins_live_a_minute_and_have_one_policy(world: World) -> None:
    body = {"role": "st-sign", "jwt": world.kit.key.token().reveal_text()}
    auth = world.kit.raw("POST", "auth/auth-roles/login", body)[1]["auth"]
    assert auth["lease_duration"] == 60
    assert auth["policies"] == ["st-sign"]
    assert auth["metadata"]["pod_name"] == "operator-1"
