"""Wires data, model and loop together for one run; everything between the keys and the weights."""

from __future__ import annotations

from typing import Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import RunSpec
from securetrain.api.names import Split
from securetrain.api.types import Metric
from securetrain.sealed.dataset import SealedDataset
from securetrain_trainer.evaluate import decimal
from securetrain_trainer.log import log
from securetrain_trainer.models import build, dump_weights
from securetrain_trainer.phase import shape_of
from securetrain_trainer.pipeline import Batches
from securetrain_trainer.ports import Keys, Learned
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.scale import adapt
from securetrain_trainer.shards import SealedSplit
from securetrain_trainer.train import Epoch, Progress, Trained, seed_everything, train

CURVE_POINTS: Final = 20
"""Most points of the learning curve that are kept with the model."""


def learn(run: RunSpec, dataset: SealedDataset, keys: Keys, poster: ProgressPoster) -> Learned:
    """Train the run's model on the train split, choosing its weights by the validation split.

    Raises:
        ShardCorrupt: names the shard.
        InvalidInput: the loss grew without bound.
    """
    seed_everything(run.training.seed)
    manifest, batch = dataset.manifest, run.training.batch_size
    model = build(run.model, shape_of(manifest), manifest.task.classes)
    log("model.built", parameters=int(model.count_params()))
    with (
        Batches(sealed_split(dataset, keys, Split.TRAIN), manifest, batch) as training,
        Batches(sealed_split(dataset, keys, Split.VALIDATION), manifest, batch) as validation,
    ):
        adapt(model, manifest, training.in_order())
        trained = train(
            model,
            run.training,
            training,
            validation,
            manifest.task.classes,
            lambda progress: _report(progress, poster),
        )
    weights = dump_weights(trained.weights)
    return Learned(weights, sha256_hex(weights), metrics_of(trained))


def sealed_split(dataset: SealedDataset, keys: Keys, split: Split) -> SealedSplit:
    """A split together with the key that opens it."""
    return SealedSplit(
        dataset.folder, dataset.manifest.id, split, dataset.indexes[split], keys.splits[split]
    )


def metrics_of(trained: Trained) -> tuple[Metric, ...]:
    """The kept epoch's measures, then the learning curve as `loss.<epoch>` and so on."""
    best = trained.history[trained.best - 1]
    metrics = [Metric(name="epoch", value=str(best.number)), *_point(best, "")]
    for epoch in curve(trained.history):
        metrics += _point(epoch, f".{epoch.number}")
    return tuple(metrics)


def curve(history: tuple[Epoch, ...]) -> tuple[Epoch, ...]:
    """At most `CURVE_POINTS` epochs, evenly spaced, the last among them."""
    stride = -(-len(history) // CURVE_POINTS)
    return tuple(reversed(history[::-1][::stride]))


def _point(epoch: Epoch, suffix: str) -> list[Metric]:
    values = {
        "loss": epoch.loss,
        "valLoss": epoch.validation_loss,
        "valAccuracy": epoch.validation_accuracy,
    }
    return [Metric(name=name + suffix, value=decimal(value)) for name, value in values.items()]


def _report(progress: Progress, poster: ProgressPoster) -> None:
    shown = progress.shown
    percentage = int(100 * progress.done)
    poster.report(
        f"epoch {progress.epoch}/{progress.epochs}",
        percentage=percentage,
        remaining_seconds=progress.remaining_seconds,
        metrics=tuple(_point(shown, "")) if shown else (),
    )
    log("progress", epoch=progress.epoch, epochs=progress.epochs, percentage=percentage)
