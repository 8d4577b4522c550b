"""The certify phase: judge the model as it is stored, and store what vouches for it.

The order matters. Files are read once, compared with what the train phase reported, and only then
is a key asked for. Nothing is written before the operator has answered; then report, trail and,
last, the signature; the folder gets its final name after all has been read back. A pod that dies
in between is repeated from the start, wherever it died, and what it had published stays as it is
until there is something else to replace it with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from securetrain.api.gateway import ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Purpose, Split
from securetrain.audit.chain import genesis, split_lines, verify_chain
from securetrain.errors import (
    AuditBroken,
    GatesMissed,
    IntegrityError,
    ModelCorrupt,
    SignatureInvalid,
)
from securetrain.sealed.dataset import SealedDataset
from securetrain.sealed.model import (
    AUDIT_FILE,
    KEY_FILE,
    PAGE_FILE,
    REPORT_FILE,
    SIGNATURE_FILE,
)
from securetrain.sealed.weights import open_weights
from securetrain_trainer.evaluate import Evaluation, judge
from securetrain_trainer.log import log
from securetrain_trainer.page import render
from securetrain_trainer.phase import (
    TRAINED,
    StoredModel,
    clear_added,
    digest_of,
    open_dataset,
    read_model,
)
from securetrain_trainer.places import Places, open_places
from securetrain_trainer.ports import Keys, KeySource, ModelFolder, Operator, Output, Score
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.report import make_report, report_bytes, verdict_of
from securetrain_trainer.runtime import prepare_tensorflow


def _tensorflow() -> Score:
    from securetrain_trainer.score import score  # loads TensorFlow

    return score


def run_certification(
    run: RunSpec,
    source: KeySource,
    operator: Operator,
    start: Callable[[], int] = prepare_tensorflow,
    load: Callable[[], Score] = _tensorflow,
) -> None:
    """Evaluate, report, and store the signature.

    Args:
        run: what to do; its artefacts are the files that the train phase reported.
        source: gives the keys of the test split and of the model.
        operator: judges the results and has them signed.
        start: loads TensorFlow and returns its number of threads.
        load: loads what evaluates.

    Raises:
        GatesMissed: all went well, but the model is not good enough; it is stored unsigned.
        ModelCorrupt: the stored model is not the one that was trained.
        SecuretrainError: whatever else stopped it.
    """
    with open_places(run) as places:
        answer = _certify(run, places, source, operator, start, load)
    if answer.verdict == "gatesMissed":
        raise GatesMissed("; ".join(answer.missed) or "a gate was missed")


def _certify(
    run: RunSpec,
    places: Places,
    source: KeySource,
    operator: Operator,
    start: Callable[[], int],
    load: Callable[[], Score],
) -> ResultsResponse:
    dataset = open_dataset(run, places.dataset)
    with (
        places.output.stored(replace=run.replace_output) as (folder, published),
        ProgressPoster(operator.progress) as poster,
    ):
        model = read_model(folder, run, dataset)
        poster.report("evaluating")
        log("tensorflow.ready", threads=start())
        keys = source.acquire(run, dataset)
        log("keys.granted", purpose=run.purpose, records=dataset.manifest.total_records)
        evaluation = _evaluate(run, dataset, model, keys, load)
        reports, answer = _report(run, dataset, model, evaluation, operator)
        _store(run, folder, reports, answer)
    log("results.reported", verdict=answer.verdict or "")
    _publish(run, places.output, answer, published)
    return answer


def _evaluate(
    run: RunSpec,
    dataset: SealedDataset,
    model: StoredModel,
    keys: Keys,
    load: Callable[[], Score],
) -> Evaluation:
    weights = open_weights(model.manifest, model.sealed_weights, keys.model)
    evaluation = load()(run.model, weights, dataset, keys.splits[Split.TEST])
    log("evaluated", accuracy=evaluation.accuracy, records=evaluation.records)
    return evaluation


def _report(
    run: RunSpec,
    dataset: SealedDataset,
    model: StoredModel,
    evaluation: Evaluation,
    operator: Operator,
) -> tuple[dict[str, bytes], ResultsResponse]:
    """Make the report's files, send all digests, and hold the answer against the report."""
    metrics = evaluation.metrics()
    gates = judge(run.gates, metrics)
    report = make_report(run, dataset, model, evaluation, gates)
    files = {REPORT_FILE: report_bytes(report), PAGE_FILE: render(report).encode()}
    signed = [digest for digest in model.digests if digest.path != KEY_FILE]
    signed += [digest_of(name, data) for name, data in files.items()]
    answer = operator.results(
        ResultsRequest(
            purpose=Purpose.CERTIFY,
            files=tuple(sorted(signed, key=lambda digest: digest.path)),
            metrics=metrics,
            plaintext_sha256=model.manifest.weights.plaintext_sha256,
        )
    )
    if answer.verdict != verdict_of(gates):
        raise AuditBroken(
            f"the operator's verdict is {answer.verdict}, the report's is {verdict_of(gates)}"
        )
    return files, answer


def _store(
    run: RunSpec, folder: ModelFolder, reports: Mapping[str, bytes], answer: ResultsResponse
) -> None:
    """Write report, audit trail and, last, the signature, unless all is there; read it back."""
    if answer.audit is None:
        raise AuditBroken("the operator's answer holds no audit trail")
    if (answer.bundle is None) != (answer.verdict == "gatesMissed"):
        raise SignatureInvalid(f"the operator's answer does not fit its verdict {answer.verdict}")
    job = run.job
    start = genesis(job.namespace, job.name, job.uid, run.spec_sha256)
    verify_chain(split_lines(answer.audit), start)
    files = {**reports, AUDIT_FILE: answer.audit.encode()}
    if answer.bundle is not None:
        files[SIGNATURE_FILE] = answer.bundle.encode()
    if not _is_stored(folder, files):
        clear_added(folder)
        for name, data in files.items():
            folder.write(name, data)
        _check_stored(folder, files)


def _is_stored(folder: ModelFolder, files: Mapping[str, bytes]) -> bool:
    """True if an earlier pod had the same answer and wrote all of it."""
    try:
        _check_stored(folder, files)
    except IntegrityError:
        return False
    return True


def _check_stored(folder: ModelFolder, files: Mapping[str, bytes]) -> None:
    """Raise IntegrityError unless the folder holds these files, the trained ones, and no more."""
    for name, data in files.items():
        if folder.read(name, len(data)) != data:
            raise IntegrityError(f"{name} does not read back as it was written")
    odd = sorted(folder.names() ^ (TRAINED | files.keys()))
    if odd:
        raise ModelCorrupt(f"the model's folder lacks {odd[0]!r:.80}, or has it and should not")


def _publish(run: RunSpec, output: Output, answer: ResultsResponse, published: bool) -> None:
    """Give the model its final place; one that missed its gates never replaces another."""
    missed = answer.verdict == "gatesMissed"
    if published:
        output.tidy()
    elif not (missed and output.is_taken()):
        output.publish(replace=run.replace_output and not missed)
