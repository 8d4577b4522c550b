"""Match a job's audit chain with Vault's own audit log, both ways.

The operator sends `X-Correlation-ID: stj/<job uid>/<seq>/<record sha256>` with every decrypt and
sign call; Vault keeps it in clear. So each of Vault's calls must have its record, and each record
that accounts for calls must have them. A call of the operator that carries no such id, on a KEK
that the trail names, is found too: only people who own the keys may decrypt without one.

Vault's log holds tokens and accessors as HMACs, the same on every line. So a wrapping token that
was answered to a recorded grant is recognised where it is spent, in whichever form Vault takes it.

Log format: one JSON object a line, https://developer.hashicorp.com/vault/docs/audit (request and
response entries).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.names import CORRELATION_HEADER, Purpose, vault_role
from securetrain.audit.chain import TYPE_PREFIX, Record
from securetrain.errors import AuditBroken

SPENDING_PATHS: Final = ("sys/wrapping/unwrap", "sys/wrapping/rewrap", "cubbyhole/response")
"""Where a wrapping token's content, or a new token for it, is had."""
MAX_LOG_LINE: Final = 1 << 26

_OPERATORS: Final = tuple(vault_role(purpose, "") for purpose in Purpose)
"""How the policies begin under which the operator decrypts."""
_NEVER: Final = "9999"


@dataclass(frozen=True, slots=True)
class VaultCall:
    """One answered call in Vault's log."""

    path: str
    correlation: str
    remote_address: str
    time: str
    policies: tuple[str, ...]
    """Of the login that made the call."""
    tokens: frozenset[str]
    """HMACs of the wrapping token that was issued, or spent, and of its accessor."""
    failed: bool

    @property
    def kind(self) -> str:
        """`decrypt`, `sign`, `unwrap` or `other`."""
        if self.path in SPENDING_PATHS:
            return "unwrap"
        verb = self.path.split("/")[1:2]
        return verb[0] if verb and verb[0] in ("decrypt", "sign") else "other"

    @property
    def by_operator(self) -> bool:
        """True if a policy that only the operator has let the call pass."""
        return any(policy.startswith(_OPERATORS) for policy in self.policies)


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
    owner_decrypts: int
    """Decrypts by people's own logins, of the trail's KEKs and time."""
    findings: tuple[Finding, ...]


def parse_vault_log(lines: Iterable[str]) -> Iterator[VaultCall]:
    """Answered calls of Vault's log; lines that are no entries, such as a cut one, are skipped.

    Raises:
        AuditBroken: an entry is longer, deeper or of another kind than can be judged. Whoever calls
            Vault has a say in how its entry looks, and must not hide it so.
    """
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LOG_LINE:
            raise _unreadable(number)
        try:
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("type") == "response":
                yield _call(entry)
        except json.JSONDecodeError:
            continue
        except (RecursionError, AttributeError, KeyError, TypeError, ValueError):
            raise _unreadable(number) from None


def _unreadable(number: int) -> AuditBroken:
    return AuditBroken(
        f"line {number} of Vault's log cannot be judged: it is too long, too deep or malformed",
        fix="look at this call of Vault yourself; without the line the rest can be compared",
    )


def _call(entry: Mapping[str, Any]) -> VaultCall:
    request, auth = entry.get("request") or {}, entry.get("auth") or {}
    headers = {key.lower(): value for key, value in (request.get("headers") or {}).items()}
    path = str(request.get("path", ""))
    issued = (entry.get("response") or {}).get("wrap_info") or {}
    sent = (request.get("data") or {}).get("token")
    marks = (
        (auth.get("accessor"), auth.get("client_token"), sent)
        if path in SPENDING_PATHS
        else (issued.get("accessor"), issued.get("token"))
    )
    return VaultCall(
        path=path,
        correlation=str((headers.get(CORRELATION_HEADER.lower()) or [""])[0]),
        remote_address=str(request.get("remote_address", "")),
        time=str(entry.get("time", "")),
        policies=tuple(str(policy) for policy in auth.get("policies") or ()),
        tokens=frozenset(str(mark) for mark in marks if mark),
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
        job_uid: the job; calls for other jobs are left aside.
        records: the chain, verified.
        calls: answered calls, of the whole time that the job ran.
        hash_accessor: Vault's HMAC of an accessor: proves as well that the tokens that the chain
            names are those that Vault issued.
    """
    prefix = f"stj/{job_uid}/"
    ours = [call for call in calls if call.correlation.startswith(prefix) and call.kind != "other"]
    answered = [call for call in calls if not call.failed]
    untagged = list(_untagged_decrypts(answered, records))
    findings = list(_calls_without_record(ours, records))
    findings += [_of_operator(call) for call in untagged if call.by_operator]
    findings += _grants_without_calls(answered, records, prefix)
    findings += _signatures_without_calls(ours, records)
    unwraps, unwrap_findings = _match_unwraps(answered, records, prefix)
    findings += unwrap_findings
    if hash_accessor is not None:
        findings += _other_tokens(answered, records, prefix, hash_accessor)
    count = Counter(call.kind for call in ours if not call.failed)
    owners = sum(not call.by_operator for call in untagged)
    return Agreement(count["decrypt"], count["sign"], unwraps, owners, tuple(findings))


def _untagged_decrypts(
    answered: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[VaultCall]:
    """Decrypts by KEKs of the trail, in its time, that say nothing of a job."""
    keks = {key["kek"] for grant in _of_kind(records, "grant.recorded") for key in _keys(grant)}
    if not keks:
        return
    ended = any(_of_kind(records, "job.finished"))
    first, last = _second(records[0].time), _second(records[-1].time) if ended else _NEVER
    for call in answered:
        tagged = call.correlation.startswith("stj/")
        in_time = not call.time or first <= _second(call.time) <= last
        by_kek = call.kind == "decrypt" and call.path.split("/")[-1] in keks
        if by_kek and in_time and not tagged:
            yield call


def _of_operator(call: VaultCall) -> Finding:
    return Finding(
        f"Vault answered a decrypt at {call.path} at {call.time} to the operator's login"
        " that is for no audit record",
        "treat the key as stolen: re-wrap the dataset under a new KEK version",
    )


def _calls_without_record(
    calls: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[Finding]:
    known = {f"{record.seq}/{record.sha256}" for record in records}
    grants = {f"{grant.seq}/{grant.sha256}" for grant in _of_kind(records, "grant.recorded")}
    for call in calls:
        accounting = grants if call.kind == "decrypt" else known
        if call.correlation.split("/", 2)[2] not in accounting:
            yield Finding(
                f"Vault answered a {call.kind} at {call.time} that no audit record accounts for",
                "a record was removed or changed, or the trail is older than the log",
            )


def _grants_without_calls(
    answered: Sequence[VaultCall], records: Sequence[Record], prefix: str
) -> Iterator[Finding]:
    """A grant that was answered has all its decrypts; one left in doubt has no more than that."""
    issued = {
        grant.seq: len(record.data["accessors"])
        for record in _of_kind(records, "grant.issued")
        if (grant := _grant_of(record, records))
    }
    for grant in _of_kind(records, "grant.recorded"):
        found = len(_decrypts_of(grant, answered, prefix))
        wanted = issued.get(grant.seq, min(found, len(_keys(grant))))
        if found != wanted:
            yield Finding(
                f"record {grant.seq} accounts for {wanted} keys,"
                f" Vault's log shows {found} decrypts",
                "use the log of the whole time that the job ran, of every Vault node",
            )


def _signatures_without_calls(
    calls: Sequence[VaultCall], records: Sequence[Record]
) -> Iterator[Finding]:
    signed = {call.correlation for call in calls if call.kind == "sign" and not call.failed}
    tags = [f"/{record.seq}/{record.sha256}" for record in _of_kind(records, "sign.requested")]
    made = any(_of_kind(records, "signed"))
    if made and not any(name.endswith(tag) for name in signed for tag in tags):
        yield Finding(
            "the trail has a signature that Vault's log does not show",
            "use the log of the whole time that the job ran",
        )


def _match_unwraps(
    answered: Sequence[VaultCall], records: Sequence[Record], prefix: str
) -> tuple[int, list[Finding]]:
    """Each token that Vault issued for a recorded grant, and who spent it: grants in doubt too."""
    findings: list[Finding] = []
    unwraps = [call for call in answered if call.kind == "unwrap"]
    matched = 0
    for grant in _of_kind(records, "grant.recorded"):
        address = grant.data.get("podIP")
        for issued in _decrypts_of(grant, answered, prefix):
            spent = [call for call in unwraps if call.tokens & issued.tokens]
            matched += len(spent)
            token = f"the token for {issued.path} of record {grant.seq}"
            if len(spent) > 1:
                findings.append(Finding(f"{token} was unwrapped twice", "treat it as stolen"))
            findings += [
                Finding(
                    f"{token} was unwrapped from {call.remote_address}, not from the pod's"
                    f" {address}",
                    "treat the key as stolen: re-wrap the dataset under a new KEK version",
                )
                for call in spent
                if call.remote_address != address
            ]
    return matched, findings


def _other_tokens(
    answered: Sequence[VaultCall],
    records: Sequence[Record],
    prefix: str,
    hash_accessor: Callable[[str], str],
) -> Iterator[Finding]:
    """Tokens that the chain names and that Vault did not issue for that grant."""
    for record in _of_kind(records, "grant.issued"):
        grant = _grant_of(record, records)
        calls = _decrypts_of(grant, answered, prefix) if grant else []
        known = frozenset[str]().union(*(call.tokens for call in calls))
        for token in record.data["accessors"]:
            if hash_accessor(token["accessor"]) not in known:
                yield Finding(
                    f"the token for {token['name']} in record {record.seq} is not in Vault's log",
                    "check the device",
                )


def _decrypts_of(grant: Record, answered: Sequence[VaultCall], prefix: str) -> list[VaultCall]:
    tag = f"{prefix}{grant.seq}/{grant.sha256}"
    return [call for call in answered if call.kind == "decrypt" and call.correlation == tag]


def _grant_of(issued: Record, records: Sequence[Record]) -> Record | None:
    """The grant that a `grant.issued` completes: the last one before it of that pod."""
    before = [
        grant
        for grant in _of_kind(records, "grant.recorded")
        if grant.seq < issued.seq and grant.data.get("podUID") == issued.data.get("podUID")
    ]
    return before[-1] if before else None


def _keys(grant: Record) -> Sequence[Mapping[str, Any]]:
    keys: Sequence[Mapping[str, Any]] = grant.data.get("keys") or ()
    return keys


def _of_kind(records: Sequence[Record], kind: str) -> Iterator[Record]:
    return (record for record in records if record.type == TYPE_PREFIX + kind)


def _second(time: str) -> str:
    """A time in UTC to the second: Vault writes nanoseconds, the trail none."""
    return time[:19]
