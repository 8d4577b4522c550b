"""Parameters of the built-in architectures: text in the job's spec, typed and bounded here.

Free of TensorFlow, so that a wrong parameter is refused before anything slow or secret happens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any, Final

from securetrain.api.rules import BOUNDS
from securetrain.api.types import ModelSpec
from securetrain.errors import InvalidInput

MAX_PARAMETERS: Final = 200_000_000
"""Most numbers that a model may have (0.8 GB of float32)."""


@dataclass(frozen=True, slots=True)
class Cnn:
    """Convolution, pooling, two convolutions (the last twice as wide), pooling, a dense layer."""

    filters: int = 32
    kernel: int = 3
    dense: int = 128
    dropout: float = 0.3


@dataclass(frozen=True, slots=True)
class Mlp:
    """Dense layers of equal width."""

    hidden: int = 128
    layers: int = 2
    dropout: float = 0.2


def parameters_of(spec: ModelSpec) -> Cnn | Mlp:
    """The typed parameters of an architecture, with defaults for what is absent.

    Raises:
        InvalidInput: an unknown parameter, or a value that is no number or out of bounds.
    """
    kind: type[Cnn] | type[Mlp] = Cnn if spec.architecture == "cnn" else Mlp
    known = [field.name for field in fields(kind)]
    for name, text in spec.parameters.items():
        if name not in known:
            raise InvalidInput(
                f"model.parameters.{name}",
                text,
                f"is no parameter of {spec.architecture}",
                fix=f"use only {', '.join(known)}",
            )
    numbers: dict[str, Any] = {name: _number(name, text) for name, text in spec.parameters.items()}
    return kind(**numbers)


def check_fits(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> Cnn | Mlp:
    """The parameters, if the model that they describe fits its input and into memory.

    Args:
        spec: architecture and parameters.
        shape: height, width and channels of an image, or the numbers of a table's record.
        classes: number of classes.

    Raises:
        InvalidInput: it does not, or a parameter is wrong.
    """
    parameters = parameters_of(spec)
    if isinstance(parameters, Cnn) and len(shape) != 3:
        raise InvalidInput(
            "model.architecture",
            spec.architecture,
            "is for images, and the dataset is a table",
            fix="use architecture mlp",
        )
    if isinstance(parameters, Cnn) and min(shape[:2]) < 4:
        raise InvalidInput(
            "model.architecture",
            spec.architecture,
            f"does not fit images of {shape[0]}×{shape[1]}",
            fix="use images of at least 4×4, or architecture mlp",
        )
    count = _weights(parameters, shape, classes)
    if count > MAX_PARAMETERS:
        raise InvalidInput(
            "model.parameters",
            dict(spec.parameters),
            f"make {count:,} weights, more than {MAX_PARAMETERS:,}",
            fix="choose smaller layers",
        )
    return parameters


def _weights(p: Cnn | Mlp, shape: tuple[int, ...], classes: int) -> int:
    """Number of weights, biases aside."""
    if isinstance(p, Mlp):
        return p.hidden * (prod(shape) + (p.layers - 1) * p.hidden + classes)
    height, width, channels = shape
    flat = (height // 4) * (width // 4) * 2 * p.filters
    convolutions = p.kernel**2 * p.filters * (channels + 3 * p.filters)
    return convolutions + (flat + classes) * p.dense


def _number(name: str, text: str) -> int | float:
    low, high = BOUNDS[name]
    whole = isinstance(low, int)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # NaN is outside too
        raise InvalidInput(
            f"model.parameters.{name}",
            text,
            "is not a whole number within bounds" if whole else "is not a number within bounds",
            fix=f"use {low} to {high}",
        )
    return value
