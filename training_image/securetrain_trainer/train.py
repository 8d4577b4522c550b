"""The training loop: plain, seeded, with the best weights kept.

An own loop instead of `fit`: its order and randomness are fixed by the seed, its progress is ours
to report, and nothing of it writes to a file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import keras
import tensorflow as tf

from securetrain.api.types import TrainingSpec
from securetrain.errors import InvalidInput
from securetrain_trainer.evaluate import measure, predict
from securetrain_trainer.models import Weights, set_weights, weights_of
from securetrain_trainer.pipeline import Batches

REPORT_EVERY: Final = 2.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the learning curve."""

    number: int
    loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is."""

    epoch: int
    epochs: int
    done: float
    """Share of all steps, 0 … 1."""
    remaining_seconds: int
    shown: Epoch | None
    """The last complete epoch."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The best weights and how training went."""

    weights: Weights
    history: tuple[Epoch, ...]
    best: int
    """Number of the epoch whose weights were kept."""


def train(
    model: Any,
    spec: TrainingSpec,
    training: Batches,
    validation: Batches,
    classes: int,
    report: Callable[[Progress], None],
) -> Trained:
    """Train `model` in place and leave its best weights in it.

    Best is the highest validation accuracy, then the lowest validation loss, then the earliest.

    Args:
        model: from `models.build`, whose weights were made under `seed_everything`.
        spec: epochs, seed and optimizer.
        training: the train split.
        validation: the validation split.
        classes: number of classes.
        report: called about every two seconds and after each epoch.

    Raises:
        InvalidInput: the loss became infinite.
        ShardCorrupt: names the shard.
    """
    step = step_function(model, optimizer_of(spec, spec.epochs * training.per_epoch))
    tracker = _Tracker(spec.epochs, training.per_epoch, report)
    history: list[Epoch] = []
    best: tuple[float, float] = (-1.0, -math.inf)
    weights: Weights = {}
    for number in range(1, spec.epochs + 1):
        loss = _one_epoch(step, training, spec.seed, number, tracker)
        _check_finite(loss, spec)
        shown = measure(*predict(model, validation.in_order()), classes)
        history.append(Epoch(number, loss, shown.loss, shown.accuracy))
        tracker.epoch_done(history[-1])
        if (shown.accuracy, -shown.loss) > best:
            best, weights = (shown.accuracy, -shown.loss), weights_of(model)
    set_weights(model, weights)
    kept = max(history, key=lambda e: (e.validation_accuracy, -e.validation_loss, -e.number))
    return Trained(weights, tuple(history), kept.number)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow; call it before the model is built."""
    keras.utils.set_random_seed(seed)


def optimizer_of(spec: TrainingSpec, steps: int) -> Any:
    """The optimizer that the spec names; its rate falls to a tenth along a cosine over `steps`."""
    rate = keras.optimizers.schedules.CosineDecay(spec.optimizer.learning_rate, steps, alpha=0.1)
    if spec.optimizer.name == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    kinds = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
    return kinds[spec.optimizer.name](rate)


def step_function(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """A compiled step: batch in, mean loss of the batch out."""
    optimizer.build(model.trainable_variables)
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None], tf.int64),
    ]

    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    compiled: Callable[[Any, Any], Any] = tf.function(step, input_signature=signature)
    return compiled


def _one_epoch(
    step: Callable[[Any, Any], Any], batches: Batches, seed: int, number: int, tracker: _Tracker
) -> float:
    """Mean loss over the examples of one epoch."""
    total, count = tf.constant(0.0), 0
    for images, labels in batches.shuffled(seed, number):
        size = int(labels.shape[0])
        total += step(images, labels) * size
        count += size
        tracker.step_done(number)
    return float(total) / count


def _check_finite(loss: float, spec: TrainingSpec) -> None:
    if not math.isfinite(loss):
        raise InvalidInput(
            "training.optimizer.learningRate",
            spec.optimizer.learning_rate,
            "let the loss grow without bound",
            fix="use a smaller learning rate",
        )


class _Tracker:
    """Turns steps into reports at a bearable rate."""

    def __init__(self, epochs: int, steps: int, report: Callable[[Progress], None]) -> None:
        self._epochs = epochs
        self._total = epochs * steps
        self._report = report
        self._done = 0
        self._start = self._last = time.monotonic()
        self._shown: Epoch | None = None

    def step_done(self, epoch: int) -> None:
        self._done += 1
        if time.monotonic() - self._last >= REPORT_EVERY:
            self._send(epoch)

    def epoch_done(self, epoch: Epoch) -> None:
        self._shown = epoch
        self._send(epoch.number)

    def _send(self, epoch: int) -> None:
        self._last = time.monotonic()
        left = (self._last - self._start) * (self._total - self._done) / max(1, self._done)
        self._report(
            Progress(epoch, self._epochs, self._done / self._total, round(left), self._shown)
        )
