"""`securetrain vault setup`, `vault public-key` and `doctor` on real servers."""

from __future__ import annotations

import json

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.cli.main import main
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient


def setup_of(name: str) -> list[str]:
    return [
        *("vault", "setup", "--namespace", f"team-{name}", "--dataset-kek", f"{name}-digits"),
        *("--model-kek", f"{name}-models", "--auth-mount", f"auth-{name}"),
        *("--transit-mount", f"transit-{name}", "--pki-mount", f"pki-{name}"),
        *("--signing-key", f"{name}-signing"),
        *("--operator-subject", "system:serviceaccount:default:default"),
    ]


SETUP = setup_of("cli")


@pytest.fixture(autouse=True)
def environment(
    openbao: OpenBao, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_ADDR", openbao.address)
    monkeypatch.setenv("VAULT_CACERT", str(openbao.ca_file))
    monkeypatch.setenv("VAULT_TOKEN", openbao.root_token.reveal_text())
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))


def test_setup_from_the_clusters_own_keys(
    openbao: OpenBao, control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = setup_of("newcomer")
    assert main(setup) == 0
    assert "to change: add --apply" in capsys.readouterr().out
    assert "transit-newcomer/" not in openbao.api("GET", "/v1/sys/mounts")["data"]
    assert main([*setup, "--apply"]) == 0
    capsys.readouterr()
    assert main([*setup, "--apply", "--output", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["changed"] == 0
    assert {step["state"] for step in again["steps"]} == {"ok"}

    jwt = control_plane.kubectl("create", "token", "default", "--audience", "vault").strip()
    with VaultClient(openbao.address, openbao.ca_pem) as client:
        client.login_jwt("auth-newcomer", "st-train-team-newcomer", Secret.from_text(jwt))

    signing = ["vault", "public-key", "--transit-mount", "transit-newcomer"]
    signing += ["--signing-key", "newcomer-signing"]
    assert main(signing) == 0
    pem = capsys.readouterr().out
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert main([*signing, "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"key": "newcomer-signing", "version": 1, "pem": pem}


def test_setup_takes_one_namespace_a_run(
    openbao: OpenBao, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*setup_of("two"), "--namespace", "team-other", "--apply"]
    assert main(asked) == 2
    assert "team-two, team-other. " in capsys.readouterr().err.replace("\n", " ")
    assert "transit-two/" not in openbao.api("GET", "/v1/sys/mounts")["data"]


def test_doctor_names_what_is_missing_and_how_to_mend_it(
    control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SETUP, "--apply"]) == 0
    asked = ["doctor", "-n", "team-cli", "--auth-mount", "auth-cli"]
    capsys.readouterr()
    assert main(asked) == 13
    out = capsys.readouterr().out
    assert "✗ namespace team-cli does not exist. Fix: kubectl create namespace team-cli" in out
    assert "✓ dataset KEK cli-digits" in out
    assert "✓ KEK cli-digits refuses other associated data" in out
    assert "✓ model KEK cli-models" in out
    assert "✓ Vault roles of team-cli" in out

    label = {"securetrain.dev/jobs": "enabled"}
    namespace = {"metadata": {"name": "team-cli", "labels": label}}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": "team-cli"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "nowhere",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    control_plane.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", **namespace}, claim)
    assert main([*asked, "--output", "json"]) == 13
    findings = json.loads(capsys.readouterr().out)["findings"]
    texts = {item["text"]: item["level"] for item in findings}
    assert texts["namespace team-cli is open for jobs"] == "OK"
    assert texts["StorageClass nowhere missing for claim models"] == "FAULT"


def test_doctor_without_vault_or_rights(
    control_plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("VAULT_ADDR")
    monkeypatch.setenv("KUBECONFIG", str(control_plane.client("nobody", user="nobody")))
    assert main(["doctor", "-n", "team-cli"]) in (0, 13)
    out = capsys.readouterr().out
    assert "! Vault was not looked at: VAULT_ADDR is not set." in out
    assert "! namespace: you may not read /api/v1/namespaces/team-cli" in out
    assert "! object storage: you may not read /apis/apps/v1/deployments" in out


def test_a_sealed_vault_is_a_fault(openbao: OpenBao, capsys: pytest.CaptureFixture[str]) -> None:
    openbao.seal()
    try:
        assert main(["doctor", "-n", "team-cli"]) == 13
        assert "✗ Vault: Vault is sealed. Fix: vault operator unseal" in capsys.readouterr().out
        assert main(["vault", "public-key"]) == 11
    finally:
        openbao.unseal()


def test_no_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "hvs.mistyped-but-secret")
    assert main(SETUP) == 10
    shown = capsys.readouterr()
    assert "hvs." not in shown.out + shown.err
