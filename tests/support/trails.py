"""What must hold of a job whatever happened to its operators and pods: everything once, and whole.

Each check says what is wrong in words; nothing wrong is an empty list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

from securetrain.api.names import Purpose
from securetrain.audit import chain
from securetrain.audit.reconcile import VaultCall, compare, parse_vault_log
from securetrain.errors import SecuretrainError
from securetrain.signing.head import verify_head
from securetrain.signing.verify import verify_model
from securetrain_operator.core.record import LaunchRecord
from support.played_pod import TOLD_TO_END
from support.stage import Stage

SIGNING_KEY = "transit/keys/securetrain-models"


class Trails:
    """Looks at ended jobs of some stages on one Vault."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._openbao = stages[0].openbao

    @cached_property
    def _calls(self) -> list[VaultCall]:
        with self._openbao.audit_log.open() as lines:
            return list(parse_vault_log(lines))

    @cached_property
    def _public_key(self) -> bytes:
        keys = self._openbao.api("GET", f"/v1/{SIGNING_KEY}")["data"]["keys"]
        (key,) = keys.values()
        return str(key["public_key"]).encode()

    def faults(
        self, stage: Stage, name: str, uid: str, *, phase: str = "Succeeded", deaths: int = 0
    ) -> list[str]:
        """What is wrong with a job that should have ended in that phase."""
        record = stage.record(uid)
        if record is None:
            return ["there is no launch record"]
        ended = {record.phase, stage.phase(name)}
        wrong = [] if ended == {phase} else [f"it ended {ended}: {record.failure}"]
        records = chain.verify_chain(record.audit, record.genesis)
        wrong += _once(records)
        wrong += _children(stage, name, record, records)
        wrong += _sinks(stage, uid, record, deaths)
        wrong += self._signatures(stage, name, record)
        wrong += [found.what for found in compare(uid, records, self._calls, self._hash).findings]
        return wrong + list(_worked_once(stage, name, phase))

    def _hash(self, accessor: str) -> str:
        path = "/v1/sys/audit-hash/file"
        return str(self._openbao.api("PUT", path, {"input": accessor})["data"]["hash"])

    def _signatures(self, stage: Stage, name: str, record: LaunchRecord) -> Iterator[str]:
        try:
            head = verify_head(record.head_signature or "", self._public_key)
            if (head.head, head.records) != (record.head, len(record.audit)):
                yield "another head is signed"
            if record.phase == "Succeeded":
                model = verify_model(stage.model(name), self._public_key)
                lines = (stage.model(name) / "audit.jsonl").read_text().splitlines()
                if model.claim["job"]["uid"] != record.job.uid:
                    yield "the model is another job's"
                if list(record.audit[: len(lines)]) != lines:
                    yield "audit.jsonl is not how the chain begins"
        except (SecuretrainError, OSError) as error:
            yield f"signature: {error}"
        if record.phase != "Succeeded" and (stage.model(name) / "model.sig").exists():
            yield "a model that failed is signed"


def _once(records: Sequence[chain.Record]) -> Iterator[str]:
    """What happens at most once in a chain, and once for each pod."""
    kinds = Counter(record.type.removeprefix(chain.TYPE_PREFIX) for record in records)
    attempts = 1 + kinds["train.resumed"] + kinds["train.lost"]
    limits = {"train.launched": attempts, "certify.launched": 1 + kinds["certify.lost"]}
    once = ("job.accepted", "results.train", "train.finished", "verdict", "signed", "job.finished")
    for kind, limit in {**dict.fromkeys(once, 1), **limits}.items():
        if kinds[kind] > limit:
            yield f"{kind} happened {kinds[kind]} times"
    if kinds["job.finished"] != 1:
        yield "the chain is not closed"
    withdrawn = _by_pod(records, "grant.withdrawn")  # nothing was issued: it may be asked for again
    for kind in ("grant.recorded", "grant.issued", "grant.lost"):
        for pod, count in _by_pod(records, kind).items():
            if count > 1 + (withdrawn[pod] if kind == "grant.recorded" else 0):
                yield f"{kind} {count} times for pod {pod}"


def _by_pod(records: Sequence[chain.Record], kind: str) -> Counter[str]:
    wanted = chain.TYPE_PREFIX + kind
    return Counter(record.data["podUID"] for record in records if record.type == wanted)


def _children(
    stage: Stage, name: str, record: LaunchRecord, records: Sequence[chain.Record]
) -> Iterator[str]:
    """The Job that is there is the one of the record, and only its pods ever had keys."""
    for purpose in Purpose:
        child, known = stage.child(name, purpose), record.children.get(purpose)
        found = child and child["metadata"]["uid"]
        if found != (known and known.uid):
            yield f"the {purpose} Job is {found}, the recorded one is {known and known.uid}"
    launched = {r.data["childUid"] for r in records if r.type.endswith(".launched")}
    stray = {k.uid for k in record.children.values()} - launched
    yield from (f"Job {uid} was never launched" for uid in stray)


def _sinks(stage: Stage, uid: str, record: LaunchRecord, deaths: int) -> Iterator[str]:
    """Every line of the chain was published; an operator that died left at most one change more."""
    lines = [line for line in stage.operator.output.splitlines() if uid in line]
    published = [line for line in lines if json.loads(line).get("specversion")]
    missing = set(record.audit) - set(published)
    if missing:
        yield f"{len(missing)} lines were never published"
    orphans = set(published) - set(record.audit)
    heads = {record.genesis, *map(chain.line_sha256, record.audit)}
    changes = [line for line in orphans if chain.parse_line(line).prev in heads]
    if len(changes) > deaths:
        yield f"{len(changes)} orphan changes after {deaths} deaths"
    heads |= set(map(chain.line_sha256, orphans))
    for line in orphans:
        if chain.parse_line(line).prev not in heads:
            yield f"orphan line {chain.parse_line(line).type} fits nowhere"


def _worked_once(stage: Stage, name: str, phase: str) -> Iterator[str]:
    """No pod did work for nothing: whoever got its keys reported, and once per phase."""
    for purpose in Purpose:
        pods = stage.player.of(name, purpose)
        reported = [pod.name for pod in pods if "reporting" in pod.stages]
        wanted = phase == "Succeeded"
        if len(reported) > 1 or (wanted and not reported):
            yield f"{purpose} was done by {reported}"
        bugs = [pod for pod in pods if pod.exit_code == 1 and TOLD_TO_END not in pod.message]
        yield from (f"{pod.name}: {pod.message}" for pod in bugs)
