"""Documents for fuzzing: arbitrary bytes, and valid ones with something changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NASTY = st.sampled_from(
    (
        b"", b"[" * 50_000, b'{"a":' * 20_000, b"\xff\xfe", b"\xef\xbb\xbf{}", b'"\\ud800"',
        b"9" * 5000, b"1e999", b"NaN", b"null", b"[]", b"{}", b"\x00" * 300, b'{"":""}',
    )
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if not isinstance(value, dict | list):
        return [at]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *(place for key, entry in inner for place in places(entry, (*at, key)))]


def changed(value: Any, place: tuple[Any, ...], to: Any) -> Any:
    """A copy with one place replaced."""
    if not place:
        return to
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(copy[place[0]], place[1:], to)
    return copy


def documents(valid: Any) -> st.SearchStrategy[bytes]:
    """Bytes: arbitrary ones, and a valid JSON document with a value or a byte replaced."""
    text = json.dumps(valid).encode()
    one_value = st.builds(
        lambda place, to: json.dumps(changed(valid, place, to)).encode(),
        st.sampled_from(places(valid)),
        JSON,
    )
    one_byte = st.builds(
        lambda at, byte: text[:at] + bytes([byte]) + text[at + 1 :],
        st.integers(0, len(text) - 1),
        st.integers(0, 255),
    )
    cut = st.integers(0, len(text) - 1).map(lambda at: text[:at])
    return st.one_of(st.binary(max_size=300), NASTY, one_value, one_byte, cut)
