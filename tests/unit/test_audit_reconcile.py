"""The chain against Vault's own log: what is missing on either side is found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from securetrain.audit import chain
from securetrain.audit.reconcile import Agreement, compare, parse_vault_log

UID = "uid-1"
GENESIS = chain.genesis("team-a", "digits", UID, "0" * 64)


def hmac(accessor: str) -> str:
    return "hmac-sha256:" + hashlib.sha256(accessor.encode()).hexdigest()


def records(*contents: tuple[str, dict[str, Any]]) -> tuple[chain.Record, ...]:
    lines: list[str] = []
    prev = GENESIS
    for seq, (kind, data) in enumerate(contents, start=1):
        line = chain.make_line(
            job_uid=UID, seq=seq, prev=prev, kind=kind, time="2026-01-01T00:00:00Z", data=data
        )
        lines.append(line)
        prev = chain.line_sha256(line)
    return chain.verify_chain(lines, GENESIS)


TOKENS = [{"name": "train", "accessor": "acc-1"}, {"name": "model", "accessor": "acc-2"}]
RECORDS = records(
    ("grant.recorded", {"podUID": "p1", "podIP": "10.0.0.9"}),
    ("grant.issued", {"podUID": "p1", "accessors": TOKENS}),
    ("sign.requested", {"sha256": "ab"}),
    ("signed", {"keyVersion": "1"}),
)


def call(path: str, *, seq: int = 0, accessor: str = "", address: str = "10.0.0.1") -> str:
    correlation = f"stj/{UID}/{seq}/{RECORDS[seq - 1].sha256}" if seq else ""
    unwrap = path == "sys/wrapping/unwrap"
    return json.dumps(
        {
            "type": "response",
            "time": "2026-01-01T00:00:01Z",
            "auth": {"accessor": hmac(accessor)} if unwrap else {},
            "request": {
                "path": path,
                "remote_address": address,
                "headers": {"X-Correlation-Id": [correlation]},
            },
            "response": {} if unwrap else {"wrap_info": {"accessor": hmac(accessor)}},
        }
    )


LOG = [
    call("transit/decrypt/kek", seq=1, accessor="acc-1"),
    call("transit/decrypt/models", seq=1, accessor="acc-2"),
    call("sys/wrapping/unwrap", accessor="acc-1", address="10.0.0.9"),
    call("sys/wrapping/unwrap", accessor="acc-2", address="10.0.0.9"),
    call("transit/sign/models/sha2-256", seq=3),
]


def agreement(log: list[str], trail: tuple[chain.Record, ...] = RECORDS) -> Agreement:
    return compare(UID, trail, list(parse_vault_log(log)), hmac)


def test_an_honest_pair_agrees() -> None:
    assert agreement(LOG) == Agreement(decrypts=2, signs=1, unwraps=2, findings=())
    assert agreement([*LOG, "cut off mid-li", "[]", "{}"]).findings == ()


def test_a_decrypt_without_a_record_is_found() -> None:
    found = agreement(LOG, RECORDS[1:])
    assert "no audit record accounts for" in found.findings[0].what


def test_a_grant_that_vault_does_not_know_is_found() -> None:
    assert any("log shows 1 decrypts" in finding.what for finding in agreement(LOG[1:]).findings)


def test_a_signature_that_vault_does_not_know_is_found() -> None:
    assert "a signature that Vault's log" in agreement(LOG[:-1]).findings[0].what


def test_a_second_unwrap_and_a_foreign_address_are_found() -> None:
    thief = call("sys/wrapping/unwrap", accessor="acc-1", address="10.0.0.66")
    whats = " ".join(finding.what for finding in agreement([*LOG, thief]).findings)
    assert "unwrapped twice" in whats
    assert "from 10.0.0.66, not from the pod's 10.0.0.9" in whats


def test_an_issued_token_that_vault_does_not_know_is_found() -> None:
    other = [line.replace(hmac("acc-2"), hmac("acc-9")) for line in LOG]
    assert any("the token for model" in finding.what for finding in agreement(other).findings)
