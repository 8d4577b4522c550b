"""What a phase needs from outside; tests implement each in a few lines.

Free of TensorFlow: what computes is a port too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from securetrain.api.gateway import ProgressReport, ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Split
from securetrain.api.types import Metric, ModelSpec
from securetrain.sealed.dataset import SealedDataset
from securetrain.secret import Secret
from securetrain_trainer.evaluate import Evaluation
from securetrain_trainer.progress import ProgressPoster


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one pod."""

    splits: Mapping[Split, Secret]
    model: Secret
    wrapped_model_key: str
    """The model's DEK as its KEK wrapped it, for key.json."""


class KeySource(Protocol):
    """Where a pod gets its keys."""

    def acquire(self, run: RunSpec, dataset: SealedDataset) -> Keys:
        """The keys that the run's purpose allows, checked; may be asked once."""
        ...


class Operator(Protocol):
    """Who is told of a phase's progress and results."""

    def progress(self, report: ProgressReport) -> None:
        """Report progress; may raise TryAgain, which harms nothing."""
        ...

    def results(self, request: ResultsRequest) -> ResultsResponse:
        """Report what the phase produced."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What came out: plaintext weights (safetensors), their digest, and the published metrics."""

    weights: bytes
    sha256: str
    metrics: tuple[Metric, ...]


Learn = Callable[[RunSpec, SealedDataset, Keys, ProgressPoster], Learned]
"""Trains; see `learn.learn`."""
Score = Callable[[ModelSpec, bytes, SealedDataset, Secret], Evaluation]
"""Evaluates plaintext weights on the test split; see `score.score`."""
