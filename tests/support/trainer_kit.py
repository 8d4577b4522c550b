"""A small sealed dataset, runs on it, and the trainer's two ports in a few lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from securetrain.api.gateway import (
    Endpoint,
    FileDigest,
    JobRef,
    ProgressReport,
    ResultsRequest,
    ResultsResponse,
    RunSpec,
)
from securetrain.api.names import SPLITS_OF, Purpose, Split
from securetrain.api.types import Gate, ModelSpec, OptimizerSpec, TrainingSpec
from securetrain.audit.chain import genesis, make_line
from securetrain.sealed.dataset import SealedDataset, Task, load_dataset
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.writer import SealOptions, seal
from securetrain.secret import Secret
from securetrain_trainer.ports import Keys

CLASSES = 3
SIDE = 8
UID = "5f0c0f7e-1111-4222-8333-444455556666"
SPEC_SHA = "ab" * 32
WRAPPED = "vault:v1:" + "A" * 80
IMAGE = "builtin@sha256:" + "cd" * 32


def policy(**changes: Any) -> bytes:
    """Bytes of a usage policy."""
    rules = {
        "format": "securetrain/policy/v1",
        "namespaces": ["team-a"],
        "images": ["builtin"],
        "outputKeks": ["team-a-models"],
        "notAfter": "2099-01-01T00:00:00Z",
        **changes,
    }
    return json.dumps(rules).encode()


def source(records: int = 240, seed: int = 1) -> ImageSource:
    """Images whose bright row tells their class, with noise: learnt within an epoch or two."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, records).astype(np.int64)
    images = random.integers(0, 60, (records, SIDE, SIDE, 1)).astype(np.uint8)
    images[np.arange(records), 2 * labels] += 160
    names = tuple(f"class {number}" for number in range(CLASSES))
    return ImageSource(
        images, labels, None, Task(kind="classification", classes=CLASSES, labels=names)
    )


@dataclass
class Wrapper:
    """Keeps the data keys that it is to wrap."""

    deks: dict[Split, Secret] = field(default_factory=dict)

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        self.deks[Split(associated_data.decode().split("|")[1])] = dek
        return WRAPPED


def seal_dataset(
    folder: Path,
    *,
    records: int = 240,
    seed: int = 1,
    wrapper: Any = None,
    mount: str = "transit",
) -> dict[Split, Secret]:
    """Seal a dataset of several shards a split; returns its data keys."""
    used = wrapper or Wrapper()
    options = SealOptions(kek="digits", policy=policy(), transit_mount=mount, shard_bytes=4096)
    seal(source(records, seed), folder, options, used)
    deks: dict[Split, Secret] = used.deks
    return deks


def run_spec(root: Path, purpose: Purpose = Purpose.TRAIN, **changes: Any) -> RunSpec:
    """A run on `root/data` with its output in `root/out/model`."""
    fields: dict[str, Any] = {
        "purpose": purpose,
        "job": JobRef(namespace="team-a", name="rows-v1", uid=UID),
        "dataset_name": "rows",
        "dataset_path": str(root / "data"),
        "model": ModelSpec(architecture="mlp", parameters={"hidden": "16", "layers": "1"}),
        "training": TrainingSpec(
            epochs=3, batch_size=16, seed=5, optimizer=OptimizerSpec(learning_rate=0.01)
        ),
        "gates": (Gate(metric="accuracy", min=0.9),),
        "output_path": str(root / "out" / "model"),
        "model_kek": "team-a-models",
        "transit_mount": "transit",
        "spec_sha256": SPEC_SHA,
        "image": IMAGE,
        "certify_image": IMAGE,
        "gateway": Endpoint(url="https://gateway.test:8443", ca="none"),
        "vault": Endpoint(url="https://vault.test:8200", ca="none"),
    }
    return RunSpec(**{**fields, **changes})


@dataclass
class GivenKeys:
    """A KeySource that has the keys already and counts who asked."""

    deks: dict[Split, Secret]
    model: Secret
    asked: int = 0
    on_acquire: Callable[[], None] = lambda: None

    def acquire(self, run: RunSpec, dataset: SealedDataset) -> Keys:
        self.asked += 1
        self.on_acquire()
        splits = {split: self.deks[split] for split in SPLITS_OF[run.purpose]}
        return Keys(splits, self.model, WRAPPED)


def signed(request: ResultsRequest) -> ResultsResponse:
    """What an operator answers that finds the model good."""
    return ResultsResponse(verdict="certified", audit=audit_text(), bundle='{"signed":true}')


def missed(request: ResultsRequest) -> ResultsResponse:
    """What an operator answers that finds it wanting."""
    return ResultsResponse(
        verdict="gatesMissed", audit=audit_text(), missed=("accuracy 0.5, wanted ≥ 0.9",)
    )


def audit_text(uid: str = UID) -> str:
    """A chain of one record."""
    first = genesis("team-a", "rows-v1", uid, SPEC_SHA)
    line = make_line(
        job_uid=uid, seq=1, prev=first, kind="results", time="2030-01-01T00:00:00Z", data={}
    )
    return line + "\n"


@dataclass
class FakeOperator:
    """Remembers what it is told."""

    answer: Callable[[ResultsRequest], ResultsResponse] = lambda request: ResultsResponse()
    reports: list[ProgressReport] = field(default_factory=list)
    requests: list[ResultsRequest] = field(default_factory=list)

    def progress(self, report: ProgressReport) -> None:
        self.reports.append(report)

    def results(self, request: ResultsRequest) -> ResultsResponse:
        self.requests.append(request)
        return self.answer(request)

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The files of the last results."""
        return self.requests[-1].files


def dataset_of(root: Path) -> SealedDataset:
    """The dataset of `run_spec`."""
    return load_dataset(root / "data")
