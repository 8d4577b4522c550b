"""`inspect --deep --keys`: every digest and every tag, in little memory, with progress."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.api.names import Split, shard_associated_data
from securetrain.errors import ShardCorrupt
from securetrain.sealed.dataset import DATASET_FILE, SealedDataset, index_path, load_dataset
from securetrain.sealed.streaming import decrypt_bytes, encrypt_bytes, verify_stream
from securetrain.sealed.whole import check_shards
from securetrain.secret import Secret
from support.sealed_folders import KeptKeys, sealed_dataset

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, dict[Split, Secret]]:
    written, _, wrapper = sealed_dataset(tmp_path)
    return written.folder, deks_of(wrapper)


def deks_of(wrapper: KeptKeys) -> dict[Split, Secret]:
    return {Split(data.decode().split("|")[1]): dek for data, dek in wrapper.keys.items()}


def rewritten(folder: Path, content: bytes) -> SealedDataset:
    """The dataset with another first train shard, and index and manifest made to agree with it."""
    index = folder / index_path(Split.TRAIN)
    first, *others = index.read_bytes().splitlines()
    entry = json.loads(first)
    (folder / entry["path"]).write_bytes(content)
    entry |= {"bytes": len(content), "sha256": sha256_hex(content)}
    index.write_bytes(b"\n".join([json.dumps(entry).encode(), *others]) + b"\n")
    manifest = json.loads((folder / DATASET_FILE).read_bytes())
    manifest["splits"]["train"]["indexSha256"] = sha256_hex(index.read_bytes())
    (folder / DATASET_FILE).write_text(json.dumps(manifest))
    return load_dataset(folder)


def test_progress_counts_every_byte(folder: tuple[Path, dict[Split, Secret]]) -> None:
    path, deks = folder
    sealed = load_dataset(path)
    for options in ({"deep": False}, {"deep": True}, {"deep": True, "deks": deks}):
        done: list[int] = []
        assert check_shards(sealed, on_bytes=done.append, **options) == sum(done)


@pytest.mark.parametrize("made_by", ["another key", "another place", "a flipped bit"])
def test_tags_tell_what_digests_cannot(
    folder: tuple[Path, dict[Split, Secret]], made_by: str
) -> None:
    """Somebody may rewrite shard, index and manifest alike; without the key it does not open."""
    path, deks = folder
    sealed = load_dataset(path)
    entries = sealed.indexes[Split.TRAIN]
    place = shard_associated_data(sealed.manifest.id, Split.TRAIN, 0, len(entries))
    content = (path / entries[0].path).read_bytes()
    plain = decrypt_bytes(content, deks[Split.TRAIN], place)
    changed = {
        "another key": encrypt_bytes(plain, Secret(os.urandom(32)), place),
        "another place": encrypt_bytes(plain, deks[Split.TRAIN], place + b"x"),
        "a flipped bit": content[:-1] + bytes([content[-1] ^ 1]),
    }
    forged = rewritten(path, changed[made_by])
    check_shards(forged, deep=True)
    with pytest.raises(ShardCorrupt, match=r"train-00000.* does not open"):
        check_shards(forged, deep=True, deks=deks)


def test_a_shard_that_grows_while_it_is_read_ends_the_check(
    folder: tuple[Path, dict[Split, Secret]],
) -> None:
    path, _ = folder
    sealed = load_dataset(path)
    entry = sealed.indexes[Split.TRAIN][0]
    shard, done = path / entry.path, 0

    def grow(size: int) -> None:
        nonlocal done
        done += size
        with shard.open("ab") as stream:
            stream.write(b"x" * MIB)

    with pytest.raises(ShardCorrupt, match="not the file that was sealed"):
        check_shards(sealed, deep=True, on_bytes=grow)
    assert done <= entry.bytes + MIB


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    dek, path = Secret(os.urandom(32)), tmp_path / "large"
    path.write_bytes(encrypt_bytes(bytes(16 * MIB), dek, b"x"))
    with path.open("rb", buffering=0) as stream:
        tracemalloc.start()
        verify_stream(stream, path.stat().st_size, dek, b"x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * MIB
