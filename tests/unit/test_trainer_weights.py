"""Weights files: the round trip, and the ones that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from securetrain.api.types import ModelSpec
from securetrain.errors import ModelCorrupt
from securetrain_trainer import models
from support.trainer_kit import CLASSES, SIDE

pytestmark = pytest.mark.timeout(600)

SPEC = ModelSpec(architecture="mlp", parameters={"hidden": "4", "layers": "1"})


def good_weights() -> tuple[Any, dict[str, Any]]:
    model = models.build(SPEC, (SIDE, SIDE, 1), CLASSES)
    return model, models.weights_of(model)


def test_weights_survive_a_round_trip() -> None:
    _model, weights = good_weights()
    data = models.dump_weights(weights)
    assert set(weights) == {
        "dense_1/kernel",
        "dense_1/bias",
        "logits/kernel",
        "logits/bias",
    }
    fresh, _ = good_weights()
    models.set_weights(fresh, models.parse_weights(data, fresh))
    for name, array in models.weights_of(fresh).items():
        np.testing.assert_array_equal(array, weights[name])
    assert models.dump_weights(models.weights_of(fresh)) == data


ATTACKS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "huge header": lambda w: (2**63).to_bytes(8, "little") + b"{}",
    "huge tensor": lambda w: _header({"dense_1/kernel": _entry("F32", [2**40, 2**40], [0, 4])}),
    "overlap": lambda w: _header(
        {name: _entry("F32", list(a.shape), [0, a.nbytes]) for name, a in w.items()}
    ),
    "empty": lambda w: b"",
    "wrong type": lambda w: _save({**w, "logits/bias": w["logits/bias"].astype(np.float16)}),
    "integers": lambda w: _save({**w, "logits/bias": np.zeros(CLASSES, np.int32)}),
    "nan": lambda w: _save({**w, "logits/bias": np.full(CLASSES, np.nan, np.float32)}),
    "infinity": lambda w: _save({**w, "logits/bias": np.full(CLASSES, np.inf, np.float32)}),
    "extra": lambda w: _save({**w, "lambda/code": np.zeros(1, np.float32)}),
    "missing": lambda w: _save({k: v for k, v in w.items() if k != "logits/bias"}),
    "shape": lambda w: _save({**w, "logits/bias": np.zeros((CLASSES, 1), np.float32)}),
    "metadata": lambda w: safetensors.numpy.save(w, metadata={"note": "hidden"}),
    "appended": lambda w: _save(w) + b"\0",
    "too long": lambda w: _save(w) + bytes(models.MAX_HEADER + 1),
    "pickle": lambda w: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


def _save(weights: dict[str, Any]) -> bytes:
    return safetensors.numpy.save(weights)


def _entry(dtype: str, shape: list[int], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_weights_file_that_does_not_fit_is_refused(attack: str) -> None:
    model, weights = good_weights()
    with pytest.raises(ModelCorrupt):
        models.parse_weights(ATTACKS[attack](weights), model)
