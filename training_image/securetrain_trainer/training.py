"""The train phase: from a sealed dataset to a sealed model in its staging folder."""

from __future__ import annotations

from collections.abc import Callable

from securetrain.api.gateway import FileDigest, ResultsRequest, RunSpec
from securetrain.api.names import Purpose
from securetrain_trainer.log import log
from securetrain_trainer.phase import open_dataset
from securetrain_trainer.places import Places, open_places
from securetrain_trainer.ports import KeySource, Learn, Learned, Operator
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.runtime import prepare_tensorflow
from securetrain_trainer.seal import seal_model


def _tensorflow() -> Learn:
    from securetrain_trainer.learn import learn  # slow; a wrong job is refused by now

    return learn


def run_training(
    run: RunSpec,
    source: KeySource,
    operator: Operator,
    start: Callable[[], int] = prepare_tensorflow,
    load: Callable[[], Learn] = _tensorflow,
) -> None:
    """Train, seal, report.

    Args:
        run: what to do.
        source: gives the keys.
        operator: is told of progress and results.
        start: loads TensorFlow and returns its number of threads.
        load: loads what trains, before the keys are there.

    Raises:
        OutputExists, InvalidInput, ManifestInvalid: before a key was asked for.
        SecuretrainError: whatever else stopped it.
    """
    with open_places(run) as places:
        files, learned = _train(run, places, source, operator, start, load)
    operator.results(
        ResultsRequest(
            purpose=Purpose.TRAIN,
            files=files,
            metrics=learned.metrics,
            plaintext_sha256=learned.sha256,
        )
    )
    log("results.reported", files=len(files))


def _train(
    run: RunSpec,
    places: Places,
    source: KeySource,
    operator: Operator,
    start: Callable[[], int],
    load: Callable[[], Learn],
) -> tuple[tuple[FileDigest, ...], Learned]:
    dataset, output = open_dataset(run, places.dataset), places.output
    output.check_free(replace=run.replace_output)
    with ProgressPoster(operator.progress) as poster:
        poster.report("loading")
        log("tensorflow.ready", threads=start())
        learn = load()
        keys = source.acquire(run, dataset)
        log("keys.granted", purpose=run.purpose, records=dataset.manifest.total_records)
        # Not before: a pod that gets no keys must not clear the folder of one that has them.
        with output.started():
            learned = learn(run, dataset, keys, poster)
            poster.report("sealing", percentage=100, remaining_seconds=0)
            with output.staged() as folder:
                files = seal_model(folder, run, dataset, keys, learned.weights, learned.metrics)
    return files, learned
