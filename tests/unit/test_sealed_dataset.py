"""A dataset folder, sealed and opened again."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.api.names import Split, dek_associated_data, shard_associated_data
from securetrain.errors import (
    InvalidInput,
    ManifestInvalid,
    OutputExists,
    ShardCorrupt,
    VaultUnavailable,
)
from securetrain.sealed import strict_json
from securetrain.sealed.dataset import SealedDataset, dump_keys, key_check, load_dataset, parse_keys
from securetrain.sealed.examples import encode_example
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.sealed.whole import check_shards
from securetrain.sealed.writer import SealOptions, seal
from securetrain.secret import Secret
from support.sealed_folders import POLICY, KeptKeys, digits_source, sealed_dataset


def dek_of(sealed: SealedDataset, keys: KeptKeys, split: Split) -> Secret:
    bound_to = dek_associated_data(split, sealed.manifest_sha256, sealed.policy_sha256)
    return keys.keys[bound_to]


def records_of(sealed: SealedDataset, keys: KeptKeys, split: Split) -> list[bytes]:
    records = []
    entries = sealed.indexes[split]
    for index, entry in enumerate(entries):
        place = shard_associated_data(sealed.manifest.id, split, index, len(entries))
        data = (sealed.folder / entry.path).read_bytes()
        assert (len(data), sha256_hex(data)) == (entry.bytes, entry.sha256)
        plain = decrypt_bytes(data, dek_of(sealed, keys, split), place)
        while plain:
            (length,) = struct.unpack("<Q", plain[:8])
            records.append(plain[12 : 12 + length])
            plain = plain[16 + length :]
    return records


def all_records(source: ImageSource) -> list[bytes]:
    return [encode_example(source.record(number)) for number in range(len(source))]


def test_what_was_sealed_comes_out_again(tmp_path: Path) -> None:
    written, source, keys = sealed_dataset(tmp_path)
    sealed = load_dataset(written.folder)
    assert sealed.manifest == written.manifest
    assert sealed.manifest_sha256 == written.sha256
    assert sealed.manifest.total_records == 300
    assert all(len(entries) > 1 for entries in sealed.indexes.values() if len(entries) != 1)
    found = [record for split in Split for record in records_of(sealed, keys, split)]
    assert sorted(found) == sorted(all_records(source))
    assert check_shards(sealed, deep=True) == sum(
        entry.bytes for of in sealed.indexes.values() for entry in of
    )


def test_each_split_has_a_key_of_its_own_and_a_check_value(tmp_path: Path) -> None:
    written, _, keys = sealed_dataset(tmp_path)
    sealed = load_dataset(written.folder)
    deks = [dek_of(sealed, keys, split) for split in Split]
    assert len({dek.reveal() for dek in deks}) == len(Split)
    for split, dek in zip(Split, deks, strict=True):
        assert sealed.manifest.splits[split].key_check == key_check(dek, sealed.manifest.id, split)
        assert key_check(deks[0], sealed.manifest.id, split) != key_check(deks[0], "x", split)


def test_sealing_again_keeps_the_splits_but_neither_id_nor_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, _, keys = sealed_dataset(tmp_path / "a")
    second, _, others = sealed_dataset(tmp_path / "b", shard_bytes=2048)
    one, two = load_dataset(first.folder), load_dataset(second.folder)
    assert one.manifest.id != two.manifest.id
    for split in Split:
        assert records_of(one, keys, split) == records_of(two, others, split)
        assert dek_of(one, keys, split) != dek_of(two, others, split)


def test_no_plaintext_in_the_folder(tmp_path: Path) -> None:
    written, source, keys = sealed_dataset(tmp_path)
    images = [image.tobytes() for image in source.images]
    for file in written.folder.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert not any(image in data for image in images)
        assert not any(dek.reveal() in data for dek in keys.keys.values())


class NoVault:
    """Vault goes away at the last key."""

    def __init__(self) -> None:
        self.calls = 0

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        self.calls += 1
        if self.calls == 3:
            raise VaultUnavailable("Vault is away")
        return KeptKeys().wrap(dek, associated_data)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = digits_source(tmp_path)
    options = SealOptions(kek="k", policy=strict_json.dump(POLICY))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(VaultUnavailable):
        seal(source, tmp_path / "sealed", options, NoVault())
    assert sorted(os.listdir(tmp_path)) == before


def test_the_folder_is_invisible_until_it_is_whole(tmp_path: Path) -> None:
    source = digits_source(tmp_path)
    options = SealOptions(kek="k", policy=strict_json.dump(POLICY))
    destination = tmp_path / "sealed"

    class Watching(KeptKeys):
        def wrap(self, dek: Secret, associated_data: bytes) -> str:
            assert not destination.exists()
            return super().wrap(dek, associated_data)

    seal(source, destination, options, Watching(), lambda done: None)
    load_dataset(destination)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_destination_is_refused(tmp_path: Path, kind: str) -> None:
    destination = tmp_path / "sealed"
    if kind == "folder":
        destination.mkdir()
    elif kind == "file":
        destination.write_text("mine")
    else:
        destination.symlink_to("nowhere")
    options = SealOptions(kek="k", policy=strict_json.dump(POLICY))
    wrapper = KeptKeys()
    with pytest.raises(OutputExists):
        seal(digits_source(tmp_path), destination, options, wrapper)
    assert not wrapper.keys  # found before the work


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    options = SealOptions(kek="k", policy=strict_json.dump(POLICY))
    with pytest.raises(InvalidInput, match="leave nothing for the split"):
        seal(digits_source(tmp_path, records=2), tmp_path / "sealed", options, KeptKeys())


def test_a_bad_policy_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    options = SealOptions(kek="k", policy=b'{"format": "securetrain/policy/v2"}')
    with pytest.raises(ManifestInvalid):
        seal(digits_source(tmp_path), tmp_path / "sealed", options, KeptKeys())


# What somebody with write access to the storage might do.


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("dataset.json", "dataset/v1", "dataset/v2", "format"),
        ("dataset.json", '"id":', '"idd":', "id"),
        ("dataset.json", '"created":', '"indexSha256": "", "created":', "indexSha256"),
        (
            "dataset.json",
            '"records": "tf',
            '"records": "tf.train.Example", "records": "tf',
            "twice",
        ),
        ("dataset.json", '"classes": 3', '"classes": 3.0', "not an integer"),
        ("dataset.json", '"classes": 3', '"classes": "3"', "classes"),
        ("dataset.json", "AES256_GCM_HKDF_1MB", "AES256_CTR", "cipher"),
        ("keys.json", '"wrapped"', '"unwrapped"', "wrapped"),
        ("keys.json", "vault:v1:", "vault:v0:", "wrapped"),
        ("keys.json", '"transit"', '"../sys"', "mount"),
        ("train.index.jsonl", "shards/train-00000", "shards/train-00001", "not the index"),
    ],
)
def test_edits(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    edit(written.folder / file, old, new)
    with pytest.raises(ManifestInvalid, match=says):
        load_dataset(written.folder)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("shards/train-00000", "../../etc/shadow-0", "line 1: the path"),
        ('"records":', '"recordz":', "recordz"),
        ('"bytes":', '"bytes":1000000000000,"bytes":', "twice"),
        ("}\n", "}\n\n", "lines"),
    ],
)
def test_a_consistent_forger_still_cannot_point_elsewhere(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    """Digests that fit are no excuse: the content is checked as well."""
    written, _, _ = sealed_dataset(tmp_path)
    index = written.folder / "train.index.jsonl"
    before = sha256_hex(index.read_bytes())
    edit(index, old, new)
    edit(written.folder / "dataset.json", before, sha256_hex(index.read_bytes()))
    with pytest.raises(ManifestInvalid, match=says):
        load_dataset(written.folder)


@pytest.mark.parametrize("name", ["dataset.json", "policy.json", "keys.json", "test.index.jsonl"])
def test_links_long_files_and_absence_are_refused(tmp_path: Path, name: str) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    file = written.folder / name
    content = file.read_bytes()
    file.write_bytes(content + b" " * (1 << 21))
    with pytest.raises(ManifestInvalid, match="more than"):
        load_dataset(written.folder)
    file.unlink()
    with pytest.raises(ManifestInvalid, match="does not exist"):
        load_dataset(written.folder)
    (tmp_path / "elsewhere").write_bytes(content)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestInvalid, match="is it a link"):
        load_dataset(written.folder)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ManifestInvalid, match="not a regular file"):
        load_dataset(written.folder)


def test_a_linked_shard_folder_is_refused(tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    shards = written.folder / "shards"
    shards.rename(tmp_path / "moved")
    shards.symlink_to(tmp_path / "moved")
    with pytest.raises(ShardCorrupt):
        check_shards(load_dataset(written.folder), deep=False)


def test_a_changed_byte_is_found_deep_and_a_cut_file_at_once(tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    sealed = load_dataset(written.folder)
    entry = sealed.indexes[Split.TEST][0]
    file = sealed.folder / entry.path
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)
    check_shards(sealed, deep=False)
    with pytest.raises(ShardCorrupt, match=entry.path):
        check_shards(sealed, deep=True)
    file.write_bytes(content[:-1])
    with pytest.raises(ShardCorrupt, match=entry.path):
        check_shards(sealed, deep=False)


def test_key_file_round_trip(tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    data = (written.folder / "keys.json").read_bytes()
    assert dump_keys(parse_keys(data)) == data
    ring = json.loads(data)
    del ring["keys"]["test"]
    with pytest.raises(ManifestInvalid, match="keys must be"):
        parse_keys(json.dumps(ring).encode())


def test_the_key_check_is_the_documented_one() -> None:
    """HKDF-SHA256 by hand: extract with an empty salt, expand once."""
    import hmac

    info = b"securetrain/key-check/v1|some-id|train"
    extracted = hmac.digest(bytes(32), b"k" * 32, hashlib.sha256)
    expected = hmac.digest(extracted, info + b"\x01", hashlib.sha256).hex()
    assert key_check(Secret(b"k" * 32), "some-id", "train") == expected
