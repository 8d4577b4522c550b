"""The train phase: from a sealed dataset to a sealed model in its staging folder."""

from __future__ import annotations

from collections.abc import Callable

from securetrain.api.gateway import ResultsRequest, RunSpec
from securetrain.api.names import Purpose
from securetrain_trainer.log import log
from securetrain_trainer.phase import open_dataset, place_of
from securetrain_trainer.ports import KeySource, Learn, Operator
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.runtime import prepare_tensorflow
from securetrain_trainer.seal import seal_model
from securetrain_trainer.store import open_folder


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
    dataset = open_dataset(run)
    place = place_of(run)
    place.check_free(replace=run.replace_output)
    with ProgressPoster(operator.progress) as poster:
        poster.report("loading")
        log("tensorflow.ready", threads=start())
        learn = load()
        keys = source.acquire(run, dataset)
        log("keys.granted", purpose=run.purpose, records=dataset.manifest.total_records)
        # Not before: a pod that gets no keys must not clear the folder of one that has them.
        with place.started():
            learned = learn(run, dataset, keys, poster)
            poster.report("sealing", percentage=100, remaining_seconds=0)
            with open_folder(f"{place.parent}/{place.staging}") as folder:
                files = seal_model(folder, run, dataset, keys, learned.weights, learned.metrics)
    operator.results(
        ResultsRequest(
            purpose=Purpose.TRAIN,
            files=files,
            metrics=learned.metrics,
            plaintext_sha256=learned.sha256,
        )
    )
    log("results.reported", files=len(files))
