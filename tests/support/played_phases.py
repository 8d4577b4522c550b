"""The trainer's own two phases with a model of eight numbers, for pods that are only played."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import (
    Endpoint,
    ProgressReport,
    ResultsRequest,
    ResultsResponse,
    RunSpec,
)
from securetrain.api.names import Purpose, Split
from securetrain.api.types import Metric, ModelSpec
from securetrain.sealed.dataset import SealedDataset
from securetrain.secret import Secret
from securetrain_trainer.certify import run_certification
from securetrain_trainer.evaluate import Evaluation, measure
from securetrain_trainer.gateway import Gateway
from securetrain_trainer.keys import GrantedKeys
from securetrain_trainer.ports import Keys, Learned
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.training import run_training
from securetrain_trainer.transport import Peer

PAUSE: Final = 0.1
Stage = Callable[[str], None]
Check = Callable[[], None]
Address = tuple[str, int]


def play(
    run: RunSpec, token_file: Path, check: Check, stage: Stage, way: tuple[Address, float]
) -> None:
    """Run a phase to its end; raises what the trainer's entrypoint turns into an exit code.

    Args:
        run: what the pod is told, its paths on this machine.
        token_file: the pod's token.
        check: raises when the container is to end.
        stage: called at `asking`, `keys`, `reporting` and `reported`.
        way: where the gateway listens, and the accuracy that is to be measured.
    """
    address, accuracy = way
    gateway = PlayedGateway(run.gateway, token_file, check, address)
    source, operator = _Source(GrantedKeys(gateway), stage), _Operator(gateway, stage)
    if run.purpose is Purpose.TRAIN:
        run_training(run, source, operator, _threads, lambda: learn)
    else:
        run_certification(run, source, operator, _threads, lambda: _scorer(accuracy))


@dataclass(frozen=True, slots=True)
class LocalPeer(Peer):
    """The gateway under its own name and certificate, found on loopback."""

    address: Address = ("", 0)

    def _dial(self, deadline: float) -> socket.socket:
        return socket.create_connection(self.address, timeout=deadline)


class PlayedGateway(Gateway):
    """The trainer's client, which finds the gateway on loopback and waits in short steps."""

    def __init__(
        self, endpoint: Endpoint, token_file: Path, check: Check, address: Address
    ) -> None:
        def pause(_seconds: float) -> None:
            check()
            time.sleep(PAUSE)

        super().__init__(endpoint, token_file=token_file, patience=90.0, sleep=pause)
        peer = self._peer
        self._peer = LocalPeer(peer.host, peer.port, peer.tls, address)


@dataclass(frozen=True, slots=True)
class _Source:
    granted: GrantedKeys
    stage: Stage

    def acquire(self, run: RunSpec, dataset: SealedDataset) -> Keys:
        self.stage("asking")
        keys = self.granted.acquire(run, dataset)
        self.stage("keys")
        return keys


@dataclass(frozen=True, slots=True)
class _Operator:
    gateway: Gateway
    stage: Stage

    def progress(self, report: ProgressReport) -> None:
        self.gateway.progress(report)

    def results(self, request: ResultsRequest) -> ResultsResponse:
        self.stage("reporting")
        answer = self.gateway.results(request)
        self.stage("reported")
        return answer


def learn(run: RunSpec, _dataset: SealedDataset, _keys: Keys, poster: ProgressPoster) -> Learned:
    """Eight numbers that depend on the job alone."""
    seed = int(sha256_hex(run.job.uid.encode())[:8], 16)
    numbers = np.random.default_rng(seed).random(8, dtype=np.float32)
    weights = safetensors.numpy.save({"dense/kernel": numbers})
    poster.report("epoch 1/1", percentage=90, remaining_seconds=0)
    return Learned(weights, sha256_hex(weights), (Metric(name="epoch", value="1"),))


def _scorer(accuracy: float) -> Callable[[ModelSpec, bytes, SealedDataset, Secret], Evaluation]:
    def score(_spec: ModelSpec, weights: bytes, dataset: SealedDataset, _dek: Secret) -> Evaluation:
        assert safetensors.numpy.load(weights)["dense/kernel"].shape == (8,)
        manifest = dataset.manifest
        records, classes = manifest.splits[Split.TEST].records, manifest.task.classes
        labels = np.arange(records, dtype=np.int64) % classes
        wrong = np.arange(records) >= round(accuracy * records)
        logits = np.eye(classes)[(labels + wrong) % classes] * 8.0
        return measure(logits, labels, classes)

    return score


def _threads() -> int:
    return 1
