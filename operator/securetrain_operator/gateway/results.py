"""What a phase produced: stored, judged, signed and answered, so that any of it can be asked again.

All steps of a certification that need no Vault are one change of the launch record; the signature
is the second. A crash between them leaves a verdict without a bundle, and the pod's next try goes
on there: the audit trail that is signed ends where the first change ended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import FileDigest, ResultsRequest, ResultsResponse
from securetrain.api.names import Purpose, correlation_id
from securetrain.api.types import Gate
from securetrain.audit import chain
from securetrain.errors import GatesMissed, InvalidInput, ModelCorrupt, NotOurPod
from securetrain.sealed.dataset import POLICY_FILE
from securetrain.sealed.model import AUDIT_FILE
from securetrain.sealed.policy import RequiredGate, parse_policy
from securetrain.signing import dsse
from securetrain.signing.bundle import build_bundle
from securetrain.signing.statement import UNSIGNED_FILES, build_statement, folder_digest
from securetrain_operator.core.record import Change, LaunchRecord, VerdictRecord
from securetrain_operator.core.verdict import GATES_MISSED_FIX, Verdict, judge, missed_lines
from securetrain_operator.errors import AlreadyReported
from securetrain_operator.gateway.context import Services, resolve
from securetrain_operator.gateway.gatekeeper import Attested

METRIC_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*", re.ASCII)
METRIC_VALUE: Final = re.compile(r"[A-Za-z0-9.+-]+", re.ASCII)


class Results:
    """Answers `POST /v1/results` of attested pods."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def accept(self, pod: Attested, request: ResultsRequest) -> ResultsResponse:
        """Take a phase's results; the same again gets the same answer.

        Raises:
            NotOurPod: the pod had no keys for this phase, or its job has ended otherwise.
            InvalidInput: files or metrics are named twice or not at all.
            AlreadyReported: the pod has reported something else before.
            ModelCorrupt: the certified files are not those that were trained.
            VaultSealed, VaultUnavailable, …: nothing was signed yet; ask again.
        """
        check_reporter(pod, request)
        check_report(request)
        if request.purpose is Purpose.TRAIN:
            await self._update(pod, trained(pod, request, self._services.clock.rfc3339()))
            return ResultsResponse()
        record = await self._update(pod, certified(pod, request, self._services.clock.rfc3339()))
        if record.verdict is not None and record.verdict.outcome != "gatesMissed":
            record = await self._sign(pod, record)
        return answer(record)

    async def _update(self, pod: Attested, change: Change) -> LaunchRecord:
        record = await self._services.records.update(pod.uid, change)
        self._services.wakeup.enqueue(pod.uid)
        return record

    async def _sign(self, pod: Attested, record: LaunchRecord) -> LaunchRecord:
        """Have Vault sign the statement, unless it has; raises as `Vault.sign`."""
        if record.verdict is None or record.verdict.bundle is not None:
            return record
        if record.terminal:
            raise NotOurPod(f"{pod.caller}: its job has ended without a signature")
        resolved = await resolve(self._services, pod)
        requested = signed_lines(record)[-1]

        def digest_for(key_version: int) -> bytes:
            return dsse.digest(dsse.INTOTO_TYPE, model_statement(pod, record, key_version))

        signature = await self._services.vault.sign(
            resolved.connection,
            digest_for,
            correlation_id(pod.uid, len(signed_lines(record)), chain.line_sha256(requested)),
        )
        statement = model_statement(pod, record, signature.key_version)
        bundle = build_bundle(statement, signature.der, signature.public_key_pem)
        data = {
            "statementSha256": sha256_hex(statement),
            "key": resolved.connection.signing_key,
            "keyVersion": signature.key_version,
            "keyHint": dsse.key_hint(signature.public_key_pem),
        }
        change = signed(record, bundle, data, self._services.clock.rfc3339())
        return await self._update(pod, change)


def check_reporter(pod: Attested, request: ResultsRequest) -> None:
    """Only a pod that had keys for a phase can report what came out of it."""
    if request.purpose != pod.purpose:
        raise NotOurPod(f"{pod.caller}: it reports for another purpose")
    if not any(
        grant.pod_uid == pod.caller.pod_uid and grant.purpose == pod.purpose
        for grant in pod.record.grants
    ):
        raise NotOurPod(f"{pod.caller}: it has had no keys to work with")


def check_report(request: ResultsRequest) -> None:
    """Names are unique and plain, and there is something to report; raises InvalidInput."""
    paths = [file.path for file in request.files]
    if len(paths) != len(set(paths)):
        raise InvalidInput("files", len(paths), "name a path twice", fix="name each file once")
    if not signable(request.files) or AUDIT_FILE in paths:
        raise InvalidInput(
            "files",
            len(paths),
            f"are not the files of a model without {AUDIT_FILE}",
            fix="report every file but audit.jsonl, which the answer brings",
        )
    names = [metric.name for metric in request.metrics]
    plain = all(
        METRIC_NAME.fullmatch(metric.name) and METRIC_VALUE.fullmatch(metric.value)
        for metric in request.metrics
    )
    if len(names) != len(set(names)) or not plain:
        raise InvalidInput(
            "metrics", len(names), "are not unique plain names with decimals", fix="rename them"
        )


def trained(pod: Attested, request: ResultsRequest, time: str) -> Change:
    """The change that stores the results of training."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.results.get(Purpose.TRAIN) == request:
            return record
        check_open(record, pod)
        if record.phase == "Certifying" or Purpose.CERTIFY in record.children:
            raise AlreadyReported("the model is being certified already")
        return stored(record, pod, request, time)

    return change


def certified(pod: Attested, request: ResultsRequest, time: str) -> Change:
    """The change that stores the results of certification with the verdict on them."""

    def change(record: LaunchRecord) -> LaunchRecord:
        if record.verdict is not None and record.results.get(Purpose.CERTIFY) == request:
            return record
        check_open(record, pod)
        check_artefacts(record, request)
        record = stored(record, pod, request, time)
        verdict = judge(request.metrics, pod.run.gates, policy_gates(record))
        gates = [gate.to_wire() for gate in verdict.gates]
        record = record.appended("verdict", time, {"outcome": verdict.outcome, "gates": gates})
        if verdict.outcome == "gatesMissed":
            missed = GatesMissed(f"{'; '.join(missed_lines(verdict.gates))}.", fix=GATES_MISSED_FIX)
            return with_verdict(record, verdict).failed(missed.reason, str(missed), time)
        data = {"filesSha256": folder_digest(request.files), "verdict": verdict.outcome}
        return with_verdict(record.appended("sign.requested", time, data), verdict)

    return change


def with_verdict(record: LaunchRecord, verdict: Verdict) -> LaunchRecord:
    """A record with a verdict; what is signed of its audit trail ends here."""
    kept = VerdictRecord(
        outcome=verdict.outcome, gates=verdict.gates, audit_records=len(record.audit)
    )
    return record.with_changes(verdict=kept)


def signed(judged: LaunchRecord, bundle: str, data: Mapping[str, Any], time: str) -> Change:
    """The change that keeps a signature; a signature that is there already stays."""

    def change(record: LaunchRecord) -> LaunchRecord:
        verdict, certify = record.verdict, Purpose.CERTIFY
        if (
            verdict is None
            or judged.verdict is None
            or verdict.audit_records != judged.verdict.audit_records
            or record.results.get(certify) != judged.results.get(certify)
        ):
            raise AlreadyReported("another pod has reported something newer")
        if verdict.bundle is not None:
            return record
        if record.terminal:
            raise NotOurPod("the job has ended while its model was being signed")
        return record.with_changes(verdict=verdict.model_copy(update={"bundle": bundle})).appended(
            "signed", time, data
        )

    return change


def stored(record: LaunchRecord, pod: Attested, request: ResultsRequest, time: str) -> LaunchRecord:
    """A record with the results of a phase; a newer pod replaces those of one that is gone."""
    purpose = request.purpose
    if purpose in record.results and reporter(record, purpose) == pod.caller.pod_uid:
        raise AlreadyReported("this pod has reported other results before")
    data = {
        "podUID": pod.caller.pod_uid,
        "podName": pod.caller.pod_name,
        "files": len(request.files),
        "filesSha256": folder_digest(request.files),
        "metrics": [metric.to_wire() for metric in request.metrics],
        "plaintextSha256": request.plaintext_sha256 or "",
    }
    results = {**record.results, purpose: request}
    return record.with_changes(results=results).appended(f"results.{purpose}", time, data)


def reporter(record: LaunchRecord, purpose: Purpose) -> str | None:
    """UID of the pod whose results of a phase were taken last."""
    kind = f"{chain.TYPE_PREFIX}results.{purpose}"
    entries = (chain.parse_line(line) for line in reversed(record.audit))
    return next((str(entry.data["podUID"]) for entry in entries if entry.type == kind), None)


def check_open(record: LaunchRecord, pod: Attested) -> None:
    """The job goes on, with this pod's Job; raises NotOurPod."""
    child = record.children.get(pod.purpose)
    if record.terminal or child is None or child.uid != pod.child.uid:
        raise NotOurPod(f"{pod.caller}: its job has ended or moved on")


def check_artefacts(record: LaunchRecord, request: ResultsRequest) -> None:
    """The certified files hold every trained one, unchanged; raises ModelCorrupt."""
    train = record.results.get(Purpose.TRAIN)
    if train is None or record.dataset is None:
        raise ModelCorrupt("there are no results of training to certify")
    found = {file.path: file for file in request.files}
    for file in signable(train.files):
        if found.get(file.path) != file:
            raise ModelCorrupt(
                f"{file.path} is not the file that was trained",
                fix="find out who writes to the output volume, and run the job again",
            )
    policy = found.get(POLICY_FILE)
    if policy is not None and f"sha256:{policy.sha256}" != record.dataset.policy_digest:
        raise ModelCorrupt(f"{POLICY_FILE} is not the policy that the job began with")
    digests = {train.plaintext_sha256, request.plaintext_sha256} - {None}
    if len(digests) > 1:
        raise ModelCorrupt("the certified weights are not the trained ones")


def policy_gates(record: LaunchRecord) -> tuple[Gate, ...]:
    """The gates that the data owner demands, of the policy that the first grant pinned."""
    if record.dataset is None:
        raise ModelCorrupt("there is no pinned policy to judge by")
    return tuple(_gate(gate) for gate in parse_policy(bytes(record.dataset.policy)).gates)


def model_statement(pod: Attested, record: LaunchRecord, key_version: int) -> bytes:
    """The statement that Vault signs: the same bytes for the same record."""
    lines = signed_lines(record)
    text = audit_text(lines).encode()
    trail = FileDigest(path=AUDIT_FILE, sha256=sha256_hex(text), bytes=len(text))
    files = (*record.results[Purpose.CERTIFY].files, trail)
    name = PurePosixPath(pod.run.output_path).name
    return build_statement(name, files, claim(pod, record, lines, key_version))


def claim(
    pod: Attested, record: LaunchRecord, lines: Sequence[str], key_version: int
) -> Mapping[str, Any]:
    """Our certification claim."""
    report, verdict, dataset = record.results[Purpose.CERTIFY], record.verdict, record.dataset
    if verdict is None or dataset is None:
        raise ModelCorrupt("there is no verdict to sign")
    return {
        "verdict": verdict.outcome,
        "job": {**record.job.to_wire(), "specSha256": record.spec_sha256},
        "datasetSha256": dataset.digest.removeprefix("sha256:"),
        "policySha256": dataset.policy_digest.removeprefix("sha256:"),
        "trainImage": pod.run.image,
        "certifyImage": pod.run.certify_image,
        "gates": [gate.to_wire() for gate in verdict.gates],
        "metrics": [metric.to_wire() for metric in report.metrics],
        "plaintextSha256": report.plaintext_sha256 or "",
        "keyVersion": key_version,
        "finished": chain.parse_line(lines[-1]).time,
        "audit": {"records": len(lines), "head": chain.line_sha256(lines[-1])},
    }


def answer(record: LaunchRecord) -> ResultsResponse:
    """What the certify pod gets: the verdict, the audit trail up to it, and the signature."""
    verdict = record.verdict
    if verdict is None:
        raise ModelCorrupt("there is no verdict to answer with")
    return ResultsResponse(
        verdict=verdict.outcome,
        audit=audit_text(signed_lines(record)),
        bundle=verdict.bundle,
        missed=missed_lines(verdict.gates),
    )


def signed_lines(record: LaunchRecord) -> tuple[str, ...]:
    """The chain's lines that are in audit.jsonl."""
    count = record.verdict.audit_records if record.verdict else None
    return record.audit[: count or 0]


def audit_text(lines: Sequence[str]) -> str:
    """Text of audit.jsonl."""
    return "".join(f"{line}\n" for line in lines)


def signable(files: Sequence[FileDigest]) -> tuple[FileDigest, ...]:
    """The files that a signature covers."""
    return tuple(file for file in files if file.path not in UNSIGNED_FILES)


def _gate(gate: RequiredGate) -> Gate:
    return Gate(
        metric=gate.metric,
        min=None if gate.min is None else float(gate.min),
        max=None if gate.max is None else float(gate.max),
    )
