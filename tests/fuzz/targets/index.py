"""A split's index, under a dataset.json that promises what the index says of itself."""

from __future__ import annotations

import re

from fuzz.target import Target
from securetrain.api.digest import sha256_hex
from securetrain.api.names import Split
from securetrain.sealed import strict_json
from securetrain.sealed.dataset import (
    MAX_RECORDS,
    ShardEntry,
    SplitInfo,
    parse_index,
    shard_path,
)

RECORDS = re.compile(rb'"records": ?([0-9]{1,12})')


def parse(data: bytes) -> tuple[ShardEntry, ...]:
    records = sum(int(number) for number in RECORDS.findall(data))
    info = SplitInfo(
        records=min(max(records, 1), MAX_RECORDS),
        shards=max(1, data.removesuffix(b"\n").count(b"\n") + 1),
        index_sha256=sha256_hex(data),
        key_check="0" * 64,
    )
    return parse_index(data, info, Split.TRAIN)


def holds(entries: tuple[ShardEntry, ...]) -> None:
    """Every shard lies where it must, and the entries mean the same when written anew."""
    for number, entry in enumerate(entries):
        assert entry.path == shard_path(Split.TRAIN, number, len(entries))
    again = b"".join(strict_json.dump_line(entry) for entry in entries)
    assert parse(again) == entries


TARGET = Target(parse, names="train.index.jsonl", holds=holds, json=True)
