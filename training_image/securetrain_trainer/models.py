"""The built-in architectures, and their weights as plain numbers.

A model is always rebuilt from its spec and then filled with numbers whose names, shapes and types
are known beforehand: nothing that a file says is ever executed or believed. Weight names are
`<layer>/<variable>`, stable over versions of Keras.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from securetrain.api.types import ModelSpec
from securetrain.errors import ModelCorrupt
from securetrain_trainer.parameters import Cnn, Mlp, check_fits
from securetrain_trainer.scale import is_scale

Weights = dict[str, npt.NDArray[np.float32]]
MAX_HEADER: Final = 1 << 20


def build(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> Any:
    """A new Keras model.

    Args:
        spec: architecture and parameters.
        shape: shape of one input, without the batch: [height, width, channels] of an image, or
            [numbers] of a table, which only `mlp` takes. A table's quantities are scaled by what
            `scale.adapt` sets, and a missing one, NaN, counts as the mean.
        classes: number of classes.

    Returns:
        A model from float32 [n, *shape] to logits [n, classes].

    Raises:
        InvalidInput: a parameter is wrong, or the architecture does not fit the input.
    """
    parameters = check_fits(spec, shape, classes)
    layers = _cnn(parameters) if isinstance(parameters, Cnn) else _mlp(parameters)
    layers.append(keras.layers.Dense(classes, name="logits"))
    start = keras.Input(shape, name="input")
    if len(shape) == 3:
        return keras.Sequential([start, *layers], name=spec.architecture)
    scaled = keras.layers.Normalization(name="scale")(start)
    end = keras.ops.where(keras.ops.isnan(scaled), keras.ops.zeros_like(scaled), scaled)
    for layer in layers:
        end = layer(end)
    return keras.Model(start, end, name=spec.architecture)


def _mlp(p: Mlp) -> list[Any]:
    layers: list[Any] = [keras.layers.Flatten(name="flatten")]
    for number in range(1, p.layers + 1):
        layers.append(keras.layers.Dense(p.hidden, activation="relu", name=f"dense_{number}"))
        layers.append(keras.layers.Dropout(p.dropout, name=f"dropout_{number}"))
    return layers


def _cnn(p: Cnn) -> list[Any]:
    def convolution(name: str, filters: int) -> Any:
        return keras.layers.Conv2D(filters, p.kernel, padding="same", activation="relu", name=name)

    return [
        convolution("conv_1", p.filters),
        keras.layers.MaxPooling2D(name="pool_1"),
        convolution("conv_2", p.filters),
        convolution("conv_3", 2 * p.filters),
        keras.layers.MaxPooling2D(name="pool_2"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(p.dense, activation="relu", name="dense"),
        keras.layers.Dropout(p.dropout, name="dropout"),
    ]


def weights_of(model: Any) -> Weights:
    """Copies of all weights by stable name."""
    return {
        f"{layer.name}/{variable.name}": np.array(variable.numpy(), dtype=np.float32)
        for layer in model.layers
        for variable in layer.weights
    }


def set_weights(model: Any, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Put weights, as `weights_of` or `parse_weights` gave them, into a model of that kind."""
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(weights[f"{layer.name}/{variable.name}"])
        if is_scale(layer):
            layer.finalize_state()


def dump_weights(weights: Weights) -> bytes:
    """Weights as a safetensors file, the same bytes for the same numbers."""
    return safetensors.numpy.save(weights)


def parse_weights(data: bytes, model: Any) -> Weights:
    """Read a safetensors file that must hold exactly the weights of `model`.

    Args:
        data: the whole file.
        model: what it must fit.

    Raises:
        ModelCorrupt: too long, malformed, other names, shapes or types, a number that is not
            finite, or bytes besides the numbers.
    """
    expected = {name: array.shape for name, array in weights_of(model).items()}
    limit = 4 * sum(math.prod(shape) for shape in expected.values()) + MAX_HEADER
    if len(data) > limit:
        raise ModelCorrupt(f"the weights have {len(data)} bytes, more than {limit}")
    try:
        found = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError):
        raise ModelCorrupt("the weights are not a safetensors file") from None
    _compare(expected, found)
    if safetensors.numpy.save(found) != data:
        raise ModelCorrupt("the weights' file holds more than its numbers")
    return found


def _compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]) -> None:
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())[0]
        raise ModelCorrupt(f"the weights lack {odd!r:.80}, or have it and should not")
    for name, array in found.items():
        if array.dtype != np.float32:
            raise ModelCorrupt(f"weight {name} is {array.dtype}, not float32")
        if array.shape != expected[name]:
            raise ModelCorrupt(f"weight {name} has shape {array.shape}, not {expected[name]}")
        if not np.isfinite(array).all():
            raise ModelCorrupt(f"weight {name} holds a number that is not finite")
