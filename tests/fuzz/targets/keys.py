"""keys.json."""

from __future__ import annotations

from collections.abc import Mapping

from fuzz.target import Target
from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Split
from securetrain.sealed.dataset import MAX_KEYS_BYTES, dump_keys, parse_keys


def holds(keys: Mapping[Split, WrappedDek]) -> None:
    """All splits are there, under one KEK, and mean the same when written anew."""
    assert set(keys) == set(Split)
    assert len({(key.mount, key.kek) for key in keys.values()}) == 1
    again = dump_keys(keys)
    assert len(again) <= MAX_KEYS_BYTES
    assert parse_keys(again) == keys


TARGET = Target(parse_keys, names="keys.json", holds=holds, json=True)
