"""Rewritten descriptions and key files, judged by the gateway and a real Vault.

Nothing but Vault's own authentication ties dataset.json, policy.json and keys.json together: these
tests rewrite them in every way that still parses, and look at what pod, job and owner are told.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import KeyGrant
from securetrain.api.names import MODEL_KEY_NAME, Split, model_dek_context
from securetrain.cli import main as cli
from securetrain.errors import ExitCode, exit_code_of
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.model import KeyFile, dump_key
from securetrain.secret import Secret
from securetrain.vault.custody import Custodian
from securetrain.vault.unwrap import unwrap
from securetrain.vault.wrap import new_model_key
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_trainer.gateway import error_of
from securetrain_trainer.keys import expected_paths, grant_request
from securetrain_trainer.transport import Answer
from support import vaultkit
from support.gateway_pods import NAMESPACE
from support.gateway_world import World
from support.signed_models import Job, new_job
from support.trainer_kit import UID, GivenKeys, Wrapper, policy, run_spec, seal_dataset

MODELS = "team-a-models"


@dataclass
class Owner:
    """Datasets `ours`, `older` (an earlier version of it) and `other`, under one real KEK."""

    root: Path
    kit: vaultkit.Kit
    deks: dict[str, dict[Split, Secret]]
    token_file: Path

    def dataset(self, where: Path) -> Path:
        shutil.copytree(self.root / "ours", where / "data")
        return where / "data"

    def world(self) -> World:
        """A launched job whose operator logs in to the real Vault."""
        world = World(vault_connections=(self.kit.connection,))
        world.vault = VaultBroker(self.token_file)  # type: ignore[assignment]
        return world


class Recording(Wrapper):
    """Wraps by the real KEK, and remembers the keys for comparison."""

    def __init__(self, custodian: Custodian) -> None:
        super().__init__()
        self._custodian = custodian

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        super().wrap(dek, associated_data)
        return self._custodian.wrap(dek, associated_data)


@pytest.fixture(scope="module")
def owner(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Owner:
    root = tmp_path_factory.mktemp("owner")
    kit = vaultkit.prepare(
        openbao,
        "hostile",
        namespace=NAMESPACE,
        dataset_keks=("digits", "spare"),
        model_keks=(MODELS, "other-models"),
    )
    (root / "token").write_text(kit.key.token().reveal_text())
    deks = {}
    with kit.admin() as admin:
        for seed, name in enumerate(("older", "ours", "other")):
            wrapper = Recording(Custodian(admin, kit.request.transit_mount, "digits"))
            seed = 1 if name != "other" else seed
            mount = kit.request.transit_mount
            deks[name] = seal_dataset(
                root / name, records=20, seed=seed, wrapper=wrapper, mount=mount
            )
    return Owner(root, kit, deks, root / "token")


@dataclass
class Told:
    """What came of a pod's request for keys."""

    status: int
    body: dict[str, Any]
    world: World

    @property
    def exit_code(self) -> int:
        """The code with which the pod ends, or would wait for."""
        problem = {name: value for name, value in self.body.items() if name != "retry"}
        return error_of(Answer(self.status, json.dumps(problem).encode(), None)).exit_code


async def ask(owner: Owner, data: Path, world: World | None = None, suffix: str = "a") -> Told:
    """What the gateway tells a train pod that read this folder."""
    world = world or owner.world()
    run = run_spec(data.parent, transit_mount=owner.kit.request.transit_mount)
    request = grant_request(run, load_dataset(data)).to_wire()
    async with world.client() as client:
        status, body = await client.post(
            "/v1/grants", world.token(world.pod(suffix=suffix)), request
        )
    return Told(status, body, world)


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value) or value))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def of_each_split(**fields: str) -> Callable[[Any], Any]:
    def change(ring: Any) -> Any:
        for key in ring["keys"].values():
            key.update(fields)

    return change


def exchange(one: str, two: str) -> Callable[[Any], Any]:
    def change(ring: Any) -> Any:
        keys = ring["keys"]
        keys[one], keys[two] = keys[two], keys[one]

    return change


def replaced(old: str, new: str, split: str = "train") -> Callable[[Any], Any]:
    def change(ring: Any) -> Any:
        text = ring["keys"][split]["wrapped"]
        ring["keys"][split]["wrapped"] = text.replace(old, new, 1)

    return change


def one_character(ring: Any) -> Any:
    text = ring["keys"]["validation"]["wrapped"]
    place = len(text) - 7
    other = "A" if text[place] != "A" else "B"
    ring["keys"]["validation"]["wrapped"] = text[:place] + other + text[place + 1 :]


async def test_the_untouched_dataset_gets_its_keys(owner: Owner, tmp_path: Path) -> None:
    told = await ask(owner, owner.dataset(tmp_path))
    assert told.status == 200, told.body
    run = run_spec(tmp_path, transit_mount=owner.kit.request.transit_mount)
    paths = expected_paths(run, load_dataset(tmp_path / "data"))
    for grant in map(KeyGrant.model_validate, told.body["keys"]):
        server = owner.kit.server
        key = unwrap(server.address, server.ca_pem, grant, paths[grant.name])
        if grant.name != MODEL_KEY_NAME:
            assert key == owner.deks["ours"][Split(grant.name)]


REWRITES: dict[str, Callable[[Path, Path], object]] = {
    "dataset.json, blanks only": lambda d, _: append(d / "dataset.json", " "),
    "dataset.json, other labels": lambda d, _: edit(
        d / "dataset.json", lambda m: m["task"].update(labels=["a", "b", "c"])
    ),
    "policy.json, blanks only": lambda d, _: append(d / "policy.json", "\n"),
    "policy.json, looser": lambda d, _: (d / "policy.json").write_bytes(
        policy(networkIsolation=False, notAfter="2099-12-31T00:00:00Z")
    ),
    "keys.json of an older version": lambda d, root: shutil.copy(root / "older/keys.json", d),
    "keys.json of another dataset": lambda d, root: shutil.copy(root / "other/keys.json", d),
    "the test split's key as the train split's": lambda d, _: edit(
        d / "keys.json", exchange("train", "test")
    ),
    "the validation split's key as the train split's": lambda d, _: edit(
        d / "keys.json", exchange("train", "validation")
    ),
    "another KEK that is allowed": lambda d, _: edit(d / "keys.json", of_each_split(kek="spare")),
    "a version of the KEK that never was": lambda d, _: edit(
        d / "keys.json", replaced("vault:v1:", "vault:v7:")
    ),
    "one character of a wrapped key": lambda d, _: edit(d / "keys.json", one_character),
}


@pytest.mark.parametrize("rewrite", REWRITES)
async def test_what_was_not_sealed_together_fails_the_job_with_12_and_names_the_files(
    owner: Owner, tmp_path: Path, rewrite: str
) -> None:
    data = owner.dataset(tmp_path)
    REWRITES[rewrite](data, owner.root)
    told = await ask(owner, data)
    assert (told.status, told.body["reason"]) == (403, "WrongKey"), told.body
    assert told.exit_code == ExitCode.INTEGRITY
    for name in ("dataset.json", "policy.json", "keys.json"):
        assert name in told.body["detail"]
    record = told.world.record
    assert record.phase == "Failed"
    assert record.failure is not None
    assert record.failure.reason == "WrongKey"
    assert record.grants == ()
    assert "grant.issued" not in told.world.kinds


@pytest.mark.parametrize("kek", ["unknown", MODELS, "hostile-signing"])
async def test_a_kek_that_the_role_may_not_use_gets_no_key_and_keys_json_is_named(
    owner: Owner, tmp_path: Path, kek: str
) -> None:
    """Vault says no more than `denied`, as it does where setup was forgotten: the job waits."""
    data = owner.dataset(tmp_path)
    edit(data / "keys.json", of_each_split(kek=kek))
    told = await ask(owner, data)
    assert (told.status, told.body["reason"]) == (503, "VaultDenied"), told.body
    assert f"decrypt/{kek}" in told.body["detail"]
    assert "keys.json" in told.body["detail"]
    assert told.world.record.grants == ()
    assert told.world.record.phase == "Training"


@pytest.mark.parametrize("mount", ["sys", "auth-hostile", "transit"])
async def test_a_foreign_mount_is_refused_before_vault_is_asked(
    owner: Owner, tmp_path: Path, mount: str
) -> None:
    data = owner.dataset(tmp_path)
    edit(data / "keys.json", of_each_split(mount=mount))
    told = await ask(owner, data)
    assert told.body["reason"] == "ManifestInvalid"
    assert "keys.json" in told.body["detail"]
    assert told.exit_code == ExitCode.INTEGRITY
    assert told.world.record.phase == "Failed"


@pytest.mark.parametrize("which", ["older", "other"])
async def test_a_dataset_swapped_as_a_whole_under_way_fails_the_job(
    owner: Owner, tmp_path: Path, which: str
) -> None:
    """Whole, and with keys that Vault opens: it is the first grant's digests that tell it."""
    data = owner.dataset(tmp_path)
    first = await ask(owner, data)
    assert first.status == 200
    shutil.rmtree(data)
    shutil.copytree(owner.root / which, data)
    told = await ask(owner, data, first.world, "b")
    assert told.body["reason"] == "DatasetChanged"
    assert "dataset.json" in told.body["detail"]
    assert told.exit_code == exit_code_of(told.body["reason"]) == ExitCode.INTEGRITY
    assert told.world.record.phase == "Failed"
    alone = await ask(owner, data)
    assert alone.status == 200  # nothing was wrong with it but that it is another


# key.json of a model: replaceable, so not signed


@dataclass
class Opened:
    """A model whose key a real KEK wraps, and its owner's command."""

    owner: Owner
    job: Job
    key: KeyFile
    other: KeyFile

    @property
    def folder(self) -> Path:
        return self.job.staging

    def write(self, **changes: str) -> None:
        (self.folder / "key.json").write_bytes(dump_key(self.key.model_copy(update=changes)))

    def open(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        destination = self.job.root / "weights.safetensors"
        destination.unlink(missing_ok=True)
        code = cli.main(["open", str(self.folder), str(destination)])
        assert destination.exists() is (code == ExitCode.OK)
        return code, capsys.readouterr().err


@pytest.fixture
def opened(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    server, mount = owner.kit.server, owner.kit.request.transit_mount
    monkeypatch.setenv("VAULT_ADDR", server.address)
    monkeypatch.setenv("VAULT_TOKEN", server.root_token.reveal_text())
    monkeypatch.setenv("VAULT_CACERT", str(server.ca_file))
    data = owner.dataset(tmp_path)
    policy_sha256 = sha256_hex((data / "policy.json").read_bytes())
    keys = []
    with owner.kit.admin() as admin:
        for uid in (UID, UID.replace("5f", "6f")):
            context = model_dek_context(uid, policy_sha256)
            wrapped = new_model_key(admin, mount, MODELS, context)
            keys.append(
                KeyFile(
                    format="securetrain/model-key/v1",
                    mount=mount,
                    kek=MODELS,
                    wrapped=wrapped,
                    job_uid=uid,
                    policy_sha256=policy_sha256,
                )
            )
        custodian = Custodian(admin, mount, MODELS)
        dek = custodian.open_model_key(keys[0].wrapped, model_dek_context(UID, policy_sha256))
    job = new_job(tmp_path, owner.deks["ours"])
    job.keys = GivenKeys(owner.deks["ours"], dek)
    job.train()
    made = Opened(owner, job, *keys)
    made.write()
    return made


def test_an_owner_opens_the_model_only_with_its_own_key_file(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opened.open(capsys)[0] == ExitCode.OK
    text = opened.key.wrapped
    flipped = text[:-1] + ("A" if text[-1] != "A" else "B")
    integrity: list[dict[str, str]] = [
        {"job_uid": opened.other.job_uid},
        {"policy_sha256": "0" * 64},
        {"wrapped": opened.other.wrapped},
        {"wrapped": flipped},
        {"wrapped": text.replace("vault:v1:", "vault:v5:")},
        {"kek": "other-models"},
        # Another model's whole key file: Vault opens it, and the key check says no.
        {"wrapped": opened.other.wrapped, "job_uid": opened.other.job_uid},
    ]
    for changes in integrity:
        opened.write(**changes)
        code, error = opened.open(capsys)
        assert code == ExitCode.INTEGRITY, (changes, error)
        assert "key" in error


@pytest.mark.parametrize(
    "changes", [{"kek": "digits"}, {"kek": "unknown"}, {"mount": "sys"}, {"mount": "auth-hostile"}]
)
def test_a_key_file_leads_an_owners_login_to_model_keks_only(
    opened: Opened, capsys: pytest.CaptureFixture[str], changes: dict[str, str]
) -> None:
    """The login may do much; what is asked of it is one decrypt by a key of the right kind."""
    opened.write(**changes)
    code, error = opened.open(capsys)
    assert code == ExitCode.CONFIGURATION
    assert next(iter(changes.values())) in error


@pytest.mark.parametrize("mount", ["../sys", "a/b", "", "sys?x", "%2e%2e"])
def test_a_key_file_with_an_odd_path_is_refused_before_vault_is_asked(
    opened: Opened, capsys: pytest.CaptureFixture[str], mount: str
) -> None:
    for field in ("mount", "kek"):
        opened.write(**{field: mount})
        code, error = opened.open(capsys)
        assert code == ExitCode.INTEGRITY
        assert f"key.json: {field}" in error
