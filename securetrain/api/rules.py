"""Rules of a job's spec that need more than a type: what is measured, which parameters there are.

Plain tables and pure checks. The models refuse by them what the CRD refuses by the CEL rules that
`securetrain.api.crd_rules` writes from the same tables, in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

METRICS: Final[Mapping[str, tuple[float, float | None]]] = {
    "accuracy": (0.0, 1.0),
    "loss": (0.0, None),
    "macroRecall": (0.0, 1.0),
    "worstClassAccuracy": (0.0, 1.0),
    "expectedCalibrationError": (0.0, 1.0),
}
"""What the certify phase measures, and between which bounds it can lie."""

SHARES: Final = tuple(name for name, (_, high) in METRICS.items() if high is not None)

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "cnn": ("filters", "kernel", "dense", "dropout"),
    "mlp": ("hidden", "layers", "dropout"),
}
"""Names of the built-in architectures' parameters."""

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "filters": (1, 1024),
    "kernel": (1, 15),
    "dense": (1, 8192),
    "dropout": (0.0, 0.9),
    "hidden": (1, 8192),
    "layers": (1, 16),
}
"""Least and greatest value of each parameter; whole numbers where the bounds are."""

WHOLE: Final = "[0-9]{1,9}"
DECIMAL: Final = r"[0-9]{1,9}(\.[0-9]{1,9})?"
QUALIFIED_NAME: Final = (
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
QUANTITY: Final = r"^[0-9]{1,15}(\.[0-9]{1,9})?([num]|k|[MGTPE]|[KMGTPE]i)?$"
OWN_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
"""Names of a container's resources that have no domain."""

NOT_MEASURED: Final = f"a gate's metric must be one of {', '.join(METRICS)}"
OUT_OF_RANGE: Final = f"bounds of {', '.join(SHARES)} lie between 0 and 1: 0.97, not 97"
NEGATIVE: Final = "a gate's bounds must not be negative: no metric is"
MORE_THAN_LIMIT: Final = "requests must not be above limits: raise the limit, or request less"
RESOURCE_NAME: Final = (
    f"a resource must be {', '.join(OWN_RESOURCES)}, or have a domain, such as nvidia.com/gpu"
)
SELECTOR_KEY: Final = "a key of nodeSelector must be the name of a label, such as example.com/gpu"
VALUE_OF_EXISTS: Final = "a toleration with operator Exists must have no value: leave it away"
KEYLESS: Final = "a toleration without key must have operator Exists: name a key, or use Exists"
SECONDS_WITHOUT_EFFECT: Final = "tolerationSeconds needs effect NoExecute: set it"

_SUFFIXES: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** (i + 1) for i, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (i + 1) for i, suffix in enumerate("KMGTPE")},
}


def unknown_parameter(architecture: str) -> str:
    """What is wrong with a parameter that an architecture does not have."""
    return f"parameters of {architecture} are only {', '.join(PARAMETERS[architecture])}"


def out_of_bounds(parameter: str) -> str:
    """What is wrong with a parameter's value."""
    low, high = BOUNDS[parameter]
    kind = "a whole number" if isinstance(low, int) else "a number"
    return f"{parameter} must be {kind} from {low} to {high}, as text"


def parameters_problem(architecture: str, parameters: Mapping[str, str]) -> str:
    """What is wrong with the parameters of a built-in architecture; empty if nothing is."""
    for name, text in parameters.items():
        if name not in PARAMETERS[architecture]:
            return unknown_parameter(architecture)
        low, high = BOUNDS[name]
        form = WHOLE if isinstance(low, int) else DECIMAL
        if not re.fullmatch(form, text) or not low <= float(text) <= high:
            return out_of_bounds(name)
    return ""


def gate_problem(metric: str, bounds: Iterable[float | None]) -> str:
    """What is wrong with a gate on a metric; empty if nothing is."""
    if metric not in METRICS:
        return NOT_MEASURED
    set_bounds = [bound for bound in bounds if bound is not None]
    if any(bound < 0 for bound in set_bounds):
        return NEGATIVE
    if metric in SHARES and any(bound > 1 for bound in set_bounds):
        return OUT_OF_RANGE
    return ""


def resources_problem(
    requests: Mapping[str, int | str] | None, limits: Mapping[str, int | str] | None
) -> str:
    """What is wrong with a container's resources; empty if nothing is."""
    requests, limits = requests or {}, limits or {}
    for name in (*requests, *limits):
        if name not in OWN_RESOURCES and "/" not in name:
            return RESOURCE_NAME
    both = requests.keys() & limits.keys()
    above = any(quantity(requests[name]) > quantity(limits[name]) for name in both)
    return MORE_THAN_LIMIT if above else ""


def quantity(text: int | str) -> Decimal:
    """The number that a Kubernetes quantity stands for; it must match `QUANTITY`."""
    number = str(text).rstrip("numkKMGTPEi")
    return Decimal(number) * _SUFFIXES[str(text)[len(number) :]]


def toleration_problem(
    *, key: str | None, operator: str | None, value: str | None, effect: str | None, timed: bool
) -> str:
    """What is wrong with a toleration; empty if nothing is."""
    if operator == "Exists" and value:
        return VALUE_OF_EXISTS
    if not key and operator != "Exists":
        return KEYLESS
    if timed and effect != "NoExecute":
        return SECONDS_WITHOUT_EFFECT
    return ""


def selector_problem(keys: Iterable[str]) -> str:
    """What is wrong with the keys of a node selector; empty if nothing is."""
    return "" if all(re.fullmatch(QUALIFIED_NAME, key) for key in keys) else SELECTOR_KEY
