"""What a pod does with a dataset that somebody who writes to the storage has had his way with.

Every refusal names the file and the reason, ends the pod with the integrity code, and leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose, Split, shard_associated_data
from securetrain.cli import main as cli
from securetrain.errors import ExitCode, ShardCorrupt, WrongKey
from securetrain.sealed.dataset import key_check, load_dataset
from securetrain.sealed.hashing import HashingReader
from securetrain.sealed.streaming import decrypt_bytes, encrypt_bytes
from securetrain_trainer.places import place_of
from securetrain_trainer.shards import SealedSplit, unseal
from support import hostile
from support.hostile import HARMS, Pod, Vaultlike, pod, read_as_pod
from support.trainer_kit import policy, run_spec, seal_dataset

__all__ = ["pod"]
Harm = Callable[[Path, Path], None]
FILES = (
    "dataset.json", "policy.json", "keys.json", "train.index.jsonl", "test.index.jsonl", "shard",
)  # fmt: skip
FILE = pytest.mark.parametrize("name", FILES)
HARM = pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)


@dataclass
class Scene:
    """Our dataset in `data`, an older version of it in `older` and a stranger's in `other`."""

    root: Path
    vault: Vaultlike

    @property
    def data(self) -> Path:
        return self.root / "data"

    def path(self, name: str, folder: str = "data") -> Path:
        shard = next((self.root / folder / "shards").glob("train-00001-*"))
        return shard if name == "shard" else self.root / folder / name

    def phase(self, run: RunSpec) -> None:
        """A pod's work up to the last shard, with a model's folder begun as training does."""
        with place_of(run).started():
            read_as_pod(run, self.vault.keys)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root, vault = tmp_path_factory.mktemp("hostile"), Vaultlike()
    seal_dataset(root / "other", seed=9, wrapper=Vaultlike())
    seal_dataset(root / "older", wrapper=vault)
    seal_dataset(root / "data", wrapper=vault)
    for folder, year in (("other", 2098), ("older", 2097)):
        other = policy(notAfter=f"{year}-01-01T00:00:00Z")
        (root / folder / "policy.json").write_bytes(other)
    return Scene(root, vault)


@pytest.fixture
def scene(sealed: Scene, tmp_path: Path) -> Scene:
    shutil.copytree(sealed.root, tmp_path / "storage")
    return Scene(tmp_path / "storage", sealed.vault)


def test_the_untouched_dataset_is_read(scene: Scene, pod: Pod) -> None:
    for purpose in Purpose:
        assert pod.run(run_spec(scene.root, purpose), scene.phase)[0] == ExitCode.OK


@FILE
@HARM
def test_every_harm_to_every_file_ends_the_pod_with_12_and_names_the_file(
    scene: Scene, pod: Pod, name: str, harm: Harm
) -> None:
    victim = scene.path(name)
    hosts = [scene.path(name, folder) for folder in ("other", "older")]
    for other in hosts if harm is hostile.swapped else hosts[:1]:
        before = victim.read_bytes()
        harm(victim, other)
        stored = hostile.tree(scene.data) if harm is not hostile.endless else {}
        code, reason, message = pod.run(run_spec(scene.root), scene.phase)
        assert code == ExitCode.INTEGRITY, message
        assert reason in ("ManifestInvalid", "WrongKey", "ShardCorrupt")
        assert victim.name in message
        assert list((scene.root / "out").iterdir()) == []  # nothing half-written
        assert not stored or hostile.tree(scene.data) == stored  # and nothing tidied away
        if harm is hostile.swapped:
            victim.write_bytes(before)


@FILE
@HARM
def test_inspect_deep_says_the_same_to_the_owner(
    scene: Scene, capsys: pytest.CaptureFixture[str], name: str, harm: Harm
) -> None:
    otherwise = {
        ("policy.json", hostile.swapped): ExitCode.OK,  # valid, and for Vault alone to refuse
        ("keys.json", hostile.swapped): ExitCode.OK,
        ("dataset.json", hostile.removed): ExitCode.CONFIGURATION,  # no dataset at all any more
    }
    victim = scene.path(name)
    harm(victim, scene.path(name, "other"))
    code = cli.main(["inspect", str(scene.data), "--deep"])
    error = capsys.readouterr().err
    expected = otherwise.get((name, harm), ExitCode.INTEGRITY)
    if (name, harm) == ("keys.json", hostile.edited) and code == ExitCode.OK:
        expected = ExitCode.OK  # it hit a letter of a wrapped key, which Vault alone can judge
    assert code == expected, error
    assert code == ExitCode.OK or victim.name in error or "dataset.json" in error
    assert "bug" not in error


def test_an_older_version_as_a_whole_is_refused_by_the_jobs_pin(scene: Scene, pod: Pod) -> None:
    """Old, whole and with its own keys: only the pin, or a revoked key, tells it."""
    pin = f"sha256:{sha256_hex(scene.path('dataset.json').read_bytes())}"
    shutil.rmtree(scene.data)
    (scene.root / "older").rename(scene.data)
    code, reason, message = pod.run(run_spec(scene.root, dataset_digest=pin), scene.phase)
    assert (code, reason) == (ExitCode.INTEGRITY, "ManifestInvalid")
    assert "the job pins" in message


# Somebody who once held the data key of the train split, and knows it still.


class Insider:
    """Writes what opens under the known key, with everything around it made to fit."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.dataset = scene, load_dataset(scene.data)
        self.dek = scene.vault.deks[Split.TRAIN]
        self.entries = self.dataset.indexes[Split.TRAIN]

    def place(self, index: int) -> bytes:
        count = len(self.entries)
        return shard_associated_data(self.dataset.manifest.id, Split.TRAIN, index, count)

    def poison(self, index: int = 1) -> bytes:
        """A valid sealed shard with other records of the same sizes."""
        path = self.scene.data / self.entries[index].path
        plain = decrypt_bytes(path.read_bytes(), self.dek, self.place(index))
        first = decrypt_bytes(
            (self.scene.data / self.entries[0].path).read_bytes(), self.dek, self.place(0)
        )
        poisoned = first if len(first) == len(plain) else plain[:-4] + bytes(4)
        sealed = encrypt_bytes(poisoned, self.dek, self.place(index))
        assert decrypt_bytes(sealed, self.dek, self.place(index)) == poisoned
        path.write_bytes(sealed)
        return sealed

    def fit_index(self, sealed: bytes, index: int = 1) -> None:
        file = self.scene.data / "train.index.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines[index] |= {"bytes": len(sealed), "sha256": sha256_hex(sealed)}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def fit_manifest(self, **changes: Any) -> None:
        file = self.scene.data / "dataset.json"
        manifest = json.loads(file.read_text())
        index = (self.scene.data / "train.index.jsonl").read_bytes()
        manifest["splits"]["train"]["indexSha256"] = sha256_hex(index)
        file.write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (1, "shards/train-00001"),
        (2, "train.index.jsonl is not the index that dataset.json names"),
        (3, "dataset.json, policy.json or keys.json is not what was sealed"),
    ],
)
def test_who_knows_an_old_data_key_gets_no_shard_in(
    scene: Scene, pod: Pod, steps: int, says: str
) -> None:
    insider = Insider(scene)
    sealed = insider.poison()
    if steps > 1:
        insider.fit_index(sealed)
    if steps > 2:
        insider.fit_manifest()
        load_dataset(scene.data)  # all of it fits by now: only the wrapped key does not
    code, _, message = pod.run(run_spec(scene.root), scene.phase)
    assert code == ExitCode.INTEGRITY
    assert says in message


def test_a_shard_of_two_keys_is_stopped_by_the_key_check(scene: Scene) -> None:
    """Vault would give this key: it is right in all but being the one that sealed the dataset."""
    insider = Insider(scene)
    manifest = insider.dataset.manifest
    assert key_check(insider.dek, manifest.id, "train") == manifest.splits[Split.TRAIN].key_check
    swapped = Vaultlike()
    for bound in scene.vault._bound:
        swapped._bound[bound] = scene.vault.deks[Split.VALIDATION]
    with pytest.raises(WrongKey, match="split train"):
        read_as_pod(run_spec(scene.root), swapped.keys)


# Between two reads.


def test_a_shard_that_changes_between_two_epochs_is_refused(scene: Scene) -> None:
    insider = Insider(scene)
    split = SealedSplit(
        scene.data, insider.dataset.manifest.id, Split.TRAIN, insider.entries, insider.dek
    )
    os.close(unseal(split, 1))
    insider.poison()
    with pytest.raises(ShardCorrupt, match=r"train-00001.*digest"):
        unseal(split, 1)


@pytest.mark.parametrize("moment", ["after the digest began", "after its size was taken"])
def test_a_shard_that_changes_while_it_is_read_is_refused_or_was_read_whole(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What is hashed is what is decrypted: there is no second look at the file."""
    from securetrain_trainer import shards

    insider = Insider(scene)
    victim = scene.data / insider.entries[1].path
    split = SealedSplit(
        scene.data, insider.dataset.manifest.id, Split.TRAIN, insider.entries, insider.dek
    )

    class Hostile(HashingReader):
        def readinto(self, buffer: Any) -> int:
            if moment == "after its size was taken":
                with victim.open("ab") as stream:
                    stream.write(b"more")
            count = super().readinto(buffer)
            victim.write_bytes(bytes(victim.stat().st_size))  # in place: the same inode
            return count

    plain = decrypt_bytes(victim.read_bytes(), insider.dek, insider.place(1))
    monkeypatch.setattr(shards, "HashingReader", Hostile)
    with contextlib.suppress(ShardCorrupt):
        descriptor = unseal(split, 1)
        assert os.pread(descriptor, len(plain) + 1, 0) == plain
        os.close(descriptor)
    assert not any(victim.read_bytes())  # it did change meanwhile


def test_the_bytes_that_were_hashed_are_the_bytes_that_are_sent(scene: Scene) -> None:
    """A policy and a manifest swapped after the read change nothing of what the pod asks for."""
    from securetrain_trainer.keys import grant_request

    dataset = load_dataset(scene.data)
    for name in ("dataset.json", "policy.json", "keys.json"):
        scene.path(name).write_bytes(scene.path(name, "other").read_bytes())
    request = grant_request(run_spec(scene.root), dataset)
    assert request.dataset_sha256 == sha256_hex(dataset.manifest_bytes)
    assert sha256_hex(request.policy) == dataset.policy_sha256
    assert request.keys[Split.TRAIN] == dataset.keys[Split.TRAIN]
    scene.vault.grant(request)


# Documents made to hurt their reader.

BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "deep lists": lambda data: b"[" * 60_000,
    "deep objects": lambda data: b'{"a":' * 12_000,
    "many keys": lambda data: b'{"format":1' + b"".join(b',"%d":0' % n for n in range(1500)) + b"}",
    "one key twice": lambda data: data.rstrip()[:-1] + b', "format": "x"}',
    "a key twice among many": lambda data: (
        b"{" + b"".join(b'"%x":0,' % n for n in range(1500)) + b'"0":0}'
    ),
    "a long number": lambda data: b'{"format":' + b"9" * 15_000 + b"}",
    "a float": lambda data: b'{"format": 1e400}',
    "not a number": lambda data: b'{"format": NaN}',
    "half a character": lambda data: data[:-1] + b"\xed\xa0\x80",
    "a lone surrogate": lambda data: b'{"format": "\\ud800"}',
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "two documents": lambda data: data + data,
    "a list": lambda data: b"[" + data + b"]",
    "nothing but blanks": lambda data: b" " * 16_000,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["dataset.json", "policy.json", "keys.json", "train.index.jsonl"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_documents_made_to_hurt_their_reader_are_refused_by_name(
    scene: Scene, pod: Pod, name: str, bomb: str
) -> None:
    data = BOMBS[bomb](scene.path(name).read_bytes())
    scene.path(name).write_bytes(data)
    if name.endswith("jsonl"):  # by somebody who has the manifest fit
        Insider.fit_manifest(_Unread(scene))
    code, reason, message = pod.run(run_spec(scene.root), scene.phase)
    assert code == ExitCode.INTEGRITY, message
    assert name in message
    assert reason in ("ManifestInvalid", "WrongKey")


class _Unread(Insider):
    """An insider whose dataset cannot be loaded any more."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene


@pytest.mark.timeout(60)
def test_a_key_that_stands_twice_is_found_in_one_pass() -> None:
    """A mebibyte of keys took minutes when each was counted among all others."""
    from securetrain.errors import ManifestInvalid
    from securetrain.sealed.dataset import parse_manifest

    data = b"{" + b"".join(b'"%x":0,' % n for n in range(100_000)) + b'"z":0,"z":0}'
    with pytest.raises(ManifestInvalid, match="'z' stands there twice"):
        parse_manifest(data)
