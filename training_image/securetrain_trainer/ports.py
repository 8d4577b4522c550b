"""The two things that a phase needs from outside; tests implement them in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from securetrain.api.gateway import ProgressReport, ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Split
from securetrain.sealed.dataset import SealedDataset
from securetrain.secret import Secret


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
