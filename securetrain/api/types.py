"""The resource `SecureTrainingJob`, v1alpha1, as pydantic models.

The CRD in `crds/` is generated from these models by `securetrain.api.crd`. Python names are
snake_case, names on the wire camelCase. Every default stands here and nowhere else. What the CRD
refuses by a CEL rule or as a duplicate key, the models refuse too, in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from securetrain.api import rules
from securetrain.storage.uri import MAX_URI, URI, StorageUri, parse_uri

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
JOB_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"^{_LABEL}(\.{_LABEL})*$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
IMAGE = r"^[a-z0-9][a-zA-Z0-9./:_-]*@sha256:[0-9a-f]{64}$"
KEK = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
METRIC = r"^[a-z][A-Za-z0-9.]*$"
REASON = r"^[A-Z][A-Za-z0-9]*$"
MAX_JOB_NAME: Final = 50
MAX_GRANTS: Final = 64
"""Grants that a status can show: those of all phases together."""

NO_BOUND: Final = "a gate needs min or max"
CROSSED_BOUNDS: Final = "a gate's min must not be above its max"
NO_FOLDER: Final = (
    "output.uri must name a folder of its claim or bucket, such as pvc://models/digits-v7"
)
STORAGE_REF: Final = "an s3:// uri needs a storageRef, and no other uri may have one"
OVERLAP: Final = "output.uri and a dataset's uri must not lie within one another"

Uri = Annotated[str, Field(pattern=URI, max_length=MAX_URI)]
Name = Annotated[str, Field(pattern=DNS_LABEL, max_length=63)]
Digest = Annotated[str, Field(pattern=DIGEST, max_length=71)]
KekName = Annotated[str, Field(pattern=KEK, max_length=63)]
MetricName = Annotated[str, Field(pattern=METRIC, max_length=63)]
MAX_INT32: Final = 2**31 - 1
Quantity = (
    Annotated[int, Field(ge=0, le=10**15)]
    | Annotated[str, Field(pattern=rules.QUANTITY, max_length=32)]
)
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
Seconds = Annotated[int, Field(ge=0, le=MAX_INT32)]
SomeSeconds = Annotated[int, Field(ge=1, le=MAX_INT32)]


class Model(BaseModel):
    """Base of all wire models: camelCase on the wire, immutable, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready dict with wire names; absent optional fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StorageRef(Model):
    """The name of a storage connection in the operator's settings."""

    name: Name


class DatasetRef(Model):
    """A sealed dataset that the job trains on."""

    name: Name
    uri: Uri
    """Folder of dataset.json: pvc://<claim>/<path> or s3://<bucket>/<prefix>."""
    storage_ref: StorageRef | None = None
    """The storage connection of an s3:// uri."""
    digest: Digest | None = None
    """Pins dataset.json, which pins every shard."""

    @model_validator(mode="after")
    def _has_its_storage(self) -> Self:
        _require_none(_storage_problem(self.uri, self.storage_ref))
        return self

    @property
    def address(self) -> StorageUri:
        """The uri, taken apart."""
        return parse_uri(self.uri)


class ModelSpec(Model):
    """What to train: a built-in architecture and its parameters."""

    architecture: Literal["cnn", "mlp"]
    """A built-in architecture."""
    parameters: Annotated[
        dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)
    ] = {}
    """The architecture's parameters, as text."""


class OptimizerSpec(Model):
    """Optimizer and its learning rate."""

    name: Literal["adam", "sgd", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.001
    """Step size."""


class TrainingSpec(Model):
    """How to train."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Passes over the train split."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Records per step."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of shuffling and initial weights."""
    optimizer: OptimizerSpec = OptimizerSpec()


class Gate(Model):
    """A bound that a metric of the certify phase must keep."""

    metric: MetricName
    """Name as the certify phase reports it, such as accuracy."""
    min: float | None = None
    """The least value that passes."""
    max: float | None = None
    """The greatest value that passes."""

    @model_validator(mode="after")
    def _satisfiable(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(NO_BOUND)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(CROSSED_BOUNDS)
        return self

    def passes(self, value: float) -> bool:
        """True if `value` is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
        )

    @property
    def rule(self) -> str:
        """The gate in words of mathematics, such as `≥ 0.97`."""
        bounds = [("≥", self.min), ("≤", self.max)]
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


class Resources(Model):
    """Container resources."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _require_none(rules.resources_problem(self.requests, self.limits))
        return self


def _measured(gate: Gate) -> Gate:
    _require_none(rules.gate_problem(gate.metric, (gate.min, gate.max)))
    return gate


MeasuredGate = Annotated[Gate, AfterValidator(_measured)]


class CertificationSpec(Model):
    """What a model must show before it is signed as certified."""

    gates: Annotated[tuple[MeasuredGate, ...], Field(max_length=64)] = ()
    """All must pass; without gates a model is signed as evaluated, not as certified."""
    resources: Resources | None = None
    """Resources of the certify pod."""

    @field_validator("gates")
    @classmethod
    def _one_per_metric(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        _require_unique("metric", (gate.metric for gate in gates))
        return gates


class OutputSpec(Model):
    """Where the sealed model goes and which KEK protects its DEK."""

    uri: Uri
    """Folder of the model: pvc://<claim>/<path> or s3://<bucket>/<prefix>."""
    storage_ref: StorageRef | None = None
    """The storage connection of an s3:// uri."""
    kek: KekName
    """Vault transit key, derived, that wraps the model's DEK."""
    if_exists: Literal["Fail", "Replace"] = "Fail"
    """What to do if the folder holds something; checked before any key is granted."""

    @field_validator("uri")
    @classmethod
    def _is_below_the_claim(cls, uri: str) -> str:
        if not parse_uri(uri).path:
            raise ValueError(NO_FOLDER)
        return uri

    @model_validator(mode="after")
    def _has_its_storage(self) -> Self:
        _require_none(_storage_problem(self.uri, self.storage_ref))
        return self

    @property
    def address(self) -> StorageUri:
        """The uri, taken apart."""
        return parse_uri(self.uri)


class Toleration(Model):
    """A toleration of the pod."""

    key: Annotated[str, Field(pattern=rules.QUALIFIED_NAME, max_length=316)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problem = rules.toleration_problem(
            key=self.key,
            operator=self.operator,
            value=self.value,
            effect=self.effect,
            timed=self.toleration_seconds is not None,
        )
        _require_none(problem)
        return self


class LocalRef(Model):
    """A reference by name."""

    name: ObjectName


class ConnectionRef(Model):
    """The name of a connection in the operator's settings."""

    name: Name = "default"


class PodSpec(Model):
    """The curated part of the pod that a user may choose."""

    image: Annotated[str, Field(pattern=IMAGE, max_length=512)] | None = None
    """Train image by digest; the built-in one if absent. Certification never runs in it."""
    image_pull_secrets: Annotated[tuple[LocalRef, ...], Field(max_length=4)] | None = None
    resources: Resources | None = None
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = None
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    priority_class_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None

    @field_validator("node_selector")
    @classmethod
    def _by_labels(cls, selector: dict[str, str] | None) -> dict[str, str] | None:
        _require_none(rules.selector_problem(selector or ()))
        return selector

    @field_validator("image_pull_secrets")
    @classmethod
    def _named_once(cls, secrets: tuple[LocalRef, ...] | None) -> tuple[LocalRef, ...] | None:
        _require_unique("name", (secret.name for secret in secrets or ()))
        return secrets


class JobSpec(Model):
    """`spec` of a SecureTrainingJob; immutable but for `suspend` and the `*Seconds` fields."""

    datasets: Annotated[tuple[DatasetRef, ...], Field(min_length=1, max_length=1)]
    model: ModelSpec
    training: TrainingSpec = TrainingSpec()
    certification: CertificationSpec = CertificationSpec()
    output: OutputSpec
    pod: PodSpec = PodSpec()
    vault_connection_ref: ConnectionRef = ConnectionRef()
    suspend: bool = False
    """Stops the run's pods, or keeps it from starting."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed train pods before the job fails; evictions do not count."""
    starting_deadline_seconds: SomeSeconds | None = None
    """Seconds after creation within which training must have started."""
    active_deadline_seconds: SomeSeconds | None = None
    """Seconds that each phase's Job may run."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds until this object is removed; under GitOps it would come back and train again."""
    child_ttl_seconds_after_finished: Annotated[
        Seconds, Field(alias="childTTLSecondsAfterFinished")
    ] = 86_400
    """Seconds until the finished Jobs and pods are removed."""

    @field_validator("model")
    @classmethod
    def _has_its_parameters(cls, model: ModelSpec) -> ModelSpec:
        _require_none(rules.parameters_problem(model.architecture, model.parameters))
        return model

    @field_validator("output")
    @classmethod
    def _apart_from_datasets(cls, output: OutputSpec, info: ValidationInfo) -> OutputSpec:
        for dataset in info.data.get("datasets", ()):
            one, other = f"{output.uri}/", f"{dataset.uri}/"
            if one.startswith(other) or other.startswith(one):
                raise ValueError(OVERLAP)
        return output

    @property
    def dataset(self) -> DatasetRef:
        """The one dataset."""
        return self.datasets[0]

    @classmethod
    def immutable_fields(cls) -> tuple[str, ...]:
        """Wire names of the fields that identify the run, in the models' order."""
        wire = (str(field.alias) for field in cls.model_fields.values())
        return tuple(name for name in wire if name != "suspend" and "Seconds" not in name)

    def run_content(self) -> dict[str, Any]:
        """The immutable part of the spec, whose digest identifies the run."""
        wire = self.to_wire()
        return {name: wire[name] for name in self.immutable_fields() if name in wire}


class Metric(Model):
    """A named value; a decimal as text, so that canonical JSON never meets a float."""

    name: Annotated[str, Field(max_length=63)]
    value: Annotated[str, Field(max_length=32)]


class GateStatus(Model):
    """The outcome of one gate."""

    metric: str
    rule: str
    value: str
    passed: bool


Phase = Literal["Pending", "Training", "Certifying", "Succeeded", "Failed", "Suspended"]
TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})


def _require_none(problem: str) -> None:
    if problem:
        raise ValueError(problem)


def _storage_problem(uri: str, ref: StorageRef | None) -> str:
    return "" if uri.startswith("s3://") == (ref is not None) else STORAGE_REF


def _require_unique(key: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{key} {value} stands there twice")
        seen.add(value)
