"""A sealed file that is not exactly what was sealed for this place does not open."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.errors import ShardCorrupt
from securetrain.sealed.streaming import SEGMENT, decrypt_bytes, decrypt_into, encrypt_bytes
from securetrain.secret import Secret

RELAXED = settings(deadline=None)
"""A busy machine is no failure."""
DEK = Secret(b"d" * 32)
PLACE = b"securetrain/shard/v1|id|train|0|2"
SHORT = encrypt_bytes(b"some records", DEK, PLACE)
LONG = encrypt_bytes(bytes(range(256)) * 12_000, DEK, PLACE)


def refused(sealed: bytes, dek: Secret = DEK, place: bytes = PLACE) -> None:
    with pytest.raises(ShardCorrupt) as caught:
        decrypt_bytes(sealed, dek, place)
    assert "records" not in str(caught.value)


def flip(sealed: bytes, bit: int) -> bytes:
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_bit_of_a_short_file_counts() -> None:
    for bit in range(len(SHORT) * 8):
        refused(flip(SHORT, bit))


@RELAXED
@given(st.integers(0, len(LONG) * 8 - 1))
def test_any_bit_of_a_long_file_counts(bit: int) -> None:
    refused(flip(LONG, bit))


@RELAXED
@given(st.integers(0, len(LONG) - 1))
def test_cut(length: int) -> None:
    refused(LONG[:length])


@pytest.mark.parametrize("segments", [1, 2])
def test_cut_between_segments(segments: int) -> None:
    refused(LONG[: SEGMENT * segments])


@RELAXED
@given(st.binary(min_size=1, max_size=64))
def test_extended(more: bytes) -> None:
    refused(LONG + more)
    with pytest.raises(ShardCorrupt):
        decrypt_into(io.BytesIO(SHORT + more), len(SHORT), DEK, PLACE, bytearray(64))


def test_swapped_segments() -> None:
    four = encrypt_bytes(bytes(SEGMENT * 3 + 5), DEK, PLACE)
    one, two = four[SEGMENT : 2 * SEGMENT], four[2 * SEGMENT : 3 * SEGMENT]
    refused(four[:SEGMENT] + two + one + four[3 * SEGMENT :])
    refused(four[:SEGMENT] + one + one + four[3 * SEGMENT :])


def test_spliced_from_two_files() -> None:
    other = encrypt_bytes(bytes(range(256)) * 12_000, DEK, PLACE)
    refused(LONG[:SEGMENT] + other[SEGMENT:])


@RELAXED
@given(st.binary(max_size=64).filter(lambda place: place != PLACE))
def test_another_place(place: bytes) -> None:
    refused(SHORT, place=place)


@RELAXED
@given(st.binary(min_size=32, max_size=32).filter(lambda key: key != DEK.reveal()))
def test_another_key(key: bytes) -> None:
    refused(SHORT, dek=Secret(key))


@RELAXED
@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    refused(noise)
