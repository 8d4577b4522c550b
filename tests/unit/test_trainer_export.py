"""Keras files for people, the metrics of a run, and the models that are built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from securetrain.api.names import model_file_associated_data
from securetrain.api.types import ModelSpec
from securetrain.cli import main as cli
from securetrain.cli import models as commands
from securetrain.errors import ExitCode, InvalidInput, ModelCorrupt, SecuretrainError
from securetrain.sealed.streaming import decrypt_bytes
from securetrain_trainer import export, learn, models
from support.trained import Trained
from support.trainer_kit import CLASSES, SIDE, UID

pytestmark = pytest.mark.timeout(600)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_a_keras_file_for_people(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    folder = trained.copy(tmp_path)
    monkeypatch.setattr(commands, "model_key", lambda *_of: trained.keys.model)
    place = model_file_associated_data(UID, "weights.safetensors.sealed")
    sealed = (folder / "weights.safetensors.sealed").read_bytes()
    plain = decrypt_bytes(sealed, trained.keys.model, place)
    opened = tmp_path / "opened" / "model.keras"
    opened.parent.mkdir()
    assert cli.main(["open", str(folder), str(opened)]) == ExitCode.OK
    assert opened.stat().st_mode & 0o777 == 0o600
    assert list(opened.parent.iterdir()) == [opened]
    loaded = keras.saving.load_model(opened)
    for name, array in safetensors.numpy.load(plain).items():
        np.testing.assert_array_equal(models.weights_of(loaded)[name], array)
    with pytest.raises(ModelCorrupt):
        export.export(folder / "model.json", plain + b"\0", tmp_path / "other.keras")
    with pytest.raises(SecuretrainError):
        export.export(folder / "model.json", plain, tmp_path / "model.pkl")


@pytest.mark.parametrize("suffix", ["keras", "safetensors"])
def test_a_place_that_cannot_be_written_is_named_in_one_line(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    monkeypatch.setattr(commands, "model_key", lambda *_of: trained.keys.model)
    place = tmp_path / "nowhere" / f"model.{suffix}"
    assert cli.main(["open", str(trained.copy(tmp_path)), str(place)]) == ExitCode.CONFIGURATION
    told = " ".join(capsys.readouterr().err.split())
    assert f"{place} cannot be written (No such file or directory)" in told
    assert "see that you may write there" in told


def test_the_curve_stays_within_what_a_manifest_takes() -> None:
    from securetrain_trainer.train import Epoch, Trained

    history = tuple(Epoch(n, 1.0, 1.0, 0.5) for n in range(1, 1001))
    metrics = learn.metrics_of(Trained({}, history, 7))
    assert len(metrics) <= 64
    assert metrics[0].value == "7"
    assert metrics[-1].name == "valAccuracy.1000"


def test_the_cnn_is_built_with_bounded_parameters() -> None:
    spec = ModelSpec(architecture="cnn", parameters={"filters": "4", "dense": "8"})
    model = models.build(spec, (SIDE, SIDE, 1), CLASSES)
    assert model.output_shape == (None, CLASSES)
    with pytest.raises(InvalidInput, match="4×4"):
        models.build(spec, (2, 2, 1), CLASSES)
