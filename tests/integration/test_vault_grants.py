"""One key's way on a real OpenBao: owner wraps, operator asks, pod unwraps; what thieves get."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.gateway import KeyGrant, WrappedDek
from securetrain.api.names import (
    Purpose,
    Split,
    correlation_id,
    dek_associated_data,
    model_dek_context,
)
from securetrain.audit import chain
from securetrain.audit.reconcile import Agreement, compare, parse_vault_log
from securetrain.errors import (
    BadConfiguration,
    GrantLost,
    GrantTampered,
    VaultDenied,
    VaultMisconfigured,
    VaultSealed,
    VaultUnavailable,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from securetrain.vault.unwrap import unwrap
from securetrain.vault.wrap import Issued, WrappedKey, burn, new_model_key, wrap_key
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.ports import WrapRequest
from support import vaultkit

NS = "team-grants"
MOUNT, KEK, MODEL_KEK = "transit-grants", "grants-digits", "grants-models"
PATH = f"{MOUNT}/decrypt/{KEK}"
SHA, POLICY = "a" * 64, "b" * 64
AD = dek_associated_data(Split.TRAIN, SHA, POLICY)


@pytest.fixture(scope="module")
def kit(openbao: OpenBao) -> vaultkit.Kit:
    return vaultkit.prepare(openbao, "grants")


@pytest.fixture
def train(kit: vaultkit.Kit) -> Iterator[VaultClient]:
    with kit.login(f"st-train-{NS}") as client:
        yield client


@pytest.fixture
def dek() -> Secret:
    return Secret(os.urandom(32))


def wrapped(kit: vaultkit.Kit, dek: Secret, data: bytes = AD, name: str = "train") -> WrappedKey:
    with kit.admin() as admin:
        ciphertext = Custodian(admin, MOUNT, KEK).wrap(dek, data)
    return WrappedKey.of_split(name, MOUNT, KEK, ciphertext, data)


def grant(kit: vaultkit.Kit, client: VaultClient, dek: Secret, ttl: int = 30) -> Issued:
    return wrap_key(client, wrapped(kit, dek), ttl=ttl, correlation="stj/uid/1/abc")


def open_grant(kit: vaultkit.Kit, item: KeyGrant, path: str = PATH) -> Secret:
    return unwrap(kit.server.address, kit.server.ca_pem, item, path)


def test_a_key_reaches_the_pod(kit: vaultkit.Kit, train: VaultClient, dek: Secret) -> None:
    issued = grant(kit, train, dek)
    assert issued.accessor
    assert issued.accessor != issued.grant.token
    assert open_grant(kit, issued.grant) == dek


def test_a_token_opens_once_though_many_try(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    item = grant(kit, train, dek).grant

    def attempt(_: int) -> Secret | None:
        try:
            return open_grant(kit, item)
        except GrantLost:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(8)))
    assert [found for found in results if found is not None] == [dek]


def test_a_rewrapped_token_is_refused_and_not_spent(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    item = grant(kit, train, dek).grant
    with kit.admin() as thief:
        info = thief.write("sys/wrapping/rewrap", {"token": item.token}).wrap_info
    assert info is not None
    assert info.creation_path == item.creation_path  # Vault keeps the path: only the time tells
    swapped = item.model_copy(update={"token": info.token.reveal_text()})
    with pytest.raises(GrantTampered, match="another time"):
        open_grant(kit, swapped)
    with pytest.raises(GrantLost):
        open_grant(kit, item)


def test_a_token_with_a_thiefs_own_content_is_refused(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    item = grant(kit, train, dek).grant
    with kit.admin() as thief:
        key = {"plaintext": vaultkit.b64(os.urandom(32))}
        info = thief.write("sys/wrapping/wrap", key, wrap_ttl=30).wrap_info
    assert info is not None
    forged = KeyGrant(
        name="train",
        token=info.token.reveal_text(),
        creation_path=item.creation_path,
        creation_time=info.creation_time,
        ttl=30,
    )
    with pytest.raises(GrantTampered, match="another call"):
        open_grant(kit, forged)
    honest_path = forged.model_copy(update={"creation_path": info.creation_path})
    with pytest.raises(GrantTampered, match="another path"):
        open_grant(kit, honest_path)


def test_a_promised_ttl_that_differs_is_refused(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    item = grant(kit, train, dek).grant
    with pytest.raises(GrantTampered, match="time to live"):
        open_grant(kit, item.model_copy(update={"ttl": 60}))
    assert open_grant(kit, item) == dek  # the comparison spent nothing


def test_something_that_is_no_key_is_refused(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin:
        path = f"{MOUNT}/encrypt/{KEK}"
        body = {"plaintext": vaultkit.b64(b"short"), "associated_data": vaultkit.b64(AD)}
        short = admin.write(path, body).text("ciphertext")
        data = {"ciphertext": short, "associated_data": vaultkit.b64(AD)}
        info = admin.write(PATH, data, wrap_ttl=30).wrap_info
    assert info is not None
    item = KeyGrant(
        name="train",
        token=info.token.reveal_text(),
        creation_path=PATH,
        creation_time=info.creation_time,
        ttl=30,
    )
    with pytest.raises(GrantTampered, match="no key of 32 bytes"):
        open_grant(kit, item)


def test_burning_spends_and_says_whether_it_was_first(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    first, second = grant(kit, train, dek).grant, grant(kit, train, dek).grant
    server = kit.server
    assert burn(server.address, server.ca_pem, Secret.from_text(first.token)) is True
    assert burn(server.address, server.ca_pem, Secret.from_text(first.token)) is False
    with pytest.raises(GrantLost):
        open_grant(kit, first)
    open_grant(kit, second)
    assert burn(server.address, server.ca_pem, Secret.from_text(second.token)) is False


def test_other_associated_data_is_a_wrong_key(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    key = wrapped(kit, dek)
    looser = dek_associated_data(Split.TRAIN, SHA, "c" * 64)
    changed = WrappedKey.of_split("train", MOUNT, KEK, key.ciphertext, looser)
    with pytest.raises(WrongKey):
        wrap_key(train, changed, ttl=30, correlation=None)


@pytest.mark.parametrize("ciphertext", ["", "vault:v1:AAAA", "vault:v0:" + "A" * 80, "x\n"])
def test_a_malformed_wrapped_key_is_never_sent(train: VaultClient, ciphertext: str) -> None:
    with pytest.raises(WrongKey, match="malformed"):
        wrap_key(
            train,
            WrappedKey.of_split("train", MOUNT, KEK, ciphertext, AD),
            ttl=30,
            correlation=None,
        )


@pytest.mark.parametrize("ttl", [0, -1, 9, 61])
def test_a_ttl_out_of_range_is_never_sent(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret, ttl: int
) -> None:
    with pytest.raises(VaultMisconfigured):
        wrap_key(train, wrapped(kit, dek), ttl=ttl, correlation=None)


def test_a_plain_answer_is_refused(kit: vaultkit.Kit, dek: Secret) -> None:
    class Unwrapping(VaultClient):
        """As if something on the way dropped the header that asks for wrapping."""

        def write(self, path, data, *, wrap_ttl=None, correlation=None, warnings_ok=False):  # type: ignore[no-untyped-def]
            return super().write(path, data)

    key = wrapped(kit, dek)
    server = kit.server
    with (
        Unwrapping(server.address, server.ca_pem, token=server.root_token) as client,
        pytest.raises(VaultMisconfigured, match="without wrapping") as caught,
    ):
        wrap_key(client, key, ttl=30, correlation=None)
    assert vaultkit.b64(dek.reveal()) not in repr(caught.value)


def test_a_model_kek_that_ignores_contexts_is_found_out(kit: vaultkit.Kit) -> None:
    context = model_dek_context("uid-1", POLICY)
    with kit.admin() as admin:
        assert new_model_key(admin, MOUNT, MODEL_KEK, context).startswith("vault:v1:")
        with pytest.raises(VaultMisconfigured, match="ignores contexts"):
            new_model_key(admin, MOUNT, KEK, context)


def test_a_missing_key_and_mount_are_named(kit: vaultkit.Kit, dek: Secret) -> None:
    key = wrapped(kit, dek)
    with kit.admin() as admin:
        for mount, kek in ((MOUNT, "nothing"), ("nothing", KEK)):
            moved = WrappedKey.of_split("train", mount, kek, key.ciphertext, AD)
            with pytest.raises(VaultMisconfigured, match="no such"):
                wrap_key(admin, moved, ttl=30, correlation=None)


def test_sealed_is_said_at_every_step(kit: vaultkit.Kit, train: VaultClient, dek: Secret) -> None:
    key, item = wrapped(kit, dek), grant(kit, train, dek, ttl=60).grant
    kit.server.seal()
    try:
        with pytest.raises(VaultSealed):
            wrap_key(train, key, ttl=30, correlation=None)
        with pytest.raises(VaultSealed):
            open_grant(kit, item)
        with pytest.raises(VaultSealed):
            kit.login(f"st-train-{NS}")
    finally:
        kit.server.unseal()
    assert open_grant(kit, item) == dek


class TestBroker:
    """The operator's adapter."""

    @pytest.fixture
    def broker(self, kit: vaultkit.Kit, tmp_path: Path) -> VaultBroker:
        file = tmp_path / "token"
        file.write_bytes(kit.key.token().reveal() + b"\n")
        return VaultBroker(file)

    async def request(self, kit: vaultkit.Kit, broker: VaultBroker, **deks: Secret) -> WrapRequest:
        context = model_dek_context("uid-1", POLICY)
        splits = {Split(name): dek for name, dek in deks.items()}
        data = {split: dek_associated_data(split, SHA, POLICY) for split in splits}
        keys = {split: wrapped(kit, dek, data[split]) for split, dek in splits.items()}
        return WrapRequest(
            namespace=NS,
            purpose=Purpose.TRAIN,
            deks={
                split: WrappedDek(mount=key.mount, kek=key.kek, wrapped=key.ciphertext)
                for split, key in keys.items()
            },
            associated_data=data,
            model_key=await broker.new_model_key(kit.connection, NS, MODEL_KEK, context),
            model_context=context,
            correlation="stj/uid-1/3/abcdef",
        )

    async def test_every_key_of_a_grant(self, kit: vaultkit.Kit, broker: VaultBroker) -> None:
        deks = {"train": Secret(os.urandom(32)), "validation": Secret(os.urandom(32))}
        await broker.check(kit.connection, NS)
        request = await self.request(kit, broker, **deks)
        tokens = {t.grant.name: t for t in await broker.wrap_keys(kit.connection, request)}
        assert set(tokens) == {"train", "validation", "model"}
        for name, dek in deks.items():
            assert open_grant(kit, tokens[name].grant) == dek
        assert len(open_grant(kit, tokens["model"].grant, f"{MOUNT}/decrypt/{MODEL_KEK}")) == 32
        assert await broker.burn(kit.connection, list(tokens.values())) == [False] * 3
        assert "stj/uid-1/3/abcdef" in kit.server.audit_log.read_text()

    async def test_a_grant_that_fails_leaves_no_live_token(
        self, kit: vaultkit.Kit, broker: VaultBroker
    ) -> None:
        dek = Secret(os.urandom(32))
        request = await self.request(kit, broker, train=dek, test=dek)
        start = len(kit.server.audit_log.read_text())
        with pytest.raises(VaultDenied):
            await broker.wrap_keys(kit.connection, request)
        log = kit.server.audit_log.read_text()[start:].splitlines()
        paths = [line["request"]["path"] for line in map(json.loads, log)]
        assert "auth/token/lookup-self" in paths  # the train split's token was spent
        assert "sys/wrapping/unwrap" not in paths

    async def test_namespace_without_roles(self, kit: vaultkit.Kit, broker: VaultBroker) -> None:
        with pytest.raises(VaultMisconfigured, match="no such role"):
            await broker.check(kit.connection, "stranger")

    async def test_without_a_token_file(self, kit: vaultkit.Kit, tmp_path: Path) -> None:
        with pytest.raises(BadConfiguration, match="projected"):
            await VaultBroker(tmp_path / "none").check(kit.connection, NS)

    async def test_vault_away(self, kit: vaultkit.Kit, broker: VaultBroker) -> None:
        away = kit.connection.model_copy(update={"address": "https://127.0.0.1:1"})
        with pytest.raises(VaultUnavailable) as caught:
            await broker.check(away, NS)
        assert caught.value.in_doubt is False

    async def test_signature_and_certificate(self, kit: vaultkit.Kit, broker: VaultBroker) -> None:
        digest = os.urandom(32)
        signature = await broker.sign(kit.connection, lambda _: digest, "stj/uid-1/9/abc")
        assert signature.key_version == 1
        names = ("securetrain-gateway.securetrain.svc",)
        issued = await broker.issue_gateway_certificate(kit.connection, names)
        assert "PRIVATE KEY" in issued.key.reveal_text()
        with pytest.raises(VaultMisconfigured):
            await broker.issue_gateway_certificate(kit.connection, ("elsewhere.example",))


def test_vaults_own_log_tells_grants_from_thefts(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret
) -> None:
    uid = "uid-reconcile"
    first = chain.genesis(NS, "digits", uid, "0" * 64)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"podUID": "p", "podIP": "127.0.0.1", "keys": [{"name": "train", "kek": KEK}]}
    line = chain.make_line(
        job_uid=uid, seq=1, prev=first, kind="grant.recorded", time=now, data=data
    )
    trail = chain.verify_chain([line], first)
    start = len(kit.server.audit_log.read_text().splitlines())

    def compared() -> Agreement:
        lines = kit.server.audit_log.read_text().splitlines()[start:]
        return compare(uid, trail, list(parse_vault_log(lines)))

    key = wrapped(kit, dek)
    tag = correlation_id(uid, 1, trail[0].sha256)
    item = wrap_key(train, key, ttl=30, correlation=tag)
    open_grant(kit, item.grant)
    with kit.admin() as owner:
        Custodian(owner, MOUNT, KEK).unwrap(key.ciphertext, AD)
    assert compared() == Agreement(1, 0, 1, owner_decrypts=1, findings=())

    stolen = wrap_key(train, key, ttl=30, correlation=None)
    assert [finding.what.split(" at ")[1] for finding in compared().findings] == [PATH]
    assert open_grant(kit, stolen.grant) == dek


@pytest.mark.parametrize(
    ("method", "path", "by_itself"),
    [
        ("POST", "sys/wrapping/unwrap", True),
        ("POST", "sys/wrapping/unwrap", False),
        ("POST", "sys/wrapping/rewrap", False),
        ("GET", "cubbyhole/response", True),
    ],
)
def test_vaults_own_log_shows_who_spent_a_token(
    kit: vaultkit.Kit, train: VaultClient, dek: Secret, method: str, path: str, by_itself: bool
) -> None:
    uid = "uid-spent"
    first = chain.genesis(NS, "digits", uid, "0" * 64)
    data = {"podUID": "p", "podIP": "10.0.0.9", "keys": [{"name": "train", "kek": KEK}]}
    time = "2026-01-01T00:00:00Z"
    line = chain.make_line(
        job_uid=uid, seq=1, prev=first, kind="grant.recorded", time=time, data=data
    )
    trail = chain.verify_chain([line], first)
    start = len(kit.server.audit_log.read_text().splitlines())
    tag = correlation_id(uid, 1, trail[0].sha256)
    token = wrap_key(train, wrapped(kit, dek), ttl=30, correlation=tag).grant.token
    login = token if by_itself else kit.server.root_token.reveal_text()
    body = None if by_itself else {"token": token}
    assert kit.raw(method, path, body, login)[0] == 200
    lines = kit.server.audit_log.read_text().splitlines()[start:]
    found = compare(uid, trail, list(parse_vault_log(lines)))
    assert ["from 127.0.0.1, not" in finding.what for finding in found.findings] == [True]
