"""`python -m securetrain_trainer.export MODEL_JSON OUTPUT` writes a .keras file for people.

Plaintext weights (safetensors) come on standard input, so that they are in no argument, variable
or temporary file; the model is rebuilt from model.json. Used by `securetrain open`, on the machine
of whoever may have the model's key.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from securetrain.api.digest import sha256_hex
from securetrain.errors import ExitCode, ModelCorrupt, SecuretrainError, UsageError
from securetrain.sealed import files
from securetrain.sealed.features import input_shape
from securetrain.sealed.model import MAX_MODEL_BYTES, MAX_WEIGHTS_BYTES, parse_model
from securetrain_trainer.parameters import check_fits


def export(model_json: Path, weights: bytes, output: Path) -> None:
    """Write a Keras archive.

    Args:
        model_json: path of the model's model.json.
        weights: plaintext safetensors.
        output: path that ends in `.keras`, in a folder of the caller's own; replaced if it exists.

    Raises:
        UsageError: the output's name does not end in `.keras`.
        ManifestInvalid: model.json is malformed.
        ModelCorrupt: the weights are not the ones that it describes.
    """
    if output.suffix != ".keras":
        raise UsageError(f"{output.name} does not end in .keras.", fix="name it so")
    folder, name = model_json.absolute().parent, model_json.name
    manifest = parse_model(files.read(folder, name, MAX_MODEL_BYTES))
    if sha256_hex(weights) != manifest.weights.plaintext_sha256:
        raise ModelCorrupt("the weights are not the ones that model.json names")
    shape, classes = input_shape(manifest.features, manifest.task), manifest.task.classes
    check_fits(manifest.model, shape, classes)
    from securetrain_trainer.models import build, parse_weights, set_weights  # loads TensorFlow

    model = build(manifest.model, shape, classes)
    set_weights(model, parse_weights(weights, model))
    model.save(output)


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    try:
        if len(arguments) != 2:
            raise UsageError("two arguments are needed: MODEL_JSON OUTPUT")
        weights = sys.stdin.buffer.read(MAX_WEIGHTS_BYTES)
        export(Path(arguments[0]), weights, Path(arguments[1]))
    except SecuretrainError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    return ExitCode.OK


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.exit(main(sys.argv[1:]))
