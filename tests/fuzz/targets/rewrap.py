"""rewrap.json, as it is read in the folder of a dataset whose re-wrap was interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fuzz.target import Target, file_of
from securetrain.api.digest import sha256_hex
from securetrain.sealed import pair, strict_json
from securetrain.sealed.pair import MAX_KEYS_BYTES, MAX_POLICY_BYTES, PENDING_FILE, Pending

Pair = tuple[bytes, bytes]


def parse(data: bytes) -> Pair:
    with file_of(data, PENDING_FILE) as path:
        return pair.read(path.parent)


def holds(both: Pair) -> None:
    """Both files fit, so that what is written from it can be read, and mean the same again."""
    policy, keys = both
    assert len(policy) <= MAX_POLICY_BYTES
    assert len(keys) <= MAX_KEYS_BYTES
    assert parse(strict_json.dump(Pending.of(policy, keys))) == both


def views(data: bytes) -> Sequence[bytes]:
    """The document; and, if it is near one, the same with the digest that it needs."""
    try:
        value = json.loads(data)
        text = f"{value['policy']}\n{value['keys']}".encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return (data,)
    return data, json.dumps({**value, "sha256": sha256_hex(text)}).encode()


TARGET = Target(parse, names=PENDING_FILE, holds=holds, views=views, json=True)
