"""Splits follow from a record's identity alone."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.api.names import Split
from securetrain.errors import InvalidInput
from securetrain.sealed.ledger import Balance, Ledger
from securetrain.sealed.sources.base import Record
from securetrain.sealed.splits import Fractions, group_identity, split_of

RELAXED = settings(deadline=None)
"""A busy machine is no failure."""
CONTENTS = st.lists(st.binary(min_size=1, max_size=3))


def assigned(records: list[tuple[str | None, bytes]]) -> tuple[dict[int, Split], Balance]:
    """The split of each record, a group and a content, and what the ledger counted."""
    with Ledger(Fractions()) as ledger:
        for number, (group, content) in enumerate(records):
            digest = hashlib.sha256(content).digest()
            ledger.add(Record(b"", digest, 0, group, where=number))
        places = {split: ledger.places(split) for split in Split}
        side = {
            where: split
            for split, of in places.items()
            for where, _span, _size in of.of(0, len(of))
        }
        return side, ledger.balance(1)


def sides(contents: list[bytes]) -> dict[bytes, Split]:
    side, _balance = assigned([(None, content) for content in contents])
    return {contents[number]: split for number, split in side.items()}


@RELAXED
@given(CONTENTS, CONTENTS, st.randoms(use_true_random=False))
def test_a_record_never_moves_when_others_come_or_the_order_changes(
    contents: list[bytes], more: list[bytes], random: object
) -> None:
    before = sides(contents)
    shuffled = [*contents, *more]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    after = sides(shuffled)
    assert all(after[content] is split for content, split in before.items())


@RELAXED
@given(CONTENTS)
def test_every_record_is_in_one_split_and_duplicates_on_one_side(contents: list[bytes]) -> None:
    twice = contents * 2
    side, balance = assigned([(None, content) for content in twice])
    assert balance.duplicates_across == 0
    assert balance.duplicates == len(twice) - len(set(contents))
    assert sum(balance.records.values()) == len(twice)
    assert sorted(side) == list(range(len(twice)))


@RELAXED
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.binary(max_size=2))))
def test_groups_stay_together_and_torn_duplicates_are_counted(
    records: list[tuple[str, bytes]],
) -> None:
    identities = [group_identity(group) for group, _ in records]
    contents = [content for _, content in records]
    side, balance = assigned(list(records))
    assert all(side[n] is split_of(identities[n], Fractions()) for n in side)
    torn = {
        content
        for content in contents
        if len({side[n] for n, other in enumerate(contents) if other == content}) > 1
    }
    assert balance.duplicates_across == len(torn)


def test_the_hash_is_pinned() -> None:
    """A release that moved records would leak test data into training."""
    seen = [split_of(group_identity(str(n)), Fractions()) for n in range(2000)]
    digest = hashlib.sha256(",".join(seen).encode()).hexdigest()
    assert digest == "256fe04a4aa41d85250ae27498e8f435e57ba411ce9e0cd47c7421bad5fed88a"
    assert [seen.count(split) for split in Split] == [1586, 197, 217]


@RELAXED
@given(st.integers(1, 98), st.integers(1, 98))
def test_fractions(train: int, validation: int) -> None:
    text = f"{train}/{validation}/{100 - train - validation}"
    if train + validation < 100:
        assert Fractions.parse(text) == Fractions(train, validation, 100 - train - validation)
    else:
        with pytest.raises(InvalidInput, match="--split"):
            Fractions.parse(text)


@pytest.mark.parametrize(
    "text", ["", "80/20", "80/10/11", "100/0/0", "80/10/10/", "a/b/c", "0/50/50"]
)
def test_fractions_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        Fractions.parse(text)
