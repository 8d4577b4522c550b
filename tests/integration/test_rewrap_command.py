"""`securetrain rewrap`, `shred` and `inspect --keys` by an owner's login on a real OpenBao."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.digest import sha256_hex
from securetrain.cli.main import main
from securetrain.errors import ExitCode, KeyRevoked, SecuretrainError, WrongKey
from securetrain.sealed import pair
from securetrain.sealed.dataset import KEYS_FILE, POLICY_FILE, load_dataset
from securetrain.sealed.rewrap import key_place, open_keys, rewrap
from securetrain.vault.custody import Custodian
from support import owned_data
from support.owned_data import Owned, rules_of

Run = Callable[..., tuple[int, str, str]]
STEPS = ("rotate", "wrap", "refuse_before")


@pytest.fixture(scope="module")
def server(openbao: OpenBao) -> Owned:
    return owned_data.prepare(openbao, "custodian")


@pytest.fixture
def owned(server: Owned, request: pytest.FixtureRequest) -> Owned:
    """The same server; each test has a fresh KEK, since versions count."""
    with server.kit.admin() as admin:
        name = f"k{sha256_hex(request.node.name.encode())[:12]}"
        admin.write(f"{server.mount}/keys/{name}-digits", {"type": "aes256-gcm96"})
        admin.write(f"{server.mount}/keys/{name}-other", {"type": "aes256-gcm96"})
        for policy in ("st-owner", "st-shred"):
            path = f"sys/policies/acl/{policy}-team-a"
            found = admin.read(path).text("policy")
            for which in ("digits", "other"):
                found = found.replace(f"{server.name}-{which}", f"{name}-{which}")
            admin.write(path.replace("-team-a", f"-{name}"), {"policy": found})
    return _Renamed(server.kit, name)


class _Renamed(Owned):
    """The same server with other KEKs."""

    def token(self, *policies: str) -> Any:
        names = [f"{policy}-{self.name}" for policy in policies]
        with self.kit.admin() as admin:
            body = {"policies": names, "no_default_policy": True, "ttl": "10m"}
            return admin.write("auth/token/create", body).login


@pytest.fixture
def data(owned: Owned, tmp_path: Path) -> Path:
    return owned.seal(tmp_path / "data")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(rules_of(notAfter="2040-01-01T00:00:00Z").decode())
    return path


@pytest.fixture
def login(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Log in with some policies."""
    monkeypatch.setenv("VAULT_ADDR", owned.kit.server.address)
    monkeypatch.setenv("VAULT_CACERT", str(owned.kit.server.ca_file))

    def as_holder_of(*policies: str) -> None:
        monkeypatch.setenv("VAULT_TOKEN", owned.token(*policies).reveal_text())

    as_holder_of("st-owner")
    return as_holder_of


@pytest.fixture
def run(login: object, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def opens(owned: Owned, folder: Path) -> str:
    """`yes`, or the reason why the keys in a folder do not open."""
    try:
        with owned.custodian() as kek:
            open_keys(load_dataset(folder), kek)
    except SecuretrainError as error:
        return error.reason
    return "yes"


def content(folder: Path) -> dict[str, str]:
    """Digest of every file but the two that a re-wrap replaces."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name not in (POLICY_FILE, KEYS_FILE)
    }


def test_a_new_policy_and_a_new_version_without_touching_shards(
    owned: Owned, data: Path, policy: Path, tmp_path: Path, run: Run
) -> None:
    before, old = content(data), owned_data.copy(data, tmp_path / "old")
    code, out, err = run("rewrap", data, "--policy", policy, "--yes", "-o", "json")
    assert code == 0, err
    told = json.loads(out)
    sealed = load_dataset(data)
    assert told["version"] == key_place(sealed).version == 2
    assert told["policyDigest"] == f"sha256:{sealed.policy_sha256}"
    assert told["previousPolicyDigest"] == f"sha256:{load_dataset(old).policy_sha256}"
    assert told["refusedBefore"] == 1
    assert b"2040-01-01" in (data / POLICY_FILE).read_bytes()
    assert content(data) == before
    assert opens(owned, data) == "yes"
    assert opens(owned, old) == "yes"  # and so the owner is told
    assert "stays valid for whoever keeps its files: see --revoke" in err


def test_revoked_keys_open_no_more_and_once_more_changes_nothing(
    owned: Owned, data: Path, policy: Path, tmp_path: Path, run: Run
) -> None:
    old = owned_data.copy(data, tmp_path / "old")
    command = ("rewrap", data, "--policy", policy, "--revoke", "--yes")
    code, out, err = run(*command)
    assert code == 0, err
    assert "whatever a version before 2 wrapped" in out
    assert "pods that ask with the old ones fail with KeyRevoked" in " ".join(err.split())
    assert "Other datasets under" in err
    assert (opens(owned, data), opens(owned, old)) == ("yes", "KeyRevoked")
    files = {name: (data / name).read_bytes() for name in (POLICY_FILE, KEYS_FILE)}
    code, out, _ = run(*command, "-o", "json")
    assert code == 0
    assert json.loads(out)["wrapped"] is False
    assert json.loads(out)["refusedBefore"] == 2
    assert files == {name: (data / name).read_bytes() for name in files}
    with owned.custodian() as kek:
        assert kek.versions().latest == 2


def test_the_same_policy_can_be_revoked_too(
    owned: Owned, data: Path, tmp_path: Path, run: Run
) -> None:
    """What was copied as it was sealed is cut off, though no rule changes."""
    old = owned_data.copy(data, tmp_path / "old")
    same = tmp_path / "same.json"
    same.write_bytes((data / POLICY_FILE).read_bytes())
    assert run("rewrap", data, "--policy", same, "--revoke", "--yes")[0] == 0
    assert (opens(owned, data), opens(owned, old)) == ("yes", "KeyRevoked")


def test_what_storage_put_back_is_not_made_valid_for_ever(
    owned: Owned, data: Path, policy: Path, tmp_path: Path, run: Run
) -> None:
    """Before the owner revokes, somebody puts the older, looser pair back into the folder."""
    old = owned_data.copy(data, tmp_path / "old")
    run("rewrap", data, "--policy", policy, "--yes")
    stricter = owned_data.copy(data, tmp_path / "stricter")
    for name in (POLICY_FILE, KEYS_FILE):
        (data / name).write_bytes((old / name).read_bytes())
    code, _, err = run("rewrap", data, "--revoke", "--yes")
    assert code == ExitCode.USAGE
    assert "--revoke needs --policy" in err
    assert run("rewrap", data, "--policy", policy, "--revoke", "--yes")[0] == 0
    assert b"2040-01-01" in (data / POLICY_FILE).read_bytes()
    assert [opens(owned, folder) for folder in (data, old, stricter)] == [
        "yes",
        "KeyRevoked",
        "KeyRevoked",
    ]


@pytest.mark.parametrize("file", ["", "policy"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_a_readable_dataset_and_the_same_command_ends_it(
    owned: Owned,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    file: str,
) -> None:
    wanted = rules(2040) if file else (data / POLICY_FILE).read_bytes()
    old = owned_data.copy(data, tmp_path / "old")
    real = getattr(Custodian, step)

    def cut(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt

    with owned.custodian() as kek, monkeypatch.context() as power:
        power.setattr(Custodian, step, cut)
        with pytest.raises(KeyboardInterrupt):
            rewrap(data, load_dataset(data), kek, policy=wanted, revoke=True)
    assert opens(owned, data) == "yes"
    with owned.custodian() as kek:
        done = rewrap(data, load_dataset(data), kek, policy=wanted, revoke=True)
        assert done.refused_before == done.version == kek.versions().latest
    assert (opens(owned, data), opens(owned, old)) == ("yes", "KeyRevoked")
    assert (data / POLICY_FILE).read_bytes() == wanted


def rules(year: int) -> bytes:
    return rules_of(notAfter=f"{year}-01-01T00:00:00Z")


def test_a_pair_put_back_is_not_taken_for_the_newest(
    owned: Owned, data: Path, tmp_path: Path
) -> None:
    """Else whoever keeps the looser one from in between could have it outlive the revocation."""
    strict = tmp_path / "strict"
    with owned.custodian() as kek:
        rewrap(data, load_dataset(data), kek, policy=rules(2040))
        owned_data.copy(data, strict)
        rewrap(data, load_dataset(data), kek, policy=rules(2090))
        loose = owned_data.copy(data, tmp_path / "loose")
        for name in (POLICY_FILE, KEYS_FILE):
            (data / name).write_bytes((strict / name).read_bytes())
        rewrap(data, load_dataset(data), kek, policy=rules(2040), revoke=True)
    assert [opens(owned, folder) for folder in (data, loose)] == ["yes", "KeyRevoked"]


def test_a_rotation_by_somebody_else_does_not_come_between(
    owned: Owned, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Custodian.rotate

    def twice(kek: Custodian) -> int:
        mine = real(kek)
        real(kek)
        return mine

    monkeypatch.setattr(Custodian, "rotate", twice)
    with owned.custodian() as kek:
        done = rewrap(data, load_dataset(data), kek, policy=rules(2040), revoke=True)
        assert kek.versions().latest == 3
    assert done.version == done.refused_before == key_place(load_dataset(data)).version == 2


def test_a_dataset_that_changed_since_it_was_shown_is_not_wrapped(
    owned: Owned, data: Path, tmp_path: Path
) -> None:
    old, shown = owned_data.copy(data, tmp_path / "old"), load_dataset(data)
    with owned.custodian() as kek:
        rewrap(data, shown, kek, policy=rules(2040))
        with pytest.raises(SecuretrainError, match="changed meanwhile"):
            rewrap(data, shown, kek)
        assert kek.versions().latest == 2
    assert (opens(owned, data), opens(owned, old)) == ("yes", "yes")


def test_nothing_is_revoked_before_what_was_written_has_been_read_back(
    owned: Owned, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, policy: bytes, keys: bytes) -> None:
        (folder / POLICY_FILE).write_bytes(policy)

    old, sealed = owned_data.copy(data, tmp_path / "old"), load_dataset(data)
    monkeypatch.setattr(pair, "replace", half)
    with owned.custodian() as kek, pytest.raises(WrongKey):
        rewrap(data, sealed, kek, policy=rules(2040), revoke=True)
    assert opens(owned, old) == "yes"


def test_nobody_is_surprised(owned: Owned, data: Path, policy: Path, run: Run) -> None:
    before = (data / KEYS_FILE).read_bytes()
    code, _, err = run("rewrap", data, "--policy", policy, "--revoke")
    assert code == ExitCode.USAGE
    assert "--yes" in err
    assert "→ a new version" in err
    assert (data / KEYS_FILE).read_bytes() == before
    with owned.custodian() as kek:
        assert kek.versions().latest == 1


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--policy", "none.json"], ExitCode.CONFIGURATION, "new policy"),
        (["--kek", "mistyped"], ExitCode.REFUSED, "denied"),
        (["--kek", "../sys"], ExitCode.CONFIGURATION, "safe"),
    ],
)
def test_wrong_options_change_nothing(
    owned: Owned, data: Path, run: Run, options: list[str], code: int, says: str
) -> None:
    before = (data / KEYS_FILE).read_bytes()
    found, _, err = run("rewrap", data, *options, "--yes")
    assert found == code
    assert says in err
    assert (data / KEYS_FILE).read_bytes() == before


def test_a_uri_is_told_what_to_do(run: Run) -> None:
    code, _, err = run("rewrap", "pvc://datasets/digits", "--yes")
    assert code == ExitCode.CONFIGURATION
    assert "shards are not needed" in err


def test_another_kek_takes_a_dataset_over(
    owned: Owned, data: Path, tmp_path: Path, run: Run
) -> None:
    """So that a shared KEK can be revoked for its other datasets."""
    neighbour = owned.seal(tmp_path / "neighbour", seed=2)
    code, _, err = run("rewrap", neighbour, "--kek", owned.kek("other"), "--yes")
    assert code == 0, err
    assert f"What {owned.kek()} wrapped stays valid" in err
    run("rewrap", data, "--policy", data / POLICY_FILE, "--revoke", "--yes")
    sealed = load_dataset(neighbour)
    assert key_place(sealed).kek == owned.kek("other")
    with owned.custodian("other") as kek:
        assert open_keys(sealed, kek)


def test_two_re_wraps_at_once_do_not_mix(owned: Owned, data: Path) -> None:
    sealed, under_way = load_dataset(data), pytest.raises(SecuretrainError, match="under way")
    with pair.alone(data, "dataset.json"), owned.custodian() as kek, under_way:
        rewrap(data, sealed, kek)


def test_a_shredded_dataset_is_lost_even_for_vaults_admin(
    owned: Owned, data: Path, tmp_path: Path, run: Run, login: Callable[..., None]
) -> None:
    copies = [owned_data.copy(data, tmp_path / "copy"), data]
    code, _, err = run("shred", data, "--confirm", owned.kek())
    assert code == ExitCode.REFUSED, err  # the everyday login cannot
    assert [opens(owned, folder) for folder in copies] == ["yes", "yes"]
    login("st-shred")
    code, _, err = run("shred", data, "--confirm", "yes")
    assert code == ExitCode.CONFIGURATION
    assert "every other dataset under this KEK" in err
    code, out, err = run("shred", data, "--confirm", owned.kek(), "-o", "json")
    assert code == 0, err
    assert json.loads(out)["shredded"] is True
    login("st-owner")
    assert run("inspect", data, "--keys")[0] == ExitCode.REFUSED
    assert run("inspect", data, "--deep")[0] == 0  # ciphertext, and nothing more
    with owned.kit.admin() as admin:
        path = f"{owned.mount}/keys/{owned.kek()}"
        for body in ({"min_decryption_version": 1}, {"min_encryption_version": 1}):
            with pytest.raises(SecuretrainError):
                admin.write(f"{path}/config", body)
        assert set((admin.read(path).data or {})["keys"]) == {"3"}
        kek = Custodian(admin, owned.mount, owned.kek())
        for folder in copies:
            with pytest.raises(KeyRevoked):
                open_keys(load_dataset(folder), kek)


def test_shredding_once_more_spares_what_was_sealed_since(
    owned: Owned, data: Path, tmp_path: Path, run: Run, login: Callable[..., None]
) -> None:
    login("st-shred")
    assert run("shred", data, "--confirm", owned.kek())[0] == 0
    newer = owned.seal(tmp_path / "newer", seed=2)
    code, out, _ = run("shred", data, "--confirm", owned.kek())
    assert code == 0
    assert "was shredded before" in out
    assert opens(owned, newer) == "yes"


def test_inspect_with_keys_checks_every_tag(owned: Owned, data: Path, run: Run) -> None:
    code, out, _ = run("inspect", data, "--deep", "--keys")
    assert code == 0
    assert "digests and tags" in out
    assert "open with your login" in out
    assert owned.kek() in out
    code, out, _ = run("inspect", data, "--keys", "-o", "json")
    told = json.loads(out)
    assert (told["keysOpen"], told["kekVersion"], told["expired"]) == (True, 1, False)
    shard = sorted((data / "shards").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    code, _, err = run("inspect", data, "--deep", "--keys")
    assert code == ExitCode.INTEGRITY
    assert shard.name in err


def test_inspect_with_keys_finds_a_loosened_policy(owned: Owned, data: Path, run: Run) -> None:
    longer = (data / POLICY_FILE).read_bytes().replace(b"2099", b"2098")
    (data / POLICY_FILE).write_bytes(longer)
    assert run("inspect", data, "--deep")[0] == 0
    code, _, err = run("inspect", data, "--keys")
    assert code == ExitCode.INTEGRITY
    assert "policy" in err
