"""A real OpenBao that goes wrong in the middle of a grant: what is left of it, and who is told.

The real gateway and broker stand before a real server; a proxy between them makes the faults. The
API server is played. What one call does with a broken answer is in `test_vault_transport.py`.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import KeyGrant
from securetrain.api.names import Split, dek_associated_data
from securetrain.errors import ExitCode, GrantLost, VaultClockSkew, VaultUnavailable
from securetrain.secret import Secret
from securetrain.vault.custody import Custodian
from securetrain.vault.unwrap import unwrap
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.core.decide import vault_lack
from support import faults, vaultkit
from support.fault_proxy import Exchange, Fault, FaultProxy, Request
from support.gateway_pods import NAMESPACE
from support.gateway_world import DATASET_SHA256, JOB_UID, Client, World
from support.tls_server import TlsServer, answer

DEADLINE = 5.0
"""A busy machine answers within it; what hangs or drips takes ten times as long."""
MARKER = "cGxhaW50ZXh0LWtleS1pbi1hbi1lcnJvci10ZXh0"
KEK, MODEL_KEK = "faults-digits", "team-a-models"


@dataclass
class Bench:
    """A gateway before a Vault that can be made to fail."""

    kit: vaultkit.Kit
    proxy: FaultProxy
    world: World
    deks: dict[str, Secret]
    keys: dict[str, dict[str, str]]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with self.world.client() as client:
            yield client

    async def grant(self, client: Client, pod: Any) -> tuple[int, dict[str, Any]]:
        return await client.grant(pod, keys=self.keys)

    def open(self, keys: list[dict[str, Any]]) -> dict[str, Secret]:
        """Spend the tokens of the dataset's keys as a pod does."""
        found = [KeyGrant.model_validate(key) for key in keys]
        path = f"{self.kit.request.transit_mount}/decrypt/{KEK}"
        server = self.kit.server
        return {
            item.name: unwrap(server.address, server.ca_pem, item, path)
            for item in found
            if item.name != "model"
        }

    def audited(self, start: int) -> list[str]:
        """Vault's own log since a position: paths of what was answered."""
        lines = map(json.loads, self.kit.server.audit_log.read_text()[start:].splitlines())
        return [line["request"]["path"] for line in lines if line["type"] == "response"]

    def mark(self) -> int:
        return len(self.kit.server.audit_log.read_text())


@pytest.fixture(scope="module")
def kit(openbao: OpenBao) -> vaultkit.Kit:
    return vaultkit.prepare(
        openbao, "faults", namespace=NAMESPACE, dataset_keks=(KEK,), model_keks=(MODEL_KEK,)
    )


@pytest.fixture(scope="module")
def proxy(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    folder = tmp_path_factory.mktemp("faults-vault")
    with FaultProxy(folder, openbao.address, openbao.ca_pem) as made:
        yield made


@pytest.fixture
def bench(kit: vaultkit.Kit, proxy: FaultProxy, tmp_path: Path) -> Bench:
    proxy.clear()
    connection = kit.connection.model_copy(update={"address": proxy.url, "ca": proxy.ca_pem})
    world = World(vault_connections=(connection,))
    token = tmp_path / "token"
    token.write_bytes(kit.key.token().reveal())
    world.vault = VaultBroker(token, deadline=DEADLINE)  # type: ignore[assignment]
    policy_sha256 = sha256_hex(json.dumps(world.policy).encode())
    deks = {split: Secret(os.urandom(32)) for split in ("train", "validation")}
    with kit.admin() as admin:
        owner = Custodian(admin, kit.request.transit_mount, KEK)
        keys = {
            split: {
                "mount": kit.request.transit_mount,
                "kek": KEK,
                "wrapped": owner.wrap(
                    dek, dek_associated_data(Split(split), DATASET_SHA256, policy_sha256)
                ),
            }
            for split, dek in deks.items()
        }
    return Bench(kit, proxy, world, deks, keys)


def model_decrypt(request: Request) -> bool:
    """The last of a grant's decrypts, and no canary of a new model key."""
    if f"/decrypt/{MODEL_KEK}" not in request.path:
        return False
    return b"canary" not in base64.b64decode(request.json["context"])


def warn(document: dict[str, Any]) -> None:
    document["warnings"] = ["Endpoint ignored these unrecognized parameters: [associated_data]"]


SURE: dict[str, tuple[Fault, str]] = {
    "sealed": (faults.vault_errors(503, "Vault is sealed"), "VaultSealed"),
    "standby": (faults.vault_errors(503), "VaultUnavailable"),
    "too many requests": (faults.vault_errors(429, "request path kept"), "VaultUnavailable"),
    "state not replicated": (faults.vault_errors(412, "required index state"), "VaultUnavailable"),
    "denied": (faults.vault_errors(403, "1 error occurred:\n\t* permission denied"), "VaultDenied"),
    "bad request": (faults.vault_errors(400, "bad"), "VaultMisconfigured"),
    "warning": (faults.edit(warn), "VaultMisconfigured"),
}


@pytest.mark.parametrize("case", SURE)
async def test_a_grant_that_vault_surely_refused_is_withdrawn_and_asked_for_again(
    bench: Bench, case: str
) -> None:
    fault, reason = SURE[case]
    rule = bench.proxy.on(model_decrypt, fault)
    pod = bench.world.pod()
    async with bench.client() as client:
        status, problem = await bench.grant(client, pod)
        assert (status, problem["reason"]) == (503, reason)
        assert problem["retry"] is not None
        assert len(rule.hits) == 1
        assert bench.world.record.grants == ()
        assert bench.world.kinds[-2:] == ["grant.recorded", "grant.withdrawn"]
        status, given = await bench.grant(client, pod)
    assert status == 200
    assert bench.open(given["keys"]) == bench.deks


DOUBT: dict[str, Fault] = {
    "dropped before": faults.drop_before,
    "failed": faults.vault_errors(500, "internal error"),
    "cut": faults.cut,
    "silent": faults.swallow,
    "dripping": faults.drip(0.1),
    "nonsense": faults.answer(200, "<html>gateway time-out</html>"),
}


@pytest.mark.parametrize("case", DOUBT)
async def test_a_grant_in_doubt_stays_within_the_deadline_and_only_a_new_pod_can_ask(
    bench: Bench, case: str
) -> None:
    bench.proxy.on(model_decrypt, DOUBT[case])
    pod, start = bench.world.pod(), bench.mark()
    async with bench.client() as client:
        began = time.monotonic()
        status, problem = await bench.grant(client, pod)
        assert (status, problem["reason"]) == (503, "GrantLost")
        assert time.monotonic() - began < 5 * DEADLINE
        assert "keys" not in problem
        assert len(bench.world.record.grants) == 1
        assert bench.world.kinds[-1] == "grant.recorded"
        assert (await bench.grant(client, pod))[0] == 409
        status, given = await bench.grant(client, bench.world.pod(suffix="fghij"))
    assert status == 200
    assert bench.open(given["keys"]) == bench.deks
    assert bench.audited(start).count("auth/token/lookup-self") == 2, "what was issued is burnt"


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_in_the_middle_of_a_grant_withdraws_it_and_no_token_follows(
    bench: Bench, tmp_path: Path, status: int
) -> None:
    with TlsServer(tmp_path / "other", [answer(200, b"{}")]) as other:
        bench.proxy.on(model_decrypt, faults.redirect(status, other.url))
        async with bench.client() as client:
            code, problem = await bench.grant(client, bench.world.pod())
    assert (code, problem["reason"]) == (503, "VaultRedirects")
    assert bench.world.record.grants == ()
    assert other.requests == []


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_an_error_text_that_echoes_the_request_is_told_to_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(0)
    said: list[str] = []

    async def echo(exchange: Exchange) -> None:
        request = exchange.request
        said.extend([request.headers["x-vault-token"], request.json["ciphertext"], MARKER])
        await faults.vault_errors(status, *said, request.body.decode())(exchange)

    bench.proxy.on(model_decrypt, echo)
    async with bench.client() as client:
        code, problem = await bench.grant(client, bench.world.pod())
    assert code == 503
    world = bench.world
    kept = "".join(line for line in world.record.audit)
    told = [problem, world.events.__dict__, world.refused, world.board.waiting(JOB_UID)]
    everything = caplog.text + kept + repr(told)
    assert [text for text in said if text in everything] == []
    assert len(said) == 3


HOUR = 3600
CLOCKS: dict[str, dict[str, int]] = {
    "expired": {"iat": -2 * HOUR, "nbf": -2 * HOUR, "exp": -HOUR},
    "not valid yet": {"iat": HOUR, "nbf": HOUR, "exp": 2 * HOUR},
    "of the future": {"iat": HOUR, "exp": 2 * HOUR},
}


@pytest.mark.parametrize("case", CLOCKS)
async def test_a_clock_that_is_off_is_named_and_nothing_is_recorded(
    bench: Bench, tmp_path: Path, case: str
) -> None:
    now = int(time.time())
    claims = {name: now + shift for name, shift in CLOCKS[case].items()}
    (tmp_path / "token").write_bytes(bench.kit.key.token(**claims).reveal())
    before = bench.world.record_text
    async with bench.client() as client:
        status, problem = await bench.grant(client, bench.world.pod())
        assert (status, problem["reason"]) == (503, "VaultClockSkew")
        assert case in problem["detail"]
        assert "clocks" in problem["detail"]
    assert bench.world.record_text == before
    waiting = bench.world.board.waiting(JOB_UID)
    assert waiting is not None
    assert waiting[1].reason == "VaultClockSkew"
    with pytest.raises(VaultClockSkew) as caught:
        await VaultBroker(tmp_path / "token").check(bench.kit.connection, NAMESPACE)
    assert vault_lack(caught.value, NAMESPACE).reason == "VaultClockSkew"


@pytest.mark.parametrize(
    ("call", "case"),
    [("lookup", "cut"), ("unwrap", "dropped before"), ("unwrap", "cut"), ("unwrap", "silent")],
)
async def test_a_pod_whose_unwrap_is_cut_gives_up_and_never_asks_for_the_same_key_again(
    bench: Bench, call: str, case: str
) -> None:
    async with bench.client() as client:
        status, given = await bench.grant(client, bench.world.pod())
    assert status == 200
    rule = bench.proxy.on(lambda r: r.path.endswith(f"wrapping/{call}"), DOUBT[case])
    item = KeyGrant.model_validate(given["keys"][0])
    path = f"{bench.kit.request.transit_mount}/decrypt/{KEK}"
    began = time.monotonic()
    with pytest.raises(VaultUnavailable) as caught:
        unwrap(bench.proxy.url, bench.proxy.ca_pem, item, path, deadline=DEADLINE)
    assert time.monotonic() - began < 5 * DEADLINE
    assert caught.value.exit_code == ExitCode.TRY_AGAIN
    assert len(rule.hits) == 1
    reached = call == "unwrap" and case != "dropped before"
    if reached:
        with pytest.raises(GrantLost):
            bench.open(given["keys"][:1])
    else:
        assert bench.open(given["keys"][:1])["train"] == bench.deks["train"]
