"""Places and counts of records: the same however few of them fit into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from securetrain.api.names import Split
from securetrain.sealed import ledger as module
from securetrain.sealed.examples import FRAME_BYTES
from securetrain.sealed.ledger import Balance, Ledger
from securetrain.sealed.sources.base import Record
from securetrain.sealed.splits import Fractions

SIZES = (1, 40, 100, 1000)


def filled(records: int) -> Ledger:
    """Records of different sizes; every third has a copy, some copies another label or group."""
    ledger = Ledger(Fractions(60, 20, 20))
    for number in range(records):
        content = hashlib.sha256(str(number - number % 3 // 2).encode()).digest()
        group = f"g{number % 5}" if number % 7 == 0 else None
        example = bytes(SIZES[number % len(SIZES)])
        ledger.add(Record(example, content, number % 2, group, where=number, span=number % 50))
    return ledger


def looked_at() -> tuple[Balance, dict[Split, list[tuple[int, int, int]]]]:
    with filled(200) as ledger:
        places = {split: ledger.places(split) for split in Split}
        return ledger.balance(2), {split: of.of(0, len(of)) for split, of in places.items()}


def test_order_and_counts_do_not_depend_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = looked_at()
    for chunk in (13, 64):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert looked_at() == whole
    balance, places = whole
    assert sum(balance.records.values()) == 200
    assert sorted(where for of in places.values() for where, _, _ in of) == list(range(200))
    assert balance.duplicates == 66
    assert balance.contradictions == 66
    assert 0 < balance.duplicates_across < 66


@pytest.mark.parametrize("limit", [1, 60, 500, 1500, 10**9])
def test_shards_hold_every_record_once_and_no_more_bytes_than_allowed(limit: int) -> None:
    with filled(200) as ledger:
        for split in Split:
            places = ledger.places(split)
            ranges = places.cut(limit)
            assert [n for part in ranges for n in range(*part)] == list(range(len(places)))
            sizes = [sum(size + FRAME_BYTES for _, _, size in places.of(*part)) for part in ranges]
            ends = zip(ranges, sizes, strict=True)
            assert all(size <= limit or end - start == 1 for (start, end), size in ends)
            if limit == 1500:
                assert np.std(sizes[:-1]) < limit / 4


def test_neither_labels_nor_digests_of_records_lie_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who tries the few values that a cell can have would know it by its digest."""
    monkeypatch.setattr(module, "_scratch", lambda folder: (tmp_path / "rows").open("w+b"))
    content = hashlib.sha256(b"red").digest()
    with Ledger(Fractions(60, 20, 20)) as ledger:
        for number in range(50):
            ledger.add(Record(b"example", content, 7, where=number))
        ledger.flush()
        assert ledger.balance(8).duplicates == 49
        rows = (tmp_path / "rows").read_bytes()
    assert len(rows) == 50 * module._PACK.size
    for part in (content[:8], content[8:16]):
        assert part not in rows
        assert part[::-1] not in rows
    assert rows.count((7).to_bytes(4, "little")) < 3
