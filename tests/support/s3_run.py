"""A run whose dataset and output lie in a bucket, and its phases with little to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import JobRef, ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Purpose, Split
from securetrain.api.types import Metric, ModelSpec
from securetrain.sealed.dataset import SealedDataset
from securetrain.secret import Secret
from securetrain_trainer.certify import run_certification
from securetrain_trainer.evaluate import Evaluation, measure
from securetrain_trainer.ports import Keys, Learned
from securetrain_trainer.progress import ProgressPoster
from securetrain_trainer.shards import OpenShards, SealedSplit
from securetrain_trainer.training import run_training
from support.buckets import mounted, told, upload
from support.s3_server import S3Server
from support.trainer_kit import (
    UID,
    FakeOperator,
    GivenKeys,
    audit_text,
    run_spec,
    seal_dataset,
    signed,
)

DATASET = "data/digits"
MODEL = "models/m1"
STAGING = f"{MODEL}.{UID}.partial"


@dataclass
class S3Run:
    """A job of which everything is in one bucket."""

    server: S3Server
    bucket: str
    login: str
    keys: GivenKeys
    uid: str = UID
    operator: FakeOperator = field(default_factory=FakeOperator)
    read: int = 0
    """Shards that have been read so far."""

    def spec(self, purpose: Purpose = Purpose.TRAIN, **changes: Any) -> RunSpec:
        storage = told(self.server, self.login)
        return run_spec(
            Path("/nowhere"),
            purpose,
            **{
                "job": JobRef(namespace="team-a", name="rows-v1", uid=self.uid),
                "dataset_path": f"s3://{self.bucket}/{DATASET}",
                "dataset_storage": storage,
                "output_path": f"s3://{self.bucket}/{MODEL}",
                "output_storage": storage,
                **changes,
            },
        )

    def train(self, **changes: Any) -> None:
        run = self.spec(**changes)
        run_training(run, self.keys, self.operator, lambda: 1, lambda: self._learn)

    def certify(
        self, answer: Callable[[ResultsRequest], ResultsResponse] = signed, **changes: Any
    ) -> FakeOperator:
        run = self.spec(Purpose.CERTIFY, artefacts=self.operator.files, **changes)
        audit = {"audit": audit_text(self.uid)}
        operator = FakeOperator(lambda request: answer(request).model_copy(update=audit))
        run_certification(run, self.keys, operator, lambda: 1, lambda: self._score)
        return operator

    def get(self, name: str) -> bytes:
        body: bytes = self.server.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return body

    def put(self, name: str, data: bytes) -> None:
        self.server.client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def remove(self, name: str) -> None:
        self.server.client.delete_object(Bucket=self.bucket, Key=name)

    def files(self, prefix: str) -> dict[str, bytes]:
        start = f"{prefix}/"
        names = self.server.names(self.bucket, start)
        return {name.removeprefix(start): self.get(name) for name in names}

    def _learn(
        self, run: RunSpec, dataset: SealedDataset, keys: Keys, _poster: ProgressPoster
    ) -> Learned:
        for split in (Split.TRAIN, Split.VALIDATION):
            self._read_all(dataset, split, keys.splits[split])
        seed = int(sha256_hex(run.job.uid.encode())[:8], 16)
        numbers = np.random.default_rng(seed).random(8, dtype=np.float32)
        weights = safetensors.numpy.save({"dense/kernel": numbers})
        return Learned(weights, sha256_hex(weights), (Metric(name="epoch", value="1"),))

    def _score(
        self, _spec: ModelSpec, _weights: bytes, dataset: SealedDataset, dek: Secret
    ) -> Evaluation:
        self._read_all(dataset, Split.TEST, dek)
        labels = np.arange(100, dtype=np.int64) % 3
        return measure(np.eye(3)[labels] * 8.0, labels, 3)

    def _read_all(self, dataset: SealedDataset, split: Split, dek: Secret) -> None:
        entries = dataset.indexes[split]
        sealed = SealedSplit(dataset.folder, dataset.manifest.id, split, entries, dek)
        with OpenShards(sealed) as shards:
            for path in shards.walk(range(len(entries))):
                shards.release(path)
                self.read += 1
            if shards.error is not None:
                raise shards.error


def new_run(server: S3Server, root: Path) -> S3Run:
    """Seal a small dataset into a new bucket."""
    deks = seal_dataset(root / "data", records=60)
    bucket = server.bucket()
    upload(server, root / "data", f"s3://{bucket}/{DATASET}")
    keys = GivenKeys(deks, Secret(b"m" * 32))
    return S3Run(server, bucket, mounted(server, root / "login"), keys)
