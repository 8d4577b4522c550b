"""What a training run writes, reports and repeats."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from securetrain.api.names import Purpose, model_file_associated_data
from securetrain.api.types import ModelSpec, OptimizerSpec, TrainingSpec
from securetrain.errors import InvalidInput
from securetrain.sealed.model import parse_model
from securetrain.sealed.streaming import decrypt_bytes
from securetrain_trainer import training
from support.trained import Trained, contents, staging
from support.trainer_kit import UID, FakeOperator, run_spec

pytestmark = pytest.mark.timeout(600)


def test_training_leaves_a_sealed_model_and_reports_what_it_wrote(trained: Trained) -> None:
    files = contents(staging(trained.root))
    assert set(files) == {"model.json", "weights.safetensors.sealed", "policy.json", "key.json"}
    [request] = trained.operator.requests
    assert request.purpose is Purpose.TRAIN
    assert {f.path: (f.sha256, f.bytes) for f in request.files} == {
        name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()
    }
    plain = decrypt_bytes(
        files["weights.safetensors.sealed"],
        trained.keys.model,
        model_file_associated_data(UID, "weights.safetensors.sealed"),
    )
    assert request.plaintext_sha256 == hashlib.sha256(plain).hexdigest()
    assert plain not in files["weights.safetensors.sealed"]
    manifest = parse_model(files["model.json"])
    assert manifest.weights.plaintext_sha256 == request.plaintext_sha256
    accuracy = {m.name: m.value for m in manifest.metrics}["valAccuracy"]
    assert float(accuracy) > 0.9


def test_training_reports_progress_up_to_the_end(trained: Trained) -> None:
    reports = trained.operator.reports
    assert [r.sequence for r in reports] == sorted(r.sequence for r in reports)
    assert reports[-1].percentage == 100


def test_training_is_repeatable_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    operator = FakeOperator()
    training.run_training(run_spec(tmp_path), trained.keys, operator, start=lambda: 1)
    assert operator.requests[0].plaintext_sha256 == trained.operator.requests[0].plaintext_sha256
    other = run_spec(tmp_path, training=TrainingSpec(epochs=3, batch_size=16, seed=6))
    training.run_training(other, trained.keys, operator, start=lambda: 1)
    assert operator.requests[1].plaintext_sha256 != operator.requests[0].plaintext_sha256


def test_a_loss_without_bound_is_the_learning_rates_fault(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    wild = TrainingSpec(
        epochs=3, batch_size=8, optimizer=OptimizerSpec(name="sgd", learning_rate=10.0)
    )
    spec = run_spec(
        tmp_path,
        training=wild,
        model=ModelSpec(architecture="mlp", parameters={"hidden": "64", "layers": "16"}),
    )
    with pytest.raises(InvalidInput, match="learningRate"):
        training.run_training(spec, trained.keys, FakeOperator(), start=lambda: 1)
