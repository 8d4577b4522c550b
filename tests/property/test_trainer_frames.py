"""Records of a shard are counted piece by piece, whatever the pieces."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securetrain.errors import ShardCorrupt
from securetrain.sealed.examples import frame
from securetrain_trainer.frames import FrameCounter

CUTS = st.lists(st.integers(0, 400), max_size=12)
RECORDS = st.one_of(
    st.lists(st.binary(max_size=30), max_size=12),
    st.lists(st.binary(min_size=9, max_size=9), max_size=12),
)
"""Of any lengths, and all of one length."""


def counted(data: bytes, cuts: list[int]) -> int:
    counter = FrameCounter()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(places):
        counter.feed(memoryview(data)[start:stop])
    return counter.total()


@given(RECORDS, CUTS)
def test_every_frame_counts_once(records: list[bytes], cuts: list[int]) -> None:
    assert counted(b"".join(frame(record) for record in records), cuts) == len(records)


@given(RECORDS.filter(bool), CUTS, st.integers(1, 15))
def test_a_cut_frame_is_refused(records: list[bytes], cuts: list[int], missing: int) -> None:
    data = b"".join(frame(record) for record in records)
    with pytest.raises(ShardCorrupt, match="cut"):
        counted(data[:-missing], cuts)


@pytest.mark.parametrize(
    "data",
    [
        b"short",
        struct.pack("<Q", 2**63) + bytes(8),
        struct.pack("<Q", 2**64 - 1) + bytes(8),
        struct.pack("<Q", 5) + bytes(4 + 4 + 4),
        struct.pack("<Q", 1) + bytes(4 + 1 + 4) + b"tail",
        frame(b"ab") * 3 + struct.pack("<Q", 3) + bytes(4 + 2 + 4),
    ],
)
def test_frames_must_fill_the_shard(data: bytes) -> None:
    for cuts in ([], list(range(len(data)))):
        with pytest.raises(ShardCorrupt):
            counted(data, cuts)


def test_a_record_of_another_length_among_many_of_one_is_seen() -> None:
    records = [b"same"] * 9 + [b"longer"] + [b"same"] * 9 + [bytes(4 + 20)]
    assert counted(b"".join(map(frame, records)), [7, 100]) == len(records)
