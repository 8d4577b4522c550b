"""What a phase needs from outside; tests implement each in a few lines.

Free of TensorFlow: what computes is a port too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from securetrain.api.gateway import ProgressReport, ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Split
from securetrain.api.types import Metric, ModelSpec
from securetrain.errors import IntegrityError
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


class ModelFolder(Protocol):
    """A folder that a model is written to and read from."""

    @property
    def path(self) -> str:
        """For messages only."""
        ...

    def read(self, name: str, limit: int, error: type[IntegrityError] = ...) -> bytes:
        """Content of a file of at most `limit` bytes, read once; raises `error` without one."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it appears under its name complete or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove what has this name; absence is fine."""
        ...

    def names(self) -> frozenset[str]:
        """Names of all that is there."""
        ...


class Output(Protocol):
    """Where a model goes: it grows in a folder beside its final one, and appears when complete.

    A pod that has no keys yet changes nothing by it.
    """

    def check_free(self, *, replace: bool) -> None:
        """Raise OutputExists if the final place is taken and may not be replaced."""
        ...

    def is_taken(self) -> bool:
        """True if something other than this job's own model is at the final place."""
        ...

    def started(self) -> AbstractContextManager[None]:
        """An empty staging folder; if the block fails for good, nothing is left of it."""
        ...

    def staged(self) -> AbstractContextManager[ModelFolder]:
        """The staging folder."""
        ...

    def stored(self, *, replace: bool) -> AbstractContextManager[tuple[ModelFolder, bool]]:
        """The folder that holds the job's model, and whether it is at its final place already.

        It is if an earlier certify pod died right after publishing it; whether it is ours is told
        by the digests of its files, not by its name.

        Raises:
            OutputExists: the final place is taken by something else.
            ModelCorrupt: there is none.
        """
        ...

    def publish(self, *, replace: bool) -> None:
        """Move the model from its staging folder to its final place.

        Raises:
            OutputExists: something is there and may not be replaced.
        """
        ...

    def tidy(self) -> None:
        """Remove what an earlier pod, which died while it published, has left beside the model."""
        ...


Learn = Callable[[RunSpec, SealedDataset, Keys, ProgressPoster], Learned]
"""Trains; see `learn.learn`."""
Score = Callable[[ModelSpec, bytes, SealedDataset, Secret], Evaluation]
"""Evaluates plaintext weights on the test split; see `score.score`."""
