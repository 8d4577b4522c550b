"""Setup of a real OpenBao: a plan, its application, and that a second run has nothing to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.errors import VaultMisconfigured
from securetrain.vault.answers import VaultAnswer
from securetrain.vault.client import VaultClient
from securetrain.vault.setup import apply, plan
from support import vaultkit


@pytest.fixture
def kit(openbao: OpenBao) -> vaultkit.Kit:
    return vaultkit.prepare(openbao, "setup")


def test_first_run_creates_all_and_second_run_changes_nothing(openbao: OpenBao) -> None:
    key = vaultkit.ClusterKey()
    first = vaultkit.Kit(openbao, vaultkit.request("fresh", key.public_pem), key)
    with first.admin() as admin:
        steps = plan(admin, first.request)
        fresh = [step for step in steps if "header" not in step.what and "st-sign" not in step.what]
        assert {step.state for step in fresh if "st-gateway" not in step.what} == {"create"}
        assert "fresh" not in str(openbao.api("GET", "/v1/sys/mounts"))  # a plan changes nothing
        apply(steps)
        again = plan(admin, first.request)
        assert [step.what for step in again if step.state != "ok"] == []
        assert apply(again) == 0


def test_drift_is_named_and_put_right(kit: vaultkit.Kit) -> None:
    role = f"auth/{kit.request.auth_mount}/role/st-train-team-setup"
    with kit.admin() as admin:
        admin.write("sys/policies/acl/st-train-team-setup", {"policy": 'path "*" {\n}'})
        data = dict(admin.read(role).data or {})
        admin.write(role, data | {"bound_audiences": ["vault", "other"], "token_max_ttl": 3600})
        changed = {s.what: s.detail for s in plan(admin, kit.request) if s.state == "update"}
        assert set(changed) == {"policy st-train-team-setup", f"login role {role}"}
        assert "- *" in changed["policy st-train-team-setup"]
        assert changed[f"login role {role}"] == "bound_audiences, token_max_ttl"
        apply(plan(admin, kit.request))
        assert {step.state for step in plan(admin, kit.request)} == {"ok"}


def test_a_kek_that_a_policy_loses_is_named(kit: vaultkit.Kit) -> None:
    other = replace(kit.request, dataset_keks=("setup-other",))
    with kit.admin() as admin:
        details = {step.what: step.detail for step in plan(admin, other)}
    detail = details["policy st-train-team-setup"]
    assert "+ transit-setup/decrypt/setup-other" in detail
    assert "- transit-setup/decrypt/setup-digits" in detail


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ({"type": "aes256-gcm96", "derived": True}, "derived is not false"),
        ({"type": "chacha20-poly1305"}, "type is not"),
        ({"type": "aes256-gcm96", "exportable": True}, "exportable is true"),
    ],
)
def test_a_key_of_the_wrong_kind_ends_the_plan(
    kit: vaultkit.Kit, kind: dict[str, object], fault: str
) -> None:
    name = "wrong-" + fault.replace(" ", "-")
    with kit.admin() as admin:
        admin.write(f"{kit.request.transit_mount}/keys/{name}", kind)
        with pytest.raises(VaultMisconfigured, match=fault):
            plan(admin, replace(kit.request, dataset_keks=(name,)))


def test_a_model_kek_must_be_derived(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin:
        admin.write(f"{kit.request.transit_mount}/keys/plain", {"type": "aes256-gcm96"})
        with pytest.raises(VaultMisconfigured, match="derived is not true"):
            plan(admin, replace(kit.request, model_keks=("plain",)))


def test_a_mount_of_another_type_is_refused(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin, pytest.raises(VaultMisconfigured, match="type pki, not transit"):
        plan(admin, replace(kit.request, transit_mount=kit.request.pki_mount))


def test_correlation_ids_stay_in_clear_in_vaults_audit_log(kit: vaultkit.Kit) -> None:
    with kit.admin() as admin:
        body = {"plaintext": vaultkit.b64(b"x"), "associated_data": vaultkit.b64(b"y")}
        path = f"{kit.request.transit_mount}/encrypt/setup-digits"
        admin.write(path, body, correlation="stj/uid-1/7/abc123")
    assert "stj/uid-1/7/abc123" in kit.server.audit_log.read_text()


class Deaf(VaultClient):
    """A client whose every write is answered as if Vault had warned of it."""

    def write(self, path: str, data: Mapping[str, Any], **options: Any) -> VaultAnswer:
        if not options.get("warnings_ok"):
            raise VaultMisconfigured(f"a warning at {path}")
        return super().write(path, data, **options)


def test_a_warning_counts_but_for_the_pki_mounts(kit: vaultkit.Kit) -> None:
    server = kit.server
    wanted = vaultkit.request("deaf", kit.key.public_pem)
    with Deaf(server.address, server.ca_pem, token=server.root_token) as admin:
        steps = [step for step in plan(admin, wanted) if step.state != "ok"]
        for step in steps:
            if wanted.pki_mount in step.what and "engine" not in step.what:
                continue  # these need the mount
            with pytest.raises(VaultMisconfigured, match="a warning at"):
                apply([step])
        with kit.admin() as hearing:
            apply([step for step in plan(hearing, wanted) if "secrets engine" in step.what])
        pki = [s for s in plan(admin, wanted) if f"{wanted.pki_mount}/" in f"{s.what}/"]
        assert [step.what.split()[0] for step in pki if step.state != "ok"] == [
            "root", "certificate",
        ]  # fmt: skip
        assert apply(pki) == 2
