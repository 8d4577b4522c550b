"""What must not grow: the operator's memory and files, objects, Vault's tokens, work at rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

from securetrain.api.names import JOB_UID_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from soak.supervisor import CUT, Sample, say
from support.chart import OPERATOR_NAMESPACE
from support.fault_proxy import FaultProxy
from support.operator_process import TOKEN, OperatorProcess
from support.stage import Stage

MIB = 1 << 20
MAX_GROWTH_MIB = 24
MAX_MORE_FILES = 8
MAX_MORE_TOKENS = 3
TOKEN_SECONDS = 120.0
CLEARED_SECONDS = 180.0
REST_SECONDS = 20.0
MAX_REQUESTS_AT_REST = 60


def cleared(stage: Stage, uids: Sequence[str]) -> list[str]:
    """What is still there of deleted jobs after some time."""
    return _wait(lambda: _left(stage, set(uids)), CLEARED_SECONDS)


def _left(stage: Stage, uids: set[str]) -> list[str]:
    team = f"namespaces/{stage.namespace}"
    ours = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps"
    places = {
        "jobs": (stage.jobs, ""),
        "Jobs": (f"/apis/batch/v1/{team}/jobs", JOB_UID_LABEL),
        "pods": (f"/api/v1/{team}/pods", JOB_UID_LABEL),
        "audit views": (f"/api/v1/{team}/configmaps", JOB_UID_LABEL),
        "network policies": (f"/apis/networking.k8s.io/v1/{team}/networkpolicies", JOB_UID_LABEL),
        "launch records": (ours, f"{MANAGED_BY_LABEL}={MANAGED_BY}"),
    }
    found = []
    for what, (path, selector) in places.items():
        query = {"labelSelector": selector} if selector else None
        items = stage.admin.call("GET", path, query=query).expect()["items"]
        labels = [(item["metadata"].get("labels") or {}) for item in items]
        known = [m["metadata"]["uid"] in uids for m in items]
        count = sum(
            own or label.get(JOB_UID_LABEL) in uids
            for own, label in zip(known, labels, strict=True)
        )
        if count:
            found.append(f"{count} {what} are left")
    return found


def at_rest(api: FaultProxy) -> list[str]:
    """Too many requests by an operator that has nothing to do: something is still queued."""
    before = api.count
    time.sleep(REST_SECONDS)
    made = api.count - before
    say(f"at rest: {made} requests in {REST_SECONDS:g} s")
    return [f"{made} requests at rest"] if made > MAX_REQUESTS_AT_REST else []


def residents(samples: Sequence[Sample]) -> dict[str, float]:
    """Resident MiB at the beginning and at the end of one life."""
    first, last = _ends(samples)
    return {
        "early": round(median(s[1] for s in first) / MIB, 1),
        "late": round(median(s[1] for s in last) / MIB, 1),
    }


def of_process(samples: Sequence[Sample]) -> list[str]:
    """Growth of the life after the last kill, from its first work to its rest."""
    first, last = _ends(samples)
    more = (median(s[1] for s in last) - median(s[1] for s in first)) / MIB
    files = median(s[2] for s in last) - median(s[2] for s in first)
    wrong = [f"resident memory grew by {more:.0f} MiB"] if more > MAX_GROWTH_MIB else []
    return wrong + ([f"{files:.0f} more open files"] if files > MAX_MORE_FILES else [])


def _ends(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The first quarter of a life's samples, when it had begun to work, and the last ten."""
    last_life = list(samples)
    for number in range(len(samples) - 1, 0, -1):
        if samples[number][0] < samples[number - 1][0]:
            last_life = list(samples[number:])
            break
    working = last_life[len(last_life) // 8 :]
    return working[: max(1, len(working) // 4)], working[-10:]


def vault_tokens(stage: Stage) -> int:
    """How many tokens Vault knows."""
    return len(stage.openbao.api("LIST", "/v1/auth/token/accessors")["data"]["keys"])


def of_vault(stage: Stage, baseline: int) -> list[str]:
    """Tokens that outlive the work that they were for."""

    def more() -> list[str]:
        count = vault_tokens(stage)
        over = count > baseline + MAX_MORE_TOKENS
        return [f"Vault holds {count} tokens, {baseline} before"] if over else []

    return _wait(more, TOKEN_SECONDS)


def unforeseen(operator: OperatorProcess) -> list[str]:
    """Lines of the log that tell of a bug, and tokens in what was said, which are not repeated."""
    words = ("Traceback", "reconcile failed", "unexpected", "ended:")
    log, output = operator.log, operator.output
    lines = [
        line
        for line in log.splitlines()
        if any(word in line for word in words) and CUT not in line  # the supervisor counts those
    ]
    tokens = {"log": len(TOKEN.findall(log)), "output": len(TOKEN.findall(output))}
    return [
        *(f"{where}: {count} tokens" for where, count in tokens.items() if count),
        *(f"log: {line[:400]}" for line in lines[:5] if not TOKEN.search(line)),
    ]


def _wait(look: Callable[[], list[str]], seconds: float) -> list[str]:
    until = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < until:
        time.sleep(2)
    return found
