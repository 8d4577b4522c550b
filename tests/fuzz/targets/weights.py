"""A model's weights in safetensors, read for a small model."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fuzz.target import Target
from securetrain.errors import ModelCorrupt

MAX_BYTES = 4096


@cache
def model() -> Any:
    from securetrain.api.types import ModelSpec
    from securetrain_trainer.models import build

    spec = ModelSpec(architecture="mlp", parameters={"hidden": "2", "layers": "1"})
    return build(spec, (2, 2, 1), 2)


def parse(data: bytes) -> Any:
    from securetrain_trainer.models import parse_weights

    return data, parse_weights(data, model())


def holds(value: Any) -> None:
    """The file is the one spelling of these numbers, all of which are finite."""
    from securetrain_trainer.models import dump_weights

    data, weights = value
    assert dump_weights(weights) == data
    assert all(np.isfinite(array).all() for array in weights.values())


TARGET = Target(parse, (ModelCorrupt,), names="weight", holds=holds)
