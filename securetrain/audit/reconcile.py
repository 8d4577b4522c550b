"""Match a job's audit chain with Vault's own audit log, both ways.

The operator sends `X-Correlation-ID: stj/<job uid>/<seq>/<record sha256>` with every decrypt and
sign call; Vault keeps it in clear. So each of Vault's calls must have its record, and each record
that accounts for calls must have them. Wrapping tokens are matched by their accessors: the chain
has them raw, Vault's log has them as HMACs, which Vault computes for an admin
(`sys/audit-hash/<device>`).

Log format: one JSON object a line, https://developer.hashicorp.com/vault/docs/audit (request and
response entries).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.names import CORRELATION_HEADER
from securetrain.audit.chain import TYPE_PREFIX, Record

UNWRAP_PATH: Final = "sys/wrapping/unwrap"
MAX_LOG_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class VaultCall:
    """One answered call in Vault's log."""

    path: str
    correlation: str
    remote_address: str
    time: str
    accessor: str
    """HMAC of the issued wrapping token's accessor, or for an unwrap of the spent one's."""
    failed: bool

    @property
    def kind(self) -> str:
        """`decrypt`, `sign`, `unwrap` or `other`."""
        if self.path == UNWRAP_PATH:
            return "unwrap"
        verb = self.path.split("/")[1:2]
        return verb[0] if verb and verb[0] in ("decrypt", "sign") else "other"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not match."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Outcome of a comparison."""

    decrypts: int
    signs: int
    unwraps: int
    findings: tuple[Finding, ...]


def parse_vault_log(lines: Iterable[str]) -> Iterator[VaultCall]:
    """Answered calls of Vault's log; lines that are no entries, such as a cut one, are skipped."""
    for line in lines:
        if len(line) > MAX_LOG_LINE:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("type") == "response":
            yield _call(entry)


def _call(entry: dict[str, Any]) -> VaultCall:
    request = entry.get("request") or {}
    response = entry.get("response") or {}
    headers = {key.lower(): value for key, value in (request.get("headers") or {}).items()}
    path = str(request.get("path", ""))
    issued = (response.get("wrap_info") or {}).get("accessor")
    spent = (entry.get("auth") or {}).get("accessor")
    return VaultCall(
        path=path,
        correlation=str((headers.get(CORRELATION_HEADER.lower()) or [""])[0]),
        remote_address=str(request.get("remote_address", "")),
        time=str(entry.get("time", "")),
        accessor=str((spent if path == UNWRAP_PATH else issued) or ""),
        failed=bool(entry.get("error")),
    )


def compare(
    job_uid: str,
    records: Sequence[Record],
    calls: Sequence[VaultCall],
    hash_accessor: Callable[[str], str] | None = None,
) -> Agreement:
    """Compare a verified chain with Vault's calls.

    Args:
        job_uid: the job; calls of other jobs are left aside.
        records: the chain, verified.
        calls: answered calls, of the whole time that the job ran.
        hash_accessor: Vault's HMAC of an accessor; without it unwraps are not matched.
    """
    prefix = f"stj/{job_uid}/"
    ours = [call for call in calls if call.correlation.startswith(prefix) and call.kind != "other"]
    findings = list(_calls_without_record(ours, records))
    findings += _grants_without_calls(ours, records)
    findings += _signatures_without_calls(ours, records)
    unwraps = [call for call in calls if call.kind == "unwrap" and not call.failed]
    matched = 0
    if hash_accessor is not None:
        matched, unwrap_findings = _match_unwraps(records, unwraps, ours, hash_accessor)
        findings += unwrap_findings
    count = Counter(call.kind for call in ours if not call.failed)
    return Agreement(count["decrypt"], count["sign"], matched, tuple(findings))


def _calls_without_record(
    calls: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[Finding]:
    known = {f"{record.seq}/{record.sha256}" for record in records}
    for call in calls:
        if call.correlation.split("/", 2)[2] not in known:
            yield Finding(
                f"Vault answered a {call.kind} at {call.time} that no audit record accounts for",
                "a record was removed or changed, or the trail is older than the log",
            )


def _grants_without_calls(
    calls: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[Finding]:
    answered = Counter(
        call.correlation for call in calls if call.kind == "decrypt" and not call.failed
    )
    recorded = {
        record.data.get("podUID"): record for record in records if _is(record, "grant.recorded")
    }
    for issued in records:
        if not _is(issued, "grant.issued"):
            continue
        grant = recorded.get(issued.data.get("podUID"))
        tag = f"/{grant.seq}/{grant.sha256}" if grant else "/"
        found = sum(number for name, number in answered.items() if name.endswith(tag))
        if found != len(issued.data["accessors"]):
            yield Finding(
                f"record {issued.seq} accounts for {len(issued.data['accessors'])} keys,"
                f" Vault's log shows {found} decrypts",
                "use the log of the whole time that the job ran, of every Vault node",
            )


def _signatures_without_calls(
    calls: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[Finding]:
    signed = {call.correlation for call in calls if call.kind == "sign" and not call.failed}
    requests = [record for record in records if _is(record, "sign.requested")]
    made = any(_is(record, "signed") for record in records)
    tags = [f"/{record.seq}/{record.sha256}" for record in requests]
    if made and not any(name.endswith(tag) for name in signed for tag in tags):
        yield Finding(
            "the trail has a signature that Vault's log does not show",
            "use the log of the whole time that the job ran",
        )


def _match_unwraps(
    records: Sequence[Record],
    unwraps: Sequence[VaultCall],
    decrypts: Sequence[VaultCall],
    hash_accessor: Callable[[str], str],
) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    addresses = {
        r.data.get("podUID"): r.data.get("podIP") for r in records if _is(r, "grant.recorded")
    }
    issued_hashes = {call.accessor for call in decrypts if call.kind == "decrypt"}
    matched = 0
    for record in (record for record in records if _is(record, "grant.issued")):
        for token in record.data["accessors"]:
            key, hashed = token["name"], hash_accessor(token["accessor"])
            spent = [call for call in unwraps if call.accessor == hashed]
            matched += len(spent)
            if hashed not in issued_hashes:
                findings.append(
                    Finding(
                        f"the token for {key} in record {record.seq} is not in Vault's log",
                        "check the device",
                    )
                )
            if len(spent) > 1:
                findings.append(
                    Finding(f"the token for {key} was unwrapped twice", "treat it as stolen")
                )
            address = addresses.get(record.data.get("podUID"))
            findings += [
                Finding(
                    f"the token for {key} was unwrapped from {call.remote_address},"
                    f" not from the pod's {address}",
                    "treat the key as stolen: re-wrap the dataset under a new KEK version",
                )
                for call in spent
                if call.remote_address != address
            ]
    return matched, findings


def _is(record: Record, kind: str) -> bool:
    return record.type == TYPE_PREFIX + kind
