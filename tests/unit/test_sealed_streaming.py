"""Tink itself is the judge of the stream format: each side opens what the other wrote."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import tink
from tink import streaming_aead

from securetrain.api.digest import sha256_hex
from securetrain.api.names import shard_associated_data
from securetrain.errors import ShardCorrupt, WrongKey
from securetrain.sealed.streaming import (
    HEADER,
    SEGMENT,
    TAG,
    Buffers,
    decrypt_bytes,
    decrypt_into,
    decrypt_stream,
    encrypt_bytes,
    encrypt_stream,
    plain_size,
)
from securetrain.secret import Secret
from securetrain_trainer.frames import FrameCounter
from securetrain_trainer.shards import SealedSplit, unseal
from support.tink import tink_aead
from support.trainer_kit import dataset_of, seal_dataset

DEK = Secret(bytes(range(32)))
PLACE = b"securetrain/shard/v1|0|train|0|1"
FIRST = SEGMENT - HEADER - TAG
LATER = SEGMENT - TAG
_AROUND = tuple(
    boundary + beside
    for boundary in (TAG, HEADER, FIRST, LATER, SEGMENT, FIRST + LATER, FIRST + 2 * LATER)
    for beside in (-1, 0, 1)
)
"""Around every length at which something begins: tag, header, and each of four segments."""
SIZES = (0, 1, *_AROUND, 3 * SEGMENT + 7)


class Kept(io.BytesIO):
    """Tink closes what it writes to; this keeps the bytes."""

    kept = b""

    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


def by_tink(judge: streaming_aead.StreamingAead, plain: bytes, place: bytes) -> bytes:
    """What Tink makes of it."""
    written = Kept()
    with judge.new_encrypting_stream(written, place) as stream:
        stream.write(plain)
    return written.kept


@pytest.fixture(scope="module")
def judge() -> streaming_aead.StreamingAead:
    """Tink's AES256_GCM_HKDF_1MB with our key."""
    return tink_aead(DEK)


@pytest.mark.parametrize("size", SIZES)
def test_tink_opens_ours(judge: streaming_aead.StreamingAead, size: int) -> None:
    plain = os.urandom(size)
    sealed = io.BytesIO()
    written = encrypt_stream(io.BytesIO(plain), sealed, DEK, PLACE)
    assert written == len(sealed.getvalue())
    with judge.new_decrypting_stream(io.BytesIO(sealed.getvalue()), PLACE) as stream:
        assert stream.read() == plain


@pytest.mark.parametrize("size", SIZES)
def test_we_open_tinks(judge: streaming_aead.StreamingAead, size: int) -> None:
    plain = os.urandom(size)
    sealed = by_tink(judge, plain, PLACE)
    assert plain_size(len(sealed)) == size
    assert decrypt_bytes(sealed, DEK, PLACE) == plain


def test_both_bind_the_same_place(judge: streaming_aead.StreamingAead) -> None:
    for place in (b"", PLACE, bytes(300)):
        sealed = by_tink(judge, b"abc", place)
        assert decrypt_bytes(sealed, DEK, place) == b"abc"
        with pytest.raises(ShardCorrupt):
            decrypt_bytes(sealed, DEK, place + b"x")
        ours = encrypt_bytes(b"abc", DEK, place)
        with judge.new_decrypting_stream(io.BytesIO(ours), place) as stream:
            assert stream.read() == b"abc"
        with (
            pytest.raises(tink.TinkError),
            judge.new_decrypting_stream(io.BytesIO(ours), place + b"x") as stream,
        ):
            stream.read()


def test_real_shards_open_with_tink_and_the_trainer_opens_those_of_tink(tmp_path: Path) -> None:
    deks = seal_dataset(tmp_path / "data")
    dataset = dataset_of(tmp_path)
    for split, entries in dataset.indexes.items():
        aead, remade = tink_aead(deks[split]), []
        for number, entry in enumerate(entries):
            place = shard_associated_data(dataset.manifest.id, split, number, len(entries))
            path = dataset.folder / entry.path
            with aead.new_decrypting_stream(io.BytesIO(path.read_bytes()), place) as stream:
                plain = stream.read()
            counter = FrameCounter()
            counter.feed(memoryview(plain))
            assert counter.total() == entry.records
            path.write_bytes(by_tink(aead, plain, place))
            digest = sha256_hex(path.read_bytes())
            remade.append(entry.model_copy(update={"sha256": digest}))
        again = SealedSplit(dataset.folder, dataset.manifest.id, split, tuple(remade), deks[split])
        for number in range(len(remade)):
            os.close(unseal(again, number))


def test_a_slow_reader_changes_nothing() -> None:
    class Dripping(io.BytesIO):
        def readinto(self, view: memoryview) -> int:  # type: ignore[override]
            return super().readinto(view[:4099])

    plain = os.urandom(FIRST + 5)
    sealed = io.BytesIO()
    encrypt_stream(Dripping(plain), sealed, DEK, PLACE)
    out = bytearray(len(plain))
    size = len(sealed.getvalue())
    assert decrypt_into(Dripping(sealed.getvalue()), size, DEK, PLACE, out) == len(plain)
    assert out == plain


def test_out_may_be_larger_and_the_rest_is_untouched() -> None:
    sealed = encrypt_bytes(b"abc", DEK, PLACE)
    out = bytearray(b"x" * 10)
    assert decrypt_into(io.BytesIO(sealed), len(sealed), DEK, PLACE, out) == 3
    assert out == b"abcxxxxxxx"
    with pytest.raises(ValueError, match="3 are needed"):
        decrypt_into(io.BytesIO(sealed), len(sealed), DEK, PLACE, bytearray(2))


def test_nothing_is_left_of_a_file_whose_end_is_missing() -> None:
    sealed = encrypt_bytes(b"x" * (FIRST + LATER + 9), DEK, PLACE)
    out = bytearray(b"?" * (FIRST + LATER + 9))
    broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(ShardCorrupt):
        decrypt_into(io.BytesIO(broken), len(broken), DEK, PLACE, out)
    assert not any(out)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_and_streams_open_alike(size: int) -> None:
    plain = os.urandom(size)
    sealed = encrypt_bytes(plain, DEK, PLACE)
    for source in (sealed, io.BytesIO(sealed)):
        out = bytearray(size)
        assert decrypt_into(source, len(sealed), DEK, PLACE, out) == size
        assert out == plain
    opened, buffers = io.BytesIO(), Buffers()
    assert decrypt_stream(io.BytesIO(sealed), len(sealed), DEK, PLACE, opened, buffers) == size
    assert opened.getvalue() == plain
    assert not any(buffers.plain)


def test_no_segment_goes_on_before_its_tag_was_checked() -> None:
    sealed = encrypt_bytes(b"x" * (FIRST + LATER + 9), DEK, PLACE)
    broken = sealed[: SEGMENT + 5] + bytes([sealed[SEGMENT + 5] ^ 1]) + sealed[SEGMENT + 6 :]
    opened, buffers = io.BytesIO(), Buffers()
    with pytest.raises(ShardCorrupt):
        decrypt_stream(io.BytesIO(broken), len(broken), DEK, PLACE, opened, buffers)
    assert opened.getvalue() == b"x" * FIRST
    assert not any(buffers.plain)


def test_no_stream_equals_another() -> None:
    assert encrypt_bytes(b"same", DEK, PLACE) != encrypt_bytes(b"same", DEK, PLACE)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(WrongKey):
        encrypt_bytes(b"", Secret(b"k" * 16), PLACE)


@pytest.mark.parametrize("size", [0, 55, SEGMENT + 1, SEGMENT + TAG, SEGMENT << 33])
def test_sizes_that_no_stream_has(size: int) -> None:
    with pytest.raises(ShardCorrupt):
        plain_size(size)
