"""Certified models with a real signature, made by a key that the tests hold.

Both phases are the trainer's own; what they compute is played, so that TensorFlow is not needed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import FileDigest, JobRef, ResultsRequest, ResultsResponse, RunSpec
from securetrain.api.names import Purpose, Split
from securetrain.audit.chain import genesis, line_sha256, make_line
from securetrain.secret import Secret
from securetrain.signing import dsse
from securetrain.signing.bundle import build_bundle
from securetrain.signing.statement import build_statement
from securetrain_trainer.certify import run_certification
from securetrain_trainer.evaluate import Evaluation, measure
from securetrain_trainer.places import place_of
from securetrain_trainer.training import run_training
from support.played_phases import learn
from support.trainer_kit import (
    CLASSES,
    IMAGE,
    SPEC_SHA,
    UID,
    FakeOperator,
    GivenKeys,
    run_spec,
)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Signer:
    """An operator's answer to a certification: it signs what it is told."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    uid: str = UID
    meanwhile: Callable[[], Any] = lambda: None
    """What happens while the operator judges and signs."""

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def write_key(self, path: Path) -> Path:
        path.write_bytes(self.public_pem)
        return path

    def __call__(self, request: ResultsRequest) -> ResultsResponse:
        self.meanwhile()
        line = make_line(
            job_uid=self.uid,
            seq=1,
            prev=genesis("team-a", "rows-v1", self.uid, SPEC_SHA),
            kind="results",
            time="2030-01-01T00:00:00Z",
            data={},
        )
        text = f"{line}\n"
        trail = FileDigest(path="audit.jsonl", sha256=sha256_hex(text.encode()), bytes=len(text))
        claim = {
            "verdict": "certified",
            "job": {
                "namespace": "team-a", "name": "rows-v1", "uid": self.uid, "specSha256": SPEC_SHA,
            },
            "datasetSha256": "0" * 64,
            "trainImage": IMAGE,
            "gates": [],
            "audit": {"records": 1, "head": line_sha256(line)},
        }  # fmt: skip
        payload = build_statement("model", (*request.files, trail), claim)
        signature = self.key.sign(dsse.pae(dsse.INTOTO_TYPE, payload), ec.ECDSA(hashes.SHA256()))
        bundle = build_bundle(payload, signature, self.public_pem)
        return ResultsResponse(verdict="certified", audit=text, bundle=bundle)


def score(_spec: object, _weights: bytes, _dataset: object, _dek: Secret) -> Evaluation:
    """A flawless model, on one record a class."""
    return measure(9.0 * np.eye(CLASSES), np.arange(CLASSES), CLASSES)


@dataclass
class Job:
    """A job whose dataset lies in `root/data`; its model goes to `root/out/model`."""

    root: Path
    keys: GivenKeys
    uid: str = UID
    files: tuple[FileDigest, ...] = ()

    @property
    def staging(self) -> Path:
        place = place_of(self.run())
        return Path(place.parent) / place.staging

    @property
    def final(self) -> Path:
        return self.root / "out" / "model"

    def run(self, purpose: Purpose = Purpose.TRAIN, **changes: Any) -> RunSpec:
        job = JobRef(namespace="team-a", name="rows-v1", uid=self.uid)
        return run_spec(self.root, purpose, job=job, artefacts=self.files, **changes)

    def train(self, **changes: Any) -> None:
        operator = FakeOperator()
        run_training(self.run(**changes), self.keys, operator, lambda: 1, lambda: learn)
        self.files = operator.files

    def certify(self, signer: Signer, **changes: Any) -> FakeOperator:
        operator = FakeOperator(signer)
        self.certify_run(self.run(Purpose.CERTIFY, **changes), operator)
        return operator

    def certify_run(self, run: RunSpec, operator: FakeOperator) -> None:
        run_certification(run, self.keys, operator, lambda: 1, lambda: score)

    def copy(self, root: Path) -> Job:
        """The same job on a copy of its storage."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        keys = GivenKeys(self.keys.deks, self.keys.model)
        return Job(root, keys, self.uid, self.files)


def new_job(root: Path, deks: dict[Split, Secret], uid: str = UID) -> Job:
    """A job with a model key of its own, on the dataset in `root/data`."""
    return Job(root, GivenKeys(deks, Secret(os.urandom(32))), uid)
