"""A small sealed dataset and model for tests, and a key wrapper that keeps the keys."""

from __future__ import annotations

import base64
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securetrain.api.digest import sha256_hex
from securetrain.api.types import ModelSpec
from securetrain.sealed.dataset import Feature, Task
from securetrain.sealed.model import (
    KEY_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    KeyFile,
    ModelDataset,
    ModelJob,
    ModelManifest,
    SealedWeights,
    dump_key,
    dump_model,
)
from securetrain.sealed.policy import UsagePolicy
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.sources.base import numbered
from securetrain.sealed.strict_json import dump
from securetrain.sealed.writer import Sealed, SealOptions, seal
from securetrain.secret import Secret

POLICY = UsagePolicy(
    format="securetrain/policy/v1",
    namespaces=("team-a",),
    images=("builtin",),
    output_keks=("team-a-models",),
    not_after="2099-01-01T00:00:00Z",
)


@dataclass
class KeptKeys:
    """Wraps by remembering: the wrapped text stands for the key."""

    keys: dict[bytes, Secret] = field(default_factory=dict)

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        self.keys[associated_data] = dek
        return "vault:v1:" + base64.b64encode(len(self.keys).to_bytes(60, "big")).decode()


def write_npz(path: Path, **arrays: NDArray[np.generic]) -> Path:
    """A .npz of the given arrays."""
    np.savez(path, **arrays)
    return path


def digits_source(path: Path, records: int = 300, seed: int = 0) -> ImageSource:
    """Random images of 4×3 with three classes."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (records, 4, 3, 1), dtype=np.uint8)
    labels = random.integers(0, 3, records)
    return ImageSource(images, labels, None, numbered(2, (), field="labels"))


def sealed_dataset(
    path: Path, *, records: int = 300, shard_bytes: int = 4096
) -> tuple[Sealed, ImageSource, KeptKeys]:
    """A sealed dataset under `path`/sealed, its source and its keys."""
    source, wrapper = digits_source(path, records), KeptKeys()
    options = SealOptions(kek="team-a-digits", policy=dump(POLICY), shard_bytes=shard_bytes)
    return seal(source, path / "sealed", options, wrapper), source, wrapper


def repack(path: Path, **members: bytes) -> Path:
    """A .npz whose members have exactly these bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def sealed_model(folder: Path) -> Path:
    """A model's folder with weights that nobody will decrypt."""
    policy, weights = dump(POLICY), b"w" * 100
    manifest = ModelManifest(
        format="securetrain/model/v1",
        id="uid-1",
        job=ModelJob(namespace="team-a", name="digits-v1", uid="uid-1", spec_sha256="0" * 64),
        model=ModelSpec(architecture="cnn"),
        features={
            "image": Feature(dtype="uint8", shape=(28, 28, 1), encoding="raw"),
            "label": Feature(dtype="int64", shape=(), encoding="int64"),
        },
        task=Task(kind="classification", classes=2, labels=("a", "b")),
        dataset=ModelDataset(
            name="digits", id="d", sha256="1" * 64, policy_sha256=sha256_hex(policy)
        ),
        key_check="2" * 64,
        weights=SealedWeights(
            path=WEIGHTS_FILE,
            bytes=100,
            sha256=sha256_hex(weights),
            plaintext_sha256="3" * 64,
        ),
        train_image="builtin@sha256:" + "4" * 64,
        created="2026-01-01T00:00:00Z",
    )
    key = KeyFile(
        format="securetrain/model-key/v1",
        mount="transit",
        kek="team-a-models",
        wrapped="vault:v1:" + "A" * 80,
        job_uid="uid-1",
        policy_sha256=sha256_hex(policy),
    )
    folder.mkdir()
    for name, data in {
        MODEL_FILE: dump_model(manifest),
        KEY_FILE: dump_key(key),
        "policy.json": policy,
        WEIGHTS_FILE: weights,
    }.items():
        (folder / name).write_bytes(data)
    return folder
