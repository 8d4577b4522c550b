"""Storage in an attacker's hands: ways to harm a file, and a pod that reads what is left.

The pod is the trainer's own code, from its entrypoint down to the decrypted shards. Only the way
to its keys is short: `Vaultlike` gives a key to exactly the wrapped text, KEK and associated data
that it was asked to bind, as Vault does.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import GrantRequest, GrantResponse, KeyGrant, RunSpec
from securetrain.api.names import RUN_SPEC_ENV, Split, dek_associated_data
from securetrain.errors import ExitCode, PolicyDenied, SecuretrainError, WrongKey
from securetrain.sealed.policy import PolicyRequest, check, parse_policy
from securetrain.secret import Secret
from securetrain_trainer import __main__ as entry
from securetrain_trainer.harden import Facts
from securetrain_trainer.keys import GrantedKeys
from securetrain_trainer.phase import open_dataset
from securetrain_trainer.ports import KeySource
from securetrain_trainer.shards import SealedSplit, unseal
from support.trainer_kit import WRAPPED

MODEL_KEY = Secret(b"m" * 32)
HUGE = 1 << 40


@dataclass
class Vaultlike:
    """Wraps keys, and gives them back where everything that they were bound to is right."""

    deks: dict[Split, Secret] = field(default_factory=dict)
    _bound: dict[tuple[str, str, bytes], Secret] = field(default_factory=dict)

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        self.deks[Split(associated_data.decode().split("|")[1])] = dek
        wrapped = "vault:v1:" + base64.b64encode(os.urandom(60)).decode()
        self._bound["transit/digits", wrapped, associated_data] = dek
        return wrapped

    def grant(self, request: GrantRequest) -> GrantResponse:
        """The gateway's part: the owner's policy, and then Vault's."""
        policy_sha256 = sha256_hex(request.policy)
        job = PolicyRequest("team-a", "builtin", True, "team-a-models", True, (), 2e9)
        if denials := check(parse_policy(request.policy), job):
            raise PolicyDenied("; ".join(map(str, denials)))
        keys = []
        for split, key in request.keys.items():
            bound = dek_associated_data(split, request.dataset_sha256, policy_sha256)
            if ("/".join((key.mount, key.kek)), key.wrapped, bound) not in self._bound:
                raise WrongKey("dataset.json, policy.json or keys.json is not what was sealed")
            keys.append(_grant(str(split), f"{key.mount}/decrypt/{key.kek}", key.wrapped))
        keys.append(_grant("model", "transit/decrypt/team-a-models", ""))
        return GrantResponse(keys=tuple(keys), wrapped_model_key=WRAPPED)

    def spend(self, _address: str, _ca: str, grant: KeyGrant, _path: str) -> Secret:
        """The pod's unwrap."""
        if grant.name == "model":
            return MODEL_KEY
        return next(dek for (_, wrapped, _), dek in self._bound.items() if wrapped == grant.token)

    @property
    def keys(self) -> GrantedKeys:
        """The trainer's own way to its keys."""
        return GrantedKeys(self, self.spend)


def _grant(name: str, path: str, token: str) -> KeyGrant:
    return KeyGrant(name=name, token=token, creation_path=path, creation_time="", ttl=30)


def read_as_pod(run: RunSpec, source: KeySource) -> int:
    """Read a dataset as a pod of the run's purpose does; returns the number of shards."""
    dataset = open_dataset(run, Path(run.dataset_path))
    shards = 0
    for split, dek in source.acquire(run, dataset).splits.items():
        entries = dataset.indexes[split]
        sealed = SealedSplit(dataset.folder, dataset.manifest.id, split, entries, dek)
        for index in range(len(entries)):
            os.close(unseal(sealed, index))
            shards += 1
    return shards


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pod:
    """The trainer's entrypoint in this process, without what it does to a process of its own."""
    monkeypatch.setattr(entry, "harden", lambda: Facts(0, 0, True, True))
    monkeypatch.setattr(entry, "_on_sigterm", lambda _path: None)
    return Pod(monkeypatch, tmp_path / "termination-log")


@dataclass
class Pod:
    """Runs the entrypoint with a phase of a test's choice."""

    _patch: pytest.MonkeyPatch
    _log: Path

    @staticmethod
    def outcome(phase: Callable[[], Any]) -> tuple[int, str, str]:
        """The same of a part of a phase, without the entrypoint; what is a bug is raised."""
        try:
            phase()
        except SecuretrainError as error:
            return error.exit_code, error.reason, str(error)
        return ExitCode.OK, "", ""

    def run(self, run: RunSpec, phase: Callable[[RunSpec], Any]) -> tuple[int, str, str]:
        """Exit code, reason and message."""
        self._patch.setenv(RUN_SPEC_ENV, run.model_dump_json(by_alias=True))
        self._patch.setattr(entry, "_run", phase)
        self._log.unlink(missing_ok=True)
        code = entry.main(self._log)
        told = json.loads(self._log.read_text()) if self._log.exists() else {}
        return code, told.get("reason", ""), told.get("message", "")


# Harm to one file. `other` holds a valid file of the same name: another's, or an older one.


def edited(file: Path, _other: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(file: Path, _other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path, _other: Path) -> None:
    file.write_bytes(b"")


def doubled(file: Path, _other: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


def removed(file: Path, _other: Path) -> None:
    file.unlink()


def swapped(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def linked(file: Path, _other: Path) -> None:
    aside = file.parents[1] / f"aside-{file.name}"
    shutil.move(file, aside)
    file.symlink_to(aside)


def piped(file: Path, _other: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def foldered(file: Path, _other: Path) -> None:
    file.unlink()
    file.mkdir()


def endless(file: Path, _other: Path) -> None:
    """A file that says that it has a terabyte."""
    os.truncate(file, HUGE)


def device(file: Path, _other: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


HARMS = (
    edited, cut, emptied, doubled, removed, swapped, linked, piped, foldered, endless, device,
)  # fmt: skip


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block as user and group 10001, as pods do, if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(10001)
    os.seteuid(10001)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Kind and content of everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = stat.S_IFMT(path.lstat().st_mode)
        text = sha256_hex(path.read_bytes()) if stat.S_ISREG(mode) else ""
        text = os.readlink(path) if stat.S_ISLNK(mode) else text
        found[str(path.relative_to(folder))] = (mode, text)
    return found
