"""Alters JSON value by value: of bytes altered one by one hardly any would be JSON still."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from support.altered_documents import changed, places

Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's own way to alter bytes: the bytes, and how many there may be at most."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 10**17, 10**30, 0.5, "", "0", "\x1b[2J\n", "\ud800",
    "é" * 70, "a" * 400, [], {}, [[]], {"": ""},
)  # fmt: skip


def alter(data: bytes, limit: int, random: Random, mutate: Mutate) -> bytes:
    """Another document, or other bytes now and then; of several lines one is altered."""
    if random.random() < 0.2:
        return mutate(data, limit)
    lines = data.split(b"\n")
    place, whole = random.randrange(len(lines)), _parsed(data)
    value = whole if whole is not None else _parsed(lines[place])
    if value is None:
        return mutate(data, limit)
    text = json.dumps(_altered(value, random, mutate), ensure_ascii=random.random() < 0.9)
    lines[place] = text.encode("utf-8", "surrogatepass")
    other = lines[place] if whole is not None else b"\n".join(_repeated(lines, place, random))
    return other if len(other) <= limit else mutate(data, limit)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _altered(value: Any, random: Random, mutate: Mutate) -> Any:
    """One place, or two, replaced, taken away, or with something more in it."""
    for _ in range(random.choice((1, 1, 2))):
        place = random.choice(places(value))
        value = changed(value, place, _other(_at(value, place), value, random, mutate))
    return value


def _other(old: Any, whole: Any, random: Random, mutate: Mutate) -> Any:
    way = random.randrange(4)
    if isinstance(old, dict) and old and way < 3:
        key = random.choice(list(old))
        if way == 0:
            return {name: entry for name, entry in old.items() if name != key}
        return {**old, key if way == 1 else f"{key}x": random.choice(VALUES)}
    if isinstance(old, list) and old and way < 2:
        return [*old, random.choice(old)] if way else old[1:]
    if isinstance(old, str) and way < 2:
        return mutate(old.encode("utf-8", "surrogatepass"), 300).decode("utf-8", "replace")
    if isinstance(old, int) and way < 2:
        return old + random.choice((1, -1, 1 << random.randrange(60)))
    if way == 2:
        return _at(whole, random.choice(places(whole)))
    return random.choice(VALUES)


def _repeated(lines: list[bytes], place: int, random: Random) -> list[bytes]:
    """The lines, now and then with one of them twice or missing."""
    way = random.randrange(8)
    if way == 0:
        return [*lines[: place + 1], *lines[place:]]
    return lines[:place] + lines[place + 1 :] if way == 1 and len(lines) > 1 else lines


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value
