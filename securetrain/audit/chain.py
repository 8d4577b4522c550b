"""The hash chain of one job's audit records.

One record is one line of RFC 8785 JSON in a CloudEvents 1.0 envelope. `data.seq` counts from 1,
`data.prev` is the SHA-256 of the line before (without its line feed); the first `prev` is the
genesis, the SHA-256 of the canonical {chain, namespace, name, uid, specSha256}. Values are strings,
integers, booleans, lists and objects: no floats, so that every implementation of RFC 8785 agrees.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.digest import canonical_json, canonical_sha256, sha256_hex
from securetrain.errors import AuditBroken

CHAIN_FORMAT: Final = "securetrain/audit/v1"
TYPE_PREFIX: Final = "dev.securetrain."
MAX_LINE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Record:
    """One parsed line."""

    line: str
    seq: int
    prev: str
    sha256: str
    type: str
    time: str
    data: Mapping[str, Any]


def genesis(namespace: str, name: str, uid: str, spec_sha256: str) -> str:
    """The `prev` of a job's first record."""
    return canonical_sha256(
        {
            "chain": CHAIN_FORMAT,
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "specSha256": spec_sha256,
        }
    )


def make_line(
    *, job_uid: str, seq: int, prev: str, kind: str, time: str, data: Mapping[str, Any]
) -> str:
    """The line of one record, without line feed.

    Args:
        job_uid: UID of the job that the chain belongs to.
        seq: number of the record, from 1.
        prev: SHA-256 of the line before, or the genesis.
        kind: what happened, such as `grant.recorded`.
        time: RFC 3339, UTC.
        data: what was decided; no floats, no secrets.
    """
    body = {**data, "seq": seq, "prev": prev}
    event = {
        "specversion": "1.0",
        "id": f"{job_uid}/{seq}",
        "source": f"securetrain/{job_uid}",
        "type": TYPE_PREFIX + kind,
        "time": time,
        "datacontenttype": "application/json",
        "data": body,
    }
    return canonical_json(event).decode()


def split_lines(text: str) -> list[str]:
    """The lines of audit.jsonl: only a line feed ends one, for text may hold other separators."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def line_sha256(line: str) -> str:
    """Digest that the next record's `prev` must hold."""
    return sha256_hex(line.encode())


def parse_line(line: str) -> Record:
    """Parse one line; raises AuditBroken if it is not a record in canonical form."""
    if len(line) > MAX_LINE:
        raise AuditBroken(f"an audit line has {len(line)} characters, more than {MAX_LINE}")
    try:
        event = json.loads(line)
        data = event["data"]
        record = Record(
            line, data["seq"], data["prev"], line_sha256(line), event["type"], event["time"], data
        )
        canonical = canonical_json(event).decode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditBroken(f"an audit line is not a record ({type(error).__name__})") from None
    if canonical != line:
        raise AuditBroken("an audit line is not in canonical form (RFC 8785)")
    texts = (record.prev, record.type, record.time)
    if type(record.seq) is not int or not all(isinstance(text, str) for text in texts):
        raise AuditBroken("an audit line has a field of the wrong type")
    return record


def verify_chain(lines: Iterable[str], first_prev: str) -> tuple[Record, ...]:
    """The records of lines that form one unbroken chain from `first_prev`.

    Raises:
        AuditBroken: names the first bad record.
    """
    records: list[Record] = []
    prev = first_prev
    for number, line in enumerate(lines, start=1):
        record = parse_line(line)
        if record.seq != number:
            raise AuditBroken(
                f"audit record {number} carries seq {record.seq}:"
                " a record is missing, doubled or moved"
            )
        if record.prev != prev:
            raise AuditBroken(
                f"audit record {number} does not follow from the one before: something was changed"
            )
        prev = record.sha256
        records.append(record)
    return tuple(records)
