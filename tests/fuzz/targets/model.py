"""model.json, and the model that it describes."""

from __future__ import annotations

import contextlib

from fuzz.target import Target
from securetrain.errors import InvalidInput
from securetrain.sealed.features import input_shape
from securetrain.sealed.model import ModelManifest, dump_model, parse_model
from securetrain_trainer.parameters import check_fits


def holds(manifest: ModelManifest) -> None:
    """It means the same when written anew, and its model is one that fits, or is refused."""
    assert parse_model(dump_model(manifest)) == manifest
    with contextlib.suppress(InvalidInput):
        check_fits(
            manifest.model,
            input_shape(manifest.features, manifest.task),
            manifest.task.classes,
        )


TARGET = Target(parse_model, names="model.json", holds=holds, json=True)
