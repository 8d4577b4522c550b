"""policy.json and keys.json are read and replaced as one, whatever moment the power is cut at."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.errors import BadConfiguration, ManifestInvalid, SecuretrainError
from securetrain.sealed import files, pair
from securetrain.sealed.pair import KEYS_FILE, PENDING_FILE, POLICY_FILE, Pending
from securetrain.sealed.strict_json import dump

OLD, NEW = (b"old policy", b"old keys"), (b"new policy", b"new keys")
FILES = {POLICY_FILE, KEYS_FILE}


class PowerCut(BaseException):
    """Nothing after this happens."""


class Power:
    """Counts the calls that change the disk, and cuts the power around one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int = -1) -> None:
        self.steps, self.at = 0, at
        self.calls: list[str] = []
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "open")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._step()
            self.calls.append(call.__name__)
            result = call(*arguments, **options)
            if call.__name__ != "open":  # or the file would never be closed
                self._step()
            return result

        return counted

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise PowerCut


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / POLICY_FILE).write_bytes(OLD[0])
    (tmp_path / KEYS_FILE).write_bytes(OLD[1])
    return tmp_path


def steps_of(folder: Path, new: tuple[bytes, bytes]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        power = Power(patch)
        pair.replace(folder, *new)
    return power.steps


@pytest.fixture(params=[NEW, (OLD[0], NEW[1])], ids=["both", "keys alone"])
def new(request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    found: tuple[bytes, bytes] = request.param
    return found


def test_a_power_cut_at_any_moment_leaves_what_was_or_what_is_new(
    folder: Path, new: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = set()
    total = steps_of(folder, new)
    for at in range(1, total + 1):
        scene = tmp_path_factory.mktemp("cut")
        files.replace(scene, POLICY_FILE, OLD[0])
        files.replace(scene, KEYS_FILE, OLD[1])
        with pytest.MonkeyPatch.context() as patch:
            Power(patch, at)
            with pytest.raises(PowerCut):
                pair.replace(scene, *new)
        found = pair.read(scene)
        assert found in (OLD, new), at
        seen.add(found)
        pair.finish(scene)
        assert pair.read(scene) == found
        pair.replace(scene, *new)
        assert pair.read(scene) == new
        assert {path.name for path in scene.iterdir()} == FILES
    assert seen == {OLD, new}


def test_a_finished_replacement_leaves_the_two_files_alone(
    folder: Path, new: tuple[bytes, bytes]
) -> None:
    pair.replace(folder, *new)
    assert ((folder / POLICY_FILE).read_bytes(), (folder / KEYS_FILE).read_bytes()) == new
    assert {path.name for path in folder.iterdir()} == FILES
    assert pair.finish(folder) is False


def test_what_is_renamed_is_on_the_disk_first_and_the_folder_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power = Power(monkeypatch)
    files.replace(folder, KEYS_FILE, NEW[1])
    assert power.calls == ["unlink", "open", "fsync", "replace", "fsync"]


def interrupting(monkeypatch: pytest.MonkeyPatch, folder: Path, times: Iterator[bytes]) -> None:
    """Have somebody replace both files whenever a reader has read the policy."""
    real = files.read

    def read(where: Path, name: str, *more: Any) -> bytes:
        data = real(where, name, *more)
        policy = next(times, None) if name == POLICY_FILE else None
        if policy is not None:
            (folder / POLICY_FILE).write_bytes(policy)
            (folder / KEYS_FILE).write_bytes(b"keys of " + policy)
        return data

    monkeypatch.setattr(files, "read", read)


def test_a_reader_never_mixes_two_pairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting(monkeypatch, folder, iter([b"second"]))
    assert pair.read(folder) == (b"second", b"keys of second")


def test_a_reader_gives_up_on_a_pair_that_never_rests(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, folder, iter(str(number).encode() for number in range(10_000)))
    with pytest.raises(ManifestInvalid, match="change while they are read"):
        pair.read(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"format": "securetrain/rewrap/v2", "policy": "", "keys": ""}',
        b'{"format": "securetrain/rewrap/v1", "policy": "YQ==", "keys": "YQ==", "x": 1}',
        b" " * (pair.MAX_PENDING_BYTES + 1),
    ],
)
def test_a_malformed_rewrap_json_is_named(folder: Path, text: bytes) -> None:
    (folder / PENDING_FILE).write_bytes(text)
    for use in (pair.read, pair.finish):
        with pytest.raises(ManifestInvalid, match=PENDING_FILE):
            use(folder)


def test_links_are_neither_followed_nor_written_through(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (folder / f".{KEYS_FILE}.partial").symlink_to(target)
    pair.replace(folder, *NEW)
    assert target.read_bytes() == b"mine"
    (folder / PENDING_FILE).symlink_to(target)
    with pytest.raises(SecuretrainError, match=PENDING_FILE):
        pair.read(folder)


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadConfiguration, match="No space left") as caught:
        pair.replace(folder, *NEW)
    assert "then do the same again" in caught.value.fix
    assert pair.read(folder) == OLD


@pytest.mark.parametrize("more", [(1, 0), (0, 1)])
def test_a_rewrap_json_that_the_files_could_not_hold_is_refused(
    folder: Path, more: tuple[int, int]
) -> None:
    fits = (bytes(pair.MAX_POLICY_BYTES), bytes(pair.MAX_KEYS_BYTES))
    (folder / PENDING_FILE).write_bytes(dump(Pending.of(*fits)))
    assert pair.read(folder) == fits
    texts = [base64.b64encode(data + bytes(by)) for data, by in zip(fits, more, strict=True)]
    document = {
        "format": "securetrain/rewrap/v1",
        "policy": texts[0].decode(),
        "keys": texts[1].decode(),
        "sha256": sha256_hex(b"\n".join(texts)),
    }
    (folder / PENDING_FILE).write_text(json.dumps(document))
    with pytest.raises(ManifestInvalid, match=r"rewrap\.json: (policy|keys): .*bytes, more than"):
        pair.read(folder)
