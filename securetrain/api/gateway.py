"""The key gateway's protocol: what a pod is told, what it asks for, and what it gets.

`RunSpec` travels in the pod's own spec (environment variable `SECURETRAIN_RUN`, JSON), so it is
part of what the gateway attests. The other models are the JSON bodies of `POST /v1/grants`,
`/v1/progress` and `/v1/results`. Errors are RFC 9457 problem documents with `reason` from
`securetrain.errors`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Base64Bytes, Field

from securetrain.api.names import Purpose, Split
from securetrain.api.status import DatasetStatus
from securetrain.api.types import (
    Gate,
    KekName,
    Metric,
    Model,
    ModelSpec,
    TrainingSpec,
)

SHA256_HEX = r"^[0-9a-f]{64}$"
WRAPPED = r"^vault:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{80}$"
"""Vault's form of a wrapped DEK: 60 bytes (nonce, key, tag) in base64, which need no padding."""
RELATIVE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
MOUNT = r"^[A-Za-z0-9_-]+$"
MAX_POLICY_BYTES = 65_536
MAX_BODY_BYTES = 262_144

Sha256 = Annotated[str, Field(pattern=SHA256_HEX)]
WrappedKey = Annotated[str, Field(pattern=WRAPPED)]
RelativePath = Annotated[str, Field(pattern=RELATIVE_PATH, max_length=256)]
MountName = Annotated[str, Field(pattern=MOUNT, max_length=63)]


class JobRef(Model):
    """The SecureTrainingJob that a pod works for."""

    namespace: str
    name: str
    uid: str


class Endpoint(Model):
    """An HTTPS endpoint and the PEM bundle of certificates that it is trusted by."""

    url: str
    ca: str


class ObjectStorage(Model):
    """An S3 server as a pod is told of it: never a key, but the folder where kubelet put them."""

    name: str
    """Of the connection, for messages."""
    endpoint: str
    region: str
    ca: str | None = None
    """PEM bundle; the system's roots if absent."""
    credentials: str
    """Absolute path, in the pod, of the mounted Secret."""


class FileDigest(Model):
    """One file of a model folder."""

    path: RelativePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class RunSpec(Model):
    """All that a pod is told: its job, resolved by the operator."""

    purpose: Purpose
    job: JobRef
    dataset_name: str
    dataset_path: str
    """Absolute path of the dataset's folder in the pod, or, with `dataset_storage`, its address."""
    dataset_storage: ObjectStorage | None = None
    dataset_digest: str | None = None
    """`sha256:…` of dataset.json, if the job pins it."""
    model: ModelSpec
    training: TrainingSpec
    gates: tuple[Gate, ...] = ()
    output_path: str
    """Absolute path, in the pod, of the model's final folder, or, with `output_storage`, its
    address; the model appears complete or not at all."""
    output_storage: ObjectStorage | None = None
    replace_output: bool = False
    model_kek: KekName
    transit_mount: MountName
    artefacts: tuple[FileDigest, ...] = ()
    """For certify: the files that the train phase reported."""
    spec_sha256: Sha256
    image: str
    """The train image, as `builtin@sha256:…` or the job's own reference."""
    certify_image: str
    gateway: Endpoint
    vault: Endpoint


class WrappedDek(Model):
    """A wrapped DEK as it stands in keys.json."""

    mount: MountName
    kek: KekName
    wrapped: WrappedKey


class GrantRequest(Model):
    """`POST /v1/grants`: the pod asks for its keys, with the very policy bytes that it hashed."""

    purpose: Purpose
    dataset_sha256: Sha256
    dataset: DatasetStatus
    """Id and number of records as the manifest says; for status only, nothing is decided by it."""
    policy: Annotated[Base64Bytes, Field(max_length=2 * MAX_POLICY_BYTES)]
    keys: dict[Split, WrappedDek]


class KeyGrant(Model):
    """A single-use response-wrapping token for one key, and how to recognise it."""

    name: Annotated[str, Field(pattern=r"^(train|validation|test|model)$")]
    token: str
    creation_path: str
    creation_time: str
    ttl: int

    def __repr__(self) -> str:
        return f"KeyGrant(name={self.name!r}, token=…)"

    __str__ = __repr__


class GrantResponse(Model):
    """The pod's keys, one wrapping token each."""

    keys: tuple[KeyGrant, ...]
    wrapped_model_key: str
    """The model's DEK as wrapped by its KEK, for key.json."""


class ProgressReport(Model):
    """`POST /v1/progress`; answered 204."""

    sequence: Annotated[int, Field(ge=0)]
    summary: Annotated[str, Field(max_length=64)]
    percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()


class ResultsRequest(Model):
    """`POST /v1/results`: what a phase produced.

    The train phase names every file that it wrote. The certify phase names every file of the folder
    that is to be signed, but for `audit.jsonl`, which the answer brings, and the unsigned
    `key.json` and `model.sig`.
    """

    purpose: Purpose
    files: Annotated[tuple[FileDigest, ...], Field(max_length=1024)]
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()
    plaintext_sha256: Sha256 | None = None
    """SHA-256 of the plaintext weights."""


class ResultsResponse(Model):
    """The answer to results: empty for train; verdict, trail and signature for certify."""

    verdict: Literal["certified", "evaluated", "gatesMissed"] | None = None
    audit: str | None = None
    """Text of audit.jsonl."""
    bundle: str | None = None
    """Text of model.sig."""
    missed: tuple[str, ...] = ()
    """One line per missed gate."""


class Problem(Model):
    """RFC 9457 problem document."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str
