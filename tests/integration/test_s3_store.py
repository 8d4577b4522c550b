"""Our S3 client on a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localcluster.pki import Authority
from securetrain.errors import (
    ManifestInvalid,
    ModelCorrupt,
    StorageDenied,
    StorageMisconfigured,
    StorageUnavailable,
)
from securetrain.sealed import pair
from securetrain.secret import Secret
from securetrain.storage import s3
from securetrain.storage.objects import ObjectStore, StoredObject
from securetrain.storage.s3 import S3Store, open_store
from securetrain.storage.uri import parse_uri
from support.buckets import Bucket, MemoryStore, login, opened, refused, told
from support.s3_server import S3Server


@pytest.fixture(params=["server", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """The real thing, and the one in memory that stands in for it elsewhere: they must agree."""
    if request.param == "memory":
        yield MemoryStore(Bucket(), "a/prefix")
        return
    server: S3Server = request.getfixturevalue("s3_server")
    with opened(server, f"s3://{server.bucket()}/a/prefix") as real:
        yield real


def test_objects_are_written_read_copied_and_removed(store: ObjectStore, tmp_path: Path) -> None:
    store.write("dataset.json", b"content")
    store.write("empty", b"")
    (tmp_path / "shard").write_bytes(b"x" * 1000)
    store.below("shards").write_file("one", tmp_path / "shard")
    assert [(item.name, item.size) for item in store.list(limit=9)] == [
        ("dataset.json", 7),
        ("empty", 0),
        ("shards/one", 1000),
    ]
    assert [item.name for item in store.list("shards/", limit=9)] == ["shards/one"]
    assert [item.name for item in store.list(limit=2)] == ["dataset.json", "empty"]
    assert store.read("dataset.json", 7) == b"content"
    assert store.read("empty", 0) == b""
    with store.below("shards").open("one", 1000, ManifestInvalid) as (stream, size):
        assert (stream.read(), size) == (b"x" * 1000, 1000)
    found = store.stat("dataset.json")
    assert found is not None
    assert found.size == 7
    assert store.copy(found, "copies/one") == store.stat("copies/one")
    assert store.read("copies/one", 7) == b"content"
    assert not store.copy(replace(found, etag='"another"'), "copies/two")
    assert not store.copy(StoredObject("nothing", 1, found.etag), "copies/two")
    for name in ("dataset.json", "never there"):
        store.remove(name)
    assert store.stat("dataset.json") is None
    assert not store.has("copies/two")


def test_an_object_is_made_once_only(store: ObjectStore) -> None:
    assert store.create("key.json", b"first")
    assert not store.create("key.json", b"second")
    assert store.read("key.json", 9) == b"first"
    found = store.stat("key.json")
    assert found is not None
    assert store.exchange(found, b"third")
    assert not store.exchange(found, b"fourth")
    assert store.read("key.json", 9) == b"third"
    store.remove("key.json")
    assert not store.exchange(found, b"fifth")


def test_what_is_missing_or_too_long_is_of_the_callers_class(store: ObjectStore) -> None:
    store.write("model.json", b"12345")
    with pytest.raises(ModelCorrupt, match=r"model\.json has 5 bytes, more than 4"):
        store.read("model.json", 4, ModelCorrupt)
    with pytest.raises(ManifestInvalid, match=r"policy\.json does not exist"):
        store.read("policy.json", 4)


def test_large_objects_go_in_parts_and_are_read_in_pieces(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"PART": 5 << 20, "PIECE": 3 << 20}.items():
        monkeypatch.setattr(s3, name, size)
    data, sent = os.urandom((11 << 20) + 17), []
    (tmp_path / "large").write_bytes(data)
    with opened(s3_server, f"s3://{s3_server.bucket()}/p") as store:
        store.write_file("file", tmp_path / "large", sent.append)
        store.write("bytes", data)
        assert sum(sent) == len(data)
        assert len(sent) > 1
        for name in ("file", "bytes"):
            assert store.read(name, len(data)) == data


def test_more_than_a_page_is_listed(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 2)
    with opened(s3_server, f"s3://{s3_server.bucket()}/p") as store:
        for number in range(5):
            store.write(str(number), b"")
        assert [item.name for item in store.list(limit=9)] == list("01234")
        assert [item.name for item in store.list(limit=3)] == list("012")


@pytest.mark.parametrize("size", [150, 1000])
def test_an_object_that_is_replaced_while_it_is_read_is_told(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(s3, "PIECE", 100)
    with opened(s3_server, f"s3://{s3_server.bucket()}/p") as store:
        store.write("shard", bytes(1000))
        with store.open("shard", 1000, ModelCorrupt) as (stream, _):
            stream.read(10)
            store.write("shard", b"x" * size)
            with pytest.raises(ModelCorrupt, match="shard changed while it was read"):
                stream.read()


def test_a_pair_that_is_replaced_while_it_is_read_is_read_again(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, pairs = S3Store.read_piece, iter([b"new", b"newer"])

    def read_piece(store: S3Store, found: StoredObject, *span: int) -> bytes:
        if found.name == pair.POLICY_FILE and (name := next(pairs, None)):
            store.write(pair.POLICY_FILE, name + b" policy")
            store.write(pair.KEYS_FILE, name + b" keys")
        return real(store, found, *span)

    with opened(s3_server, f"s3://{s3_server.bucket()}/p") as store:
        store.write(pair.POLICY_FILE, b"a policy")
        store.write(pair.KEYS_FILE, b"keys")
        monkeypatch.setattr(S3Store, "read_piece", read_piece)
        assert pair.read(store) == (b"newer policy", b"newer keys")


def test_a_wrong_login_is_refused_by_name_and_told_to_nobody(s3_server: S3Server) -> None:
    wrong = replace(login(s3_server), secret_access_key=Secret(b"not-the-secret-of-this-login"))
    address = parse_uri(f"s3://{s3_server.bucket()}/data/digits")
    with open_store(told(s3_server), wrong, address) as store:
        for error in refused(store):
            assert type(error) is StorageDenied
            assert str(address) in error.message
            assert "storage connection local" in error.message
            for secret in ("not-the-secret", s3_server.access_key):
                assert secret not in str(error) + repr(error)


def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    with opened(s3_server, "s3://no-such-bucket/p") as store:
        with pytest.raises(StorageMisconfigured, match=r"s3://no-such-bucket/p .*NoSuchBucket"):
            store.list(limit=1)
        with pytest.raises(StorageMisconfigured, match="NoSuchBucket"):
            store.write("x", b"")


def test_a_server_that_does_not_prove_who_it_is_gets_no_login(
    s3_server: S3Server, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").certificate.read_text()
    with opened(s3_server, "s3://bucket/p", ca=other) as store:
        for error in refused(store, "list", "write"):
            assert type(error) is StorageUnavailable
            assert "does not prove who it is" in error.message
    with opened(s3_server, "s3://bucket/p", ca=None) as store:
        assert "does not prove" in refused(store, "list")[0].message
    with (
        pytest.raises(StorageMisconfigured, match="local holds no certificate"),
        opened(s3_server, "s3://bucket/p", ca="none"),
    ):
        pass
