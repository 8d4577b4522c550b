"""The sealed model's description: its files, and model.json and key.json among them."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from securetrain.api.gateway import MountName, RelativePath, Sha256, WrappedKey
from securetrain.api.types import KekName, Metric, Model, ModelSpec
from securetrain.sealed import features as content
from securetrain.sealed import strict_json
from securetrain.sealed.dataset import Rfc3339
from securetrain.sealed.features import Features, Task

MODEL_FILE: Final = "model.json"
KEY_FILE: Final = "key.json"
WEIGHTS_FILE: Final = "weights.safetensors.sealed"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
AUDIT_FILE: Final = "audit.jsonl"
SIGNATURE_FILE: Final = "model.sig"

MAX_MODEL_BYTES: Final = 1 << 20
MAX_KEY_BYTES: Final = 1 << 13
MAX_WEIGHTS_BYTES: Final = 1 << 30
"""Sealed; a model of the most parameters that are allowed has 0.8 GB."""
MAX_REPORT_BYTES: Final = 1 << 24
MAX_AUDIT_BYTES: Final = 1 << 22

ShortText = Annotated[str, Field(min_length=1, max_length=253)]
ImageText = Annotated[str, Field(min_length=1, max_length=512)]


class ModelJob(Model):
    """The job that trained the model."""

    namespace: ShortText
    name: ShortText
    uid: ShortText
    spec_sha256: Sha256


class ModelDataset(Model):
    """The dataset that the model was trained with."""

    name: ShortText
    id: ShortText
    sha256: Sha256
    """Digest of dataset.json."""
    policy_sha256: Sha256


class SealedWeights(Model):
    """The sealed weights: safetensors, encrypted as a stream."""

    path: RelativePath
    bytes: Annotated[int, Field(ge=56, le=MAX_WEIGHTS_BYTES)]
    """Size of the sealed file."""
    sha256: Sha256
    """Digest of the sealed file."""
    plaintext_sha256: Sha256


class ModelManifest(Model):
    """model.json."""

    format: Literal["securetrain/model/v1"]
    id: ShortText
    """The UID of the job."""
    job: ModelJob
    model: ModelSpec
    """Architecture and parameters: the model is rebuilt from them, never deserialised."""
    features: Features
    task: Task
    dataset: ModelDataset
    key_check: Sha256
    weights: SealedWeights
    train_image: ImageText
    created: Rfc3339
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()
    """Metrics on the validation split, decimals as text."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        content.check(self.features, self.task)
        return self


class KeyFile(Model):
    """key.json: the model's wrapped DEK, and what its derivation context is made of."""

    format: Literal["securetrain/model-key/v1"]
    mount: MountName
    kek: KekName
    wrapped: WrappedKey
    job_uid: ShortText
    policy_sha256: Sha256


def parse_model(data: bytes) -> ModelManifest:
    """Parse model.json; raises ManifestInvalid."""
    return strict_json.parse(ModelManifest, data, name=MODEL_FILE, limit=MAX_MODEL_BYTES)


def dump_model(manifest: ModelManifest) -> bytes:
    """Bytes of model.json."""
    return strict_json.dump(manifest)


def parse_key(data: bytes) -> KeyFile:
    """Parse key.json; raises ManifestInvalid."""
    return strict_json.parse(KeyFile, data, name=KEY_FILE, limit=MAX_KEY_BYTES)


def dump_key(key: KeyFile) -> bytes:
    """Bytes of key.json."""
    return strict_json.dump(key)
