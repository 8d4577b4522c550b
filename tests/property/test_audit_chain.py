"""The audit chain: any change, cut in the middle, swap or repetition is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securetrain.audit import chain
from securetrain.errors import AuditBroken

GENESIS = chain.genesis("team-a", "digits", "uid-1", "0" * 64)
SAFE = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key not in ("seq", "prev")),
    st.one_of(st.text(max_size=20), st.integers(-(2**53) + 1, 2**53 - 1), st.booleans()),
    max_size=4,
)


def make_chain(contents: list[dict[str, object]]) -> list[str]:
    lines: list[str] = []
    prev = GENESIS
    for seq, data in enumerate(contents, start=1):
        line = chain.make_line(
            job_uid="uid-1",
            seq=seq,
            prev=prev,
            kind="grant.recorded",
            time="2026-01-01T00:00:00Z",
            data=data,
        )
        lines.append(line)
        prev = chain.line_sha256(line)
    return lines


@given(st.lists(SAFE, max_size=6))
def test_an_honest_chain_verifies(contents: list[dict[str, object]]) -> None:
    lines = make_chain(contents)
    assert [record.line for record in chain.verify_chain(lines, GENESIS)] == lines


@given(st.lists(SAFE, min_size=2, max_size=6), st.data())
def test_a_changed_character_is_found(
    contents: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = make_chain(contents)
    number = data.draw(st.integers(0, len(lines) - 2))
    at = data.draw(st.integers(0, len(lines[number]) - 1))
    other = data.draw(st.characters().filter(lambda char: char != lines[number][at]))
    lines[number] = lines[number][:at] + other + lines[number][at + 1 :]
    with pytest.raises(AuditBroken):
        chain.verify_chain(lines, GENESIS)


@given(st.lists(SAFE, min_size=3, max_size=6), st.data())
def test_a_removed_or_doubled_or_moved_record_is_found(
    contents: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = make_chain(contents)
    number = data.draw(st.integers(0, len(lines) - 2))
    removed = lines[:number] + lines[number + 1 :]
    doubled = [*lines[: number + 1], *lines[number:]]
    moved = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
    for damaged in (removed, doubled, moved):
        with pytest.raises(AuditBroken):
            chain.verify_chain(damaged, GENESIS)


def test_a_chain_of_another_job_is_refused() -> None:
    with pytest.raises(AuditBroken):
        chain.verify_chain(make_chain([{}]), chain.genesis("team-a", "digits", "uid-2", "0" * 64))


@given(st.text(max_size=200))
def test_any_text_is_refused_in_our_own_words(text: str) -> None:
    with pytest.raises(AuditBroken):
        chain.parse_line(text)
