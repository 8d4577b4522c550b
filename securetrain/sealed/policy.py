"""The data owner's usage policy: who may train what with a dataset, until when. Pure.

The policy's bytes bind the dataset's data keys, so nobody can loosen it without the owner's Vault
rights. A request is allowed only if no rule denies it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.api.types import (
    CROSSED_BOUNDS,
    NO_BOUND,
    Gate,
    KekName,
    MetricName,
    Model,
    Name,
)
from securetrain.sealed import strict_json
from securetrain.sealed.dataset import POLICY_FILE, Rfc3339

BUILTIN: Final = "builtin"
"""Stands in a policy for the operator's own training image."""
ISOLATION: Final = "networkIsolation"
"""The rule that is about others than the job."""
POLICY_IMAGE: Final = r"^(builtin|sha256:[0-9a-f]{64})$"
DECIMAL: Final = r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$"

PolicyImage = Annotated[str, Field(pattern=POLICY_IMAGE)]
DecimalText = Annotated[str, Field(pattern=DECIMAL)]


class RequiredGate(Model):
    """A gate that a job must have, at least as strict; bounds are decimals as text."""

    metric: MetricName
    min: DecimalText | None = None
    max: DecimalText | None = None

    @model_validator(mode="after")
    def _satisfiable(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(NO_BOUND)
        if self.min is not None and self.max is not None and Decimal(self.min) > Decimal(self.max):
            raise ValueError(CROSSED_BOUNDS)
        return self

    def kept_by(self, gates: Iterable[Gate]) -> bool:
        """True if the job's gates are at least as strict."""
        mine = [gate for gate in gates if gate.metric == self.metric]
        lower = [_decimal(gate.min) for gate in mine if _finite(gate.min)]
        upper = [_decimal(gate.max) for gate in mine if _finite(gate.max)]
        return (self.min is None or any(bound >= Decimal(self.min) for bound in lower)) and (
            self.max is None or any(bound <= Decimal(self.max) for bound in upper)
        )

    @property
    def rule(self) -> str:
        """The gate in words, such as `accuracy ≥ 0.97`."""
        bounds = [("≥", self.min), ("≤", self.max)]
        return " and ".join(f"{self.metric} {sign} {bound}" for sign, bound in bounds if bound)


class UsagePolicy(Model):
    """policy.json."""

    format: Literal["securetrain/policy/v1"]
    namespaces: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    """Namespaces whose jobs may train with the data."""
    images: Annotated[tuple[PolicyImage, ...], Field(min_length=1, max_length=64)]
    """Digests of train images, or `builtin` for the operator's own."""
    output_keks: Annotated[tuple[KekName, ...], Field(min_length=1, max_length=64)]
    """KEKs that may protect a model that was trained with this data."""
    gates: Annotated[tuple[RequiredGate, ...], Field(max_length=64)] = ()
    """Gates that every job must have, at least as strict."""
    not_after: Rfc3339
    """When the permission ends, in UTC; there is always an end."""
    network_isolation: bool = True
    """The pod must be cut off from all but the key gateway, Vault, DNS and the job's storage."""

    @model_validator(mode="after")
    def _real_date(self) -> Self:
        datetime.fromisoformat(self.not_after)
        return self

    @property
    def expires(self) -> float:
        """`not_after` in seconds since the epoch."""
        return datetime.fromisoformat(self.not_after).astimezone(UTC).timestamp()


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """What a job wants to do with the dataset."""

    namespace: str
    image: str
    """The attested train image: a digest, or a reference that ends in `@sha256:…`."""
    builtin: bool
    """True if that is the operator's own image."""
    output_kek: str
    isolated: bool
    """True if every NetworkPolicy that selects the pod keeps it isolated."""
    gates: tuple[Gate, ...]
    now: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One rule that says no."""

    rule: str
    """Field of the policy."""
    field: str
    """What would have to change: a field of the job, or what stands around it."""
    said: str
    """What the job wants."""
    allowed: str
    """What the policy allows."""

    def __str__(self) -> str:
        return f"{self.rule}: the job says {self.said}, the data owner allows {self.allowed}"


def parse_policy(data: bytes) -> UsagePolicy:
    """Parse policy.json; raises ManifestInvalid naming the field."""
    return strict_json.parse(UsagePolicy, data, name=POLICY_FILE, limit=MAX_POLICY_BYTES)


def check(policy: UsagePolicy, request: PolicyRequest) -> tuple[Denial, ...]:
    """Every rule that denies the request; empty if it is allowed."""
    return tuple(_denials(policy, request))


def fix_of(denials: Iterable[Denial]) -> str:
    """What to do about denials."""
    fields = ", ".join(dict.fromkeys(denial.field for denial in denials))
    return f"change {fields}, or ask the data owner for another policy"


def _denials(policy: UsagePolicy, request: PolicyRequest) -> Iterator[Denial]:
    if request.namespace not in policy.namespaces:
        yield Denial(
            "namespaces", "metadata.namespace", request.namespace, _any_of(policy.namespaces)
        )
    if not _image_allowed(policy, request):
        yield Denial("images", "spec.pod.image", request.image, _any_of(policy.images))
    if request.output_kek not in policy.output_keks:
        yield Denial(
            "outputKeks", "spec.output.kek", request.output_kek, _any_of(policy.output_keks)
        )
    for gate in policy.gates:
        if not gate.kept_by(request.gates):
            mine = [entry.rule for entry in request.gates if entry.metric == gate.metric]
            said = f"{gate.metric} {' and '.join(mine)}" if mine else f"nothing of {gate.metric}"
            yield Denial("gates", "spec.certification.gates", said, f"{gate.rule} or stricter")
    if not request.now < policy.expires:
        now = datetime.fromtimestamp(request.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield Denial("notAfter", "the time", now, f"use before {policy.not_after}")
    if policy.network_isolation and not request.isolated:
        yield Denial(ISOLATION, "NetworkPolicies of the namespace", "false", "isolated pods only")


def _image_allowed(policy: UsagePolicy, request: PolicyRequest) -> bool:
    if request.builtin and BUILTIN in policy.images:
        return True
    digest = request.image.rpartition("@")[2]
    return digest.startswith("sha256:") and digest in policy.images


def _any_of(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _finite(bound: float | None) -> bool:
    return bound is not None and math.isfinite(bound)


def _decimal(bound: float | None) -> Decimal:
    """The number that was written: 0.97 is 0.97 and not the nearest binary fraction."""
    return Decimal(repr(bound))
