"""A column's kind follows from its cells alone, in whatever order they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import encode_example, parse_example
from securetrain.sealed.features import MAX_CATEGORIES
from securetrain.sealed.sources.columns import (
    MISSING,
    Column,
    Kind,
    Seen,
    number,
    ordered,
    settle,
    text_of,
)

RELAXED = settings(deadline=None, max_examples=60)
"""A busy machine is no failure."""
NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats(-1e30, 1e30, allow_nan=False).map(repr),
    st.sampled_from(["1.", ".5", "-0", "+3", "1E5", " 7 "]),
)
NOTHING = st.sampled_from(["", "NA", "N/A", "NaN", "nan", "null", "NULL"])
WORDS = st.sampled_from(
    ["007", "0x10", "1,5", "1_000", "inf", "-", ".", "e5", ".e5", "١", "a", "1 2"]
)


def seen(cells: list[str]) -> Seen:
    found = Seen("x")
    for cell in cells:
        found.add(cell)
    return found


def column(cells: list[str]) -> Column:
    return settle(seen(cells), None)


@RELAXED
@given(st.lists(NUMBERS | NOTHING), NUMBERS)
def test_numbers_and_gaps_are_numeric(cells: list[str], one: str) -> None:
    found = column([*cells, one])
    assert found.kind is Kind.NUMERIC
    values = [found.encoder()(cell) for cell in cells]
    gaps = [math.isnan(value) for value in values if isinstance(value, float)]
    assert gaps == [cell in ("", "NA", "N/A", "NaN", "nan", "null", "NULL") for cell in cells]
    assert found.missing == sum(gaps)
    for cell, value in zip(cells, values, strict=True):
        assert math.isnan(value) or value == float(cell)  # type: ignore[arg-type]


@RELAXED
@given(st.lists(NUMBERS | NOTHING), WORDS, st.integers(0, 99))
def test_one_word_makes_it_categorical(cells: list[str], word: str, at: int) -> None:
    mixed = [*cells[: at % (len(cells) + 1)], word, *cells[at % (len(cells) + 1) :]]
    found = column(mixed)
    assert found.kind is Kind.CATEGORICAL
    assert set(found.categories) == {text_of(cell) for cell in mixed}
    encode = found.encoder()
    for cell in mixed:
        index = encode(cell)
        assert isinstance(index, int)
        assert found.categories[index] == (cell.strip() or MISSING)


@RELAXED
@given(st.lists(NUMBERS | NOTHING | WORDS | st.text(max_size=3), min_size=1), st.randoms())
def test_the_order_of_rows_changes_nothing(cells: list[str], random: object) -> None:
    shuffled = list(cells)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    try:
        first = column(cells)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            column(shuffled)
        return
    assert column(shuffled) == first


@RELAXED
@given(st.text(max_size=12))
def test_what_counts_as_a_number_is_one_for_python_too(text: str) -> None:
    value = number(text)
    if value is not None and not math.isnan(value):
        assert value == float(text)
        assert abs(value) <= np.finfo(np.float32).max


@RELAXED
@given(st.sets(st.text(min_size=1, max_size=4) | NUMBERS))
def test_names_have_one_order(texts: set[str]) -> None:
    assert ordered(sorted(texts)) == ordered(sorted(texts, reverse=True))
    assert set(ordered(texts)) == texts


def test_too_many_texts_are_refused_and_as_many_numbers_are_not() -> None:
    words = [f"w{n}" for n in range(MAX_CATEGORIES)]
    assert len(column(words).categories) == MAX_CATEGORIES
    with pytest.raises(InvalidInput, match="more than 1000"):
        column([*words, "one more"])
    assert column([str(n) for n in range(MAX_CATEGORIES + 1)]).kind is Kind.NUMERIC
    assert number("1e39") is None  # no float32


VALUES = st.one_of(
    st.binary(max_size=40),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9).map(
        lambda values: np.array(values, dtype=np.float32)
    ),
)


@RELAXED
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_what_is_encoded_is_parsed_again(features: dict[str, object]) -> None:
    found = parse_example(encode_example(features))  # type: ignore[arg-type]
    assert found.keys() == features.keys()
    for name, value in features.items():
        values = found[name]
        if isinstance(values, np.ndarray):
            assert np.array_equal(values, np.atleast_1d(np.asarray(value, dtype=np.float32)))
        else:
            assert values == [value]
