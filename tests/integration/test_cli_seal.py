"""`securetrain seal` with a real Vault: what it wraps opens there, and only as it was bound."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from localcluster.openbao import OpenBao
from securetrain.api.names import Split, dek_associated_data, shard_associated_data
from securetrain.cli.main import main
from securetrain.errors import ExitCode, WrongKey
from securetrain.sealed.dataset import key_check, load_dataset
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from support.s3_server import S3Server
from support.tink import tink_aead
from support.uploads import Owner

DIGITS = Path(__file__).parents[2] / "examples/digits/digits.npz"
DIGITS_SHA256 = "f1a23f2fb1a1c97bb00a811807ddd50a888dbcdcdead94147993273c22ee3f37"
MOUNT = "transit-seal"
KEK = "team-a-digits"


@pytest.fixture(scope="module")
def vault(openbao: OpenBao) -> OpenBao:
    """A transit mount with a KEK, and one key of the wrong kind."""
    openbao.api("POST", f"/v1/sys/mounts/{MOUNT}", {"type": "transit"})
    openbao.api("POST", f"/v1/{MOUNT}/keys/{KEK}", {"type": "aes256-gcm96"})
    openbao.api("POST", f"/v1/{MOUNT}/keys/derived", {"type": "aes256-gcm96", "derived": True})
    return openbao


@pytest.fixture
def policy(
    vault: OpenBao,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """The owner's environment and a policy."""
    monkeypatch.setenv("VAULT_ADDR", vault.address)
    monkeypatch.setenv("VAULT_CACERT", str(vault.ca_file))
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vault-token").write_text(vault.root_token.reveal_text() + "\n")
    assert main(["new", "policy", "--namespace", "team-a", "--output-kek", "team-a-models"]) == 0
    path = tmp_path / "policy.json"
    path.write_text(capsys.readouterr().out)
    return path


def seal(dest: Path, policy: Path, *more: str, kek: str = KEK) -> int:
    files = ["seal", str(DIGITS), str(dest), "--policy", str(policy)]
    return main([*files, "--kek", kek, "--transit-mount", MOUNT, *more])


def test_the_digits_are_the_ones_we_know() -> None:
    assert hashlib.sha256(DIGITS.read_bytes()).hexdigest() == DIGITS_SHA256


def test_seal_and_open_with_vault(
    vault: OpenBao, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    assert seal(folder, policy, "--shard-size", "1", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    sealed = load_dataset(folder)
    assert told["digest"] == f"sha256:{sealed.manifest_sha256}"
    assert told["duplicatesAcross"] == 0
    assert sealed.manifest.total_records == 10_000
    with VaultClient(vault.address, vault.ca_pem, token=vault.root_token) as client:
        custodian = Custodian(client, MOUNT, KEK)
        found = b""
        for split in Split:
            bound_to = dek_associated_data(split, sealed.manifest_sha256, sealed.policy_sha256)
            dek = custodian.unwrap(sealed.keys[split].wrapped, bound_to)
            assert key_check(dek, sealed.manifest.id, split) == (
                sealed.manifest.splits[split].key_check
            )
            entries = sealed.indexes[split]
            for index, entry in enumerate(entries):
                place = shard_associated_data(sealed.manifest.id, split, index, len(entries))
                found += decrypt_bytes((sealed.folder / entry.path).read_bytes(), dek, place)
        with np.load(DIGITS) as source:
            assert all(image.tobytes() in found for image in source["images"][::500])
        loosened = dek_associated_data(Split.TEST, sealed.manifest_sha256, "0" * 64)
        with pytest.raises(WrongKey):
            custodian.unwrap(sealed.keys[Split.TEST].wrapped, loosened)


def test_tink_itself_opens_what_was_sealed(vault: OpenBao, policy: Path, tmp_path: Path) -> None:
    assert seal(tmp_path / "digits", policy, "--shard-size", "1") == 0
    sealed = load_dataset(tmp_path / "digits")
    bound_to = dek_associated_data(Split.TEST, sealed.manifest_sha256, sealed.policy_sha256)
    with VaultClient(vault.address, vault.ca_pem, token=vault.root_token) as client:
        dek = Custodian(client, MOUNT, KEK).unwrap(sealed.keys[Split.TEST].wrapped, bound_to)
    entry, *others = sealed.indexes[Split.TEST]
    place = shard_associated_data(sealed.manifest.id, Split.TEST, 0, 1 + len(others))
    with (sealed.folder / entry.path).open("rb") as stream:
        opened = tink_aead(dek).new_decrypting_stream(stream, place).read()
    assert opened == decrypt_bytes((sealed.folder / entry.path).read_bytes(), dek, place)
    with np.load(DIGITS) as source:
        found = sum(image.tobytes() in opened for image in source["images"])
    assert found == entry.records


def test_what_people_see(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(tmp_path / "digits", policy) == 0
    out = capsys.readouterr().out
    assert "image uint8 28×28×1 · label 10 classes" in out
    assert "duplicates across: 0" in out
    assert "securetrain new job --dataset pvc://datasets/digits" in out
    assert seal(tmp_path / "digits", policy) == ExitCode.CONFIGURATION
    assert "exists" in capsys.readouterr().err


def test_seal_to_a_bucket(
    policy: Path,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Owner.at_home(s3_server, tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    uri = f"s3://{s3_server.bucket()}/team/digits"
    command = ["seal", str(DIGITS), uri, "--kek", KEK, "--transit-mount", MOUNT]
    command += ["--policy", str(policy)]
    assert main([*command, "--shard-size", "1", "--output", "json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert f"securetrain upload digits.sealed {uri}" in err
    assert told["folder"] == "digits.sealed"
    assert told["upload"]["digest"] == told["digest"]
    assert main(["download", uri, "back"]) == 0
    assert load_dataset(tmp_path / "back").manifest_sha256 == told["digest"].removeprefix("sha256:")
    for staging, problem in (("digits.sealed", "--staging: 'digits.sealed' exists"), ("x", uri)):
        assert main([*command, "--staging", staging]) == ExitCode.CONFIGURATION
        assert problem in capsys.readouterr().err
    assert not Path("x").exists()


@pytest.mark.parametrize("kek", ["mistyped", "derived"])
def test_a_wrong_kek_is_found_before_any_work(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kek: str
) -> None:
    assert seal(tmp_path / "digits", policy, kek=kek) == ExitCode.CONFIGURATION
    assert kek in capsys.readouterr().err
    assert not list(tmp_path.glob("*digits*"))
