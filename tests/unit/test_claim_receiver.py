"""The receiver on a claim, spoken to by the sender: whole files or none, and no way out of it."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.errors import (
    BadConfiguration,
    ClusterUnavailable,
    InvalidInput,
    ManifestInvalid,
    OutputExists,
    ShardCorrupt,
)
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.whole import check_shards
from securetrain.storage import frames, receive
from securetrain.storage.claim import ClaimDepot
from securetrain.storage.depot import SealedFile
from securetrain.storage.download import download
from securetrain.storage.frames import Answer, Request
from securetrain.storage.parcel import pack
from securetrain.storage.upload import upload
from support.claims import claim
from support.trainer_kit import seal_dataset


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """An empty claim."""
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small sealed dataset."""
    seal_dataset(tmp_path / "sealed")
    return tmp_path / "sealed"


def test_a_dataset_goes_to_a_claim_and_comes_back_and_goes_on_after_a_break(
    mount: Path, dataset: Path, tmp_path: Path
) -> None:
    parcel = pack(dataset)
    with claim(mount) as depot:
        sent = upload(parcel, depot)
    there = mount / "team/noise"
    check_shards(load_dataset(there), deep=True)
    assert {path.name for path in there.rglob("*")} == {path.name for path in dataset.rglob("*")}
    assert (sent.kept, sent.bytes) == (0, sum(path.stat().st_size for path in dataset.rglob("*.*")))

    (there / "dataset.json").unlink()
    (there / "upload.json").write_bytes(_claim_of(dataset))
    wrong, gone, *_ = sorted((there / "shards").iterdir())
    wrong.write_bytes(b"\0" * wrong.stat().st_size)
    gone.unlink()
    with claim(mount) as depot:
        again = upload(parcel, depot)
    check_shards(load_dataset(there), deep=True)
    assert again.files == 3  # both shards and the manifest
    with claim(mount) as depot:
        assert download(depot, tmp_path / "back") == "dataset"
    check_shards(load_dataset(tmp_path / "back"), deep=True)


def _claim_of(dataset: Path) -> bytes:
    digest = sha256_hex((dataset / "dataset.json").read_bytes())
    return b'{"format": "securetrain/upload/v1", "manifestSha256": "%s"}' % digest.encode()


@pytest.mark.parametrize("way", ["file", "link"])
def test_what_is_in_the_way_is_named_and_left(mount: Path, dataset: Path, way: str) -> None:
    outside = mount.parent / "outside"
    outside.mkdir()
    (mount / "team").mkdir()
    if way == "file":
        (mount / "team/noise").write_bytes(b"mine")
    else:
        (mount / "team/noise").symlink_to(outside)
    with claim(mount) as depot, pytest.raises(OutputExists, match="noise in the claim is a file"):
        upload(pack(dataset), depot)
    assert not list(outside.iterdir())


def test_a_link_in_the_folder_is_replaced_and_never_followed(mount: Path) -> None:
    outside = mount.parent / "outside"
    outside.write_bytes(b"secret")
    (mount / "team/noise").mkdir(parents=True)
    (mount / "team/noise/policy.json").symlink_to(outside)
    with claim(mount) as depot:
        assert depot.list(10) == {"policy.json (not a file)": 0}
        with pytest.raises(BadConfiguration), depot.open("policy.json", 100, ManifestInvalid):
            pass
        depot.write("policy.json", b"new")
        depot.write("keys.json", b"keys")
    assert (mount / "team/noise/policy.json").read_bytes() == b"new"
    assert outside.read_bytes() == b"secret"
    assert not any(path.is_symlink() for path in (mount / "team/noise").iterdir())


def test_a_claimed_name_is_taken_once(mount: Path) -> None:
    with claim(mount) as depot:
        assert depot.create("dataset.json", b"first")
        assert not depot.create("dataset.json", b"second")
        depot.remove("dataset.json")
        depot.remove("dataset.json")
        assert depot.create("dataset.json", b"third")
    assert [path.name for path in (mount / "team/noise").iterdir()] == ["dataset.json"]


def test_what_was_changed_on_its_way_or_cut_off_is_not_there(mount: Path, tmp_path: Path) -> None:
    file = tmp_path / "shard"
    file.write_bytes(b"x" * 300_000)
    wrong = SealedFile("shards/a", 300_000, "00" * 32)
    with claim(mount) as depot:
        with pytest.raises(BadConfiguration, match="changed on its way"):
            depot.send(wrong, file, lambda size: None)
        depot.write("policy.json", b"the next request is found")
    header = frames.pack(Request(op="write", name="shards/a", size=300_000, sha256="00" * 32))
    with pytest.raises(EOFError):
        receive.Receiver(mount, "team/noise").serve(io.BytesIO(header + b"x" * 9), io.BytesIO())
    folder = mount / "team/noise"
    assert sorted(path.name for path in folder.rglob("*")) == ["policy.json", "shards"]


def test_long_and_missing_files_are_refused_with_the_callers_error(mount: Path) -> None:
    with claim(mount) as depot:
        depot.write("keys.json", b"k" * 1000)
        with (
            pytest.raises(ShardCorrupt, match="1000 bytes, more than 999"),
            depot.open("keys.json", 999, ShardCorrupt),
        ):
            pass
        with (
            pytest.raises(ShardCorrupt, match="does not exist"),
            depot.open("nothing", 9, ShardCorrupt),
        ):
            pass
        with depot.open("keys.json", 1000, ShardCorrupt) as (stream, size):
            assert stream.read(10) == b"k" * 10  # the rest is dropped
        assert size == 1000
        assert depot.list(10) == {"keys.json": 1000}


def test_a_full_claim_says_so(mount: Path) -> None:
    assert receive._said(OSError(28, "no room")).reason == "StorageFull"
    if os.geteuid() != 0:
        mount.chmod(0o500)
        with claim(mount) as depot, pytest.raises(BadConfiguration, match="writable"):
            depot.write("keys.json", b"k")


@pytest.mark.parametrize("folder", ["../up", ".hidden", "a/../b", "-v"])
def test_a_folder_outside_the_claim_is_no_folder(mount: Path, folder: str) -> None:
    with pytest.raises(InvalidInput):
        receive.Receiver(mount, folder)


class Liar:
    """A receiver that says what it is told to say."""

    def __init__(self, said: bytes) -> None:
        self._said = io.BytesIO(said)

    def write(self, data: bytes) -> None:
        pass

    def read(self, size: int) -> bytes:
        return self._said.read(size)


def test_the_sender_trusts_no_receiver(tmp_path: Path) -> None:
    def depot(said: bytes) -> ClaimDepot:
        return ClaimDepot(Liar(said), "pvc://claim/x")

    with pytest.raises(ManifestInvalid, match="more than it was asked for"):
        depot(frames.pack(Answer(size=1 << 30))).list(10)
    with pytest.raises(ManifestInvalid, match="lists what is no file"):
        depot(frames.pack(Answer(size=3)) + b"\xffa\n").list(10)
    with pytest.raises(ClusterUnavailable, match="has ended"):
        depot(b"").list(10)
    with pytest.raises(ManifestInvalid, match="header is too long"):
        depot(b"\xff" * 8).list(10)
    with pytest.raises(BadConfiguration, match="odd"):
        depot(frames.pack(Answer(error="GatesMissed", message="odd"))).list(10)
    missing = frames.pack(Answer(error=frames.MISSING))
    for act in (
        lambda: depot(missing).write("keys.json", b"k"),
        lambda: depot(missing).create("keys.json", b"k"),
        lambda: depot(missing).send(SealedFile("a", 0, "0" * 64), Path(os.devnull), len),
        lambda: depot(missing).list(10),
    ):
        with pytest.raises(ClusterUnavailable, match="somebody removes files there"):
            act()


def test_the_pods_own_process_ends_when_nobody_asks_for_anything(tmp_path: Path) -> None:
    started = time.monotonic()
    receive.hold(tmp_path / "pulse", idle_seconds=0.2)
    assert time.monotonic() - started >= 0.2
