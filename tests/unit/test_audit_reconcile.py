"""The chain against Vault's own log: what is missing on either side is found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from securetrain.audit import chain
from securetrain.audit.reconcile import Agreement, compare, parse_vault_log
from securetrain.errors import AuditBroken

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
KEYS = [{"name": "train", "kek": "kek", "version": 1}, {"name": "model", "kek": "models"}]
GRANT = ("grant.recorded", {"podUID": "p1", "podIP": "10.0.0.9", "keys": KEYS})
RECORDS = records(
    GRANT,
    ("grant.issued", {"podUID": "p1", "accessors": TOKENS}),
    ("sign.requested", {"sha256": "ab"}),
    ("signed", {"keyVersion": "1"}),
    ("job.finished", {"outcome": "Succeeded"}),
)
OPERATOR, OWNER = "st-train-team-a", "st-owner-team-a"


def call(
    path: str,
    *,
    record: chain.Record | None = None,
    accessor: str = "",
    address: str = "10.0.0.1",
    policy: str = OPERATOR,
    time: str = "2026-01-01T00:00:00.123456789Z",
    **more: Any,
) -> str:
    """A line of Vault's log: a call that issues a token, or the spending of one."""
    headers = {}
    if record is not None:
        headers["X-Correlation-Id"] = [f"stj/{UID}/{record.seq}/{record.sha256}"]
    spends = path in ("sys/wrapping/unwrap", "sys/wrapping/rewrap", "cubbyhole/response")
    marks = {"accessor": hmac(accessor), "client_token": hmac(f"token of {accessor}")}
    issued = {"accessor": hmac(accessor), "token": hmac(f"token of {accessor}")}
    entry = {
        "type": "response",
        "time": time,
        "auth": {**(marks if spends else {}), "policies": [policy]},
        "request": {"path": path, "remote_address": address, "headers": headers},
        "response": {} if spends else {"wrap_info": issued},
    }
    return json.dumps({**entry, **more})


def unwrap(accessor: str, address: str = "10.0.0.9", path: str = "sys/wrapping/unwrap") -> str:
    return call(path, accessor=accessor, address=address, policy="response-wrapping")


LOG = [
    call("transit/decrypt/kek", record=RECORDS[0], accessor="acc-1"),
    call("transit/decrypt/models", record=RECORDS[0], accessor="acc-2"),
    unwrap("acc-1"),
    unwrap("acc-2"),
    call("transit/sign/models/sha2-256", record=RECORDS[2]),
]


def agreement(log: list[str], trail: tuple[chain.Record, ...] = RECORDS) -> Agreement:
    return compare(UID, trail, list(parse_vault_log(log)))


def whats(log: list[str], trail: tuple[chain.Record, ...] = RECORDS) -> str:
    return "\n".join(finding.what for finding in agreement(log, trail).findings)


def test_an_honest_pair_agrees() -> None:
    assert agreement(LOG) == Agreement(2, 1, 2, owner_decrypts=0, findings=())
    assert agreement([*LOG, "cut off mid-li", "[]", "{}"]).findings == ()


def test_a_decrypt_without_a_record_is_found() -> None:
    assert "no audit record accounts for" in whats(LOG, RECORDS[1:])


def test_a_decrypt_for_a_record_that_is_no_grant_is_found() -> None:
    other = call("transit/decrypt/kek", record=RECORDS[2], accessor="acc-9")
    assert "a decrypt at 2026-01-01T00:00:00.123456789Z that no audit" in whats([*LOG, other])


def test_a_grant_that_vault_does_not_know_is_found() -> None:
    assert "accounts for 2 keys, Vault's log shows 1 decrypts" in whats(LOG[1:])


def test_a_signature_that_vault_does_not_know_is_found() -> None:
    assert "a signature that Vault's log" in whats(LOG[:-1])


@pytest.mark.parametrize("kek", ["kek", "models"])
@pytest.mark.parametrize("correlation", [[], ["other/7"]])
def test_a_decrypt_of_the_operator_that_is_for_no_job_is_found(
    kek: str, correlation: list[str]
) -> None:
    headers = {"x-correlation-id": correlation}
    request = {"path": f"transit/decrypt/{kek}", "remote_address": "x", "headers": headers}
    theft = call("", accessor="acc-7", request=request)
    found = agreement([*LOG, theft])
    assert [f"transit/decrypt/{kek}" in finding.what for finding in found.findings] == [True]
    assert found.owner_decrypts == 0


def test_what_is_no_theft_is_not_found() -> None:
    others = [
        call("transit/decrypt/kek", accessor="a", policy=OWNER),
        call("transit/decrypt/kek", accessor="b", policy="root"),
        call("transit/decrypt/kek", accessor="c", time="2025-12-31T23:59:59.9Z"),
        call("transit/decrypt/kek", accessor="d", time="2026-01-01T00:00:01Z"),
        call("transit/decrypt/kek", accessor="e", error="refused"),
        call("transit/decrypt/of-others", accessor="f"),
    ]
    found = agreement([*LOG, *others])
    assert (found.findings, found.owner_decrypts) == ((), 2)


def test_the_time_of_a_trail_that_goes_on_has_no_end() -> None:
    later = call("transit/decrypt/kek", accessor="acc-7", time="2026-01-09T00:00:00Z")
    assert agreement([*LOG, later]).findings == ()
    assert "operator's login" in whats([*LOG, later], RECORDS[:-1])


@pytest.mark.parametrize(
    "path", ["sys/wrapping/unwrap", "sys/wrapping/rewrap", "cubbyhole/response"]
)
def test_a_second_unwrap_and_a_foreign_address_are_found(path: str) -> None:
    found = whats([*LOG, unwrap("acc-1", "10.0.0.66", path)])
    assert "decrypt/kek of record 1 was unwrapped twice" in found
    assert "from 10.0.0.66, not from the pod's 10.0.0.9" in found
    assert "decrypt/models" not in found


def test_a_token_that_is_spent_by_another_login_is_found() -> None:
    sent = {"token": hmac("token of acc-1")}
    request = {"path": "sys/wrapping/unwrap", "remote_address": "10.0.0.66", "data": sent}
    auth = {"accessor": hmac("thief's"), "client_token": hmac("thief"), "policies": ["default"]}
    theft = call("sys/wrapping/unwrap", request=request, auth=auth)
    assert "from 10.0.0.66, not from" in whats([*LOG[:2], theft, *LOG[3:]])


def test_a_grant_left_in_doubt_is_covered() -> None:
    doubt = records(GRANT)
    log = [
        call("transit/decrypt/kek", record=doubt[0], accessor="acc-1"),
        call("transit/decrypt/models", record=doubt[0], accessor="acc-2"),
    ]
    assert agreement(log, doubt).findings == ()
    assert agreement(log[:1], doubt).findings == ()
    assert "from 10.0.0.66" in whats([*log, unwrap("acc-2", "10.0.0.66")], doubt)
    assert "Vault's log shows 3 decrypts" in whats([*log, log[0]], doubt)


def test_an_issued_token_that_vault_does_not_know_is_found() -> None:
    calls = list(parse_vault_log(LOG))
    assert compare(UID, RECORDS, calls, hmac).findings == ()
    other = list(parse_vault_log(line.replace(hmac("acc-2"), hmac("acc-9")) for line in LOG))
    found = compare(UID, RECORDS, other, hmac).findings
    assert ["the token for model" in finding.what for finding in found] == [True]


@pytest.mark.parametrize(
    "padding", ["[" * 2000 + "]" * 2000, '"' + "x" * (1 << 26) + '"', "9" * 5000]
)
def test_an_unwrap_that_is_made_unreadable_is_not_skipped(padding: str) -> None:
    """Whoever calls Vault has a say in what its log line holds besides the token."""
    line = LOG[-1].replace('"request": {', '"request": {"pad": ' + padding + ", ", 1)
    assert line != LOG[-1]
    with pytest.raises(AuditBroken, match="line 1 of Vault's log cannot be judged"):
        list(parse_vault_log([line]))
