"""The trainer's parts that need TensorFlow, in one file because its import is slow."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose, Split, model_file_associated_data
from securetrain.api.types import Gate, ModelSpec, OptimizerSpec, TrainingSpec
from securetrain.audit.chain import genesis, make_line
from securetrain.errors import (
    AuditBroken,
    GatesMissed,
    InvalidInput,
    ModelCorrupt,
    OutputExists,
    SecuretrainError,
    ShardCorrupt,
    SignatureInvalid,
    VaultUnavailable,
    WrongKey,
)
from securetrain.sealed.model import parse_model
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.secret import Secret
from securetrain_trainer import export, learn, models, training
from securetrain_trainer.certify import run_certification
from securetrain_trainer.pipeline import CYCLE, Batches, record_seed, shard_order
from securetrain_trainer.shards import SealedSplit
from support.sealed_folders import sealed_model
from support.trainer_kit import (
    CLASSES,
    SIDE,
    SPEC_SHA,
    UID,
    FakeOperator,
    GivenKeys,
    dataset_of,
    missed,
    run_spec,
    seal_dataset,
    signed,
)

pytestmark = pytest.mark.timeout(240)

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A dataset and the sealed model that one training run made of it; tests copy it."""
    root = tmp_path_factory.mktemp("trained")
    deks = seal_dataset(root / "data")
    keys = GivenKeys(deks, Secret(os.urandom(32)))
    operator = FakeOperator()
    training.run_training(run_spec(root), keys, operator, start=lambda: 1)
    return Trained(root, keys, operator)


class Trained:
    """What the fixture made."""

    def __init__(self, root: Path, keys: GivenKeys, operator: FakeOperator) -> None:
        self.root, self.keys, self.operator = root, keys, operator

    def copy(self, root: Path) -> Path:
        """A copy to do harm to."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return staging(root)

    def certify_spec(self, root: Path, **changes: Any) -> RunSpec:
        """The certify run of the copy."""
        fields = {"artefacts": self.operator.files, **changes}
        return run_spec(root, Purpose.CERTIFY, **fields)

    def certify(self, root: Path, answer: Any = signed, **changes: Any) -> FakeOperator:
        """Certify the copy."""
        operator = FakeOperator(answer)
        run_certification(self.certify_spec(root, **changes), self.keys, operator, lambda: 1)
        return operator


def staging(root: Path) -> Path:
    return root / "out" / f"model.{UID}.partial"


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- training ---------------------------------------------------------------------------------


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


# --- the data path ------------------------------------------------------------------------------


def split_of(trained: Trained, root: Path, split: Split = Split.TRAIN) -> SealedSplit:
    keys = trained.keys
    dataset = dataset_of(root)
    return SealedSplit(
        dataset.folder, dataset.manifest.id, split, dataset.indexes[split], keys.deks[split]
    )


def open_files() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return [target for target in found if target.startswith("/memfd:shard")]


def digests(batches: Iterator[tuple[Any, Any]]) -> list[str]:
    return [
        hashlib.sha256(np.asarray(x).tobytes() + np.asarray(y).tobytes()).hexdigest()
        for x, y in batches
    ]


def test_order_is_a_function_of_seed_and_epoch(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    split = split_of(trained, trained.root)
    with Batches(split, manifest, 16) as batches:
        first = digests(batches.shuffled(3, 1))
        assert digests(batches.shuffled(3, 1)) == first
        assert digests(batches.shuffled(3, 2)) != first
        assert digests(batches.shuffled(4, 1)) != first
        labels = [int(n) for _, y in batches.shuffled(3, 1) for n in y]
        in_order = [int(n) for _, y in batches.in_order() for n in y]
    assert sorted(labels) == sorted(in_order)
    assert len(labels) == manifest.splits[Split.TRAIN].records
    assert shard_order(5, 3, 1) == shard_order(5, 3, 1)
    assert record_seed(3, 1) != record_seed(3, 2)


def test_images_are_scaled_and_shaped(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    with Batches(split_of(trained, trained.root), manifest, 16) as batches:
        images, labels = next(iter(batches.in_order()))
    assert images.shape == (16, SIDE, SIDE, 1)
    assert 0.5 < float(np.max(images)) <= 1.0
    assert set(np.asarray(labels).tolist()) <= set(range(CLASSES))


def test_no_decrypted_shard_stays_open(trained: Trained) -> None:
    manifest = dataset_of(trained.root).manifest
    split = split_of(trained, trained.root)
    assert len(split.entries) > 4
    with Batches(split, manifest, 16) as batches:
        for _ in batches.in_order():
            # twice (ours and TensorFlow's) the interleaved ones, one more, and one ahead
            assert len(open_files()) <= 2 * (CYCLE + 1) + 1
        assert open_files() == []
        abandoned = batches.in_order()
        next(abandoned)
        assert open_files() != []
    assert open_files() == []


@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "foreign", "missing", "link"])
def test_a_shard_that_was_tampered_with_is_named(
    trained: Trained, tmp_path: Path, harm: str
) -> None:
    trained.copy(tmp_path)
    shards = tmp_path / "data" / "shards"
    victim = shards / sorted(p.name for p in shards.glob("train-*"))[2]
    tamper(harm, victim, tmp_path)
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    named = "shards/train-0000[0-9]" if harm == "swap" else victim.name
    with pytest.raises(ShardCorrupt, match=named) as caught:
        training.run_training(run_spec(tmp_path), keys, FakeOperator(), start=lambda: 1)
    assert caught.value.exit_code == 12
    assert open_files() == []


def tamper(harm: str, victim: Path, root: Path) -> None:
    data = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(data[:90] + bytes([data[90] ^ 1]) + data[91:])
    elif harm == "cut":
        victim.write_bytes(data[:-17])
    elif harm == "swap":
        other = next(p for p in sorted(victim.parent.glob("train-*")) if p != victim)
        victim.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif harm == "foreign":
        seal_dataset(root / "foreign", seed=9)
        victim.write_bytes((root / "foreign" / "shards" / victim.name).read_bytes())
    else:
        victim.unlink()
        if harm == "link":
            aside = root / "aside"
            aside.write_bytes(data)
            victim.symlink_to(aside)


# --- weights ------------------------------------------------------------------------------------

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


# --- certification ------------------------------------------------------------------------------


def test_a_good_model_is_reported_signed_and_published(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    operator = trained.certify(tmp_path)
    assert not staging(tmp_path).exists()
    files = contents(tmp_path / "out" / "model")
    assert set(files) == {
        "model.json", "weights.safetensors.sealed", "policy.json", "key.json",
        "report.json", "report.html", "audit.jsonl", "model.sig",
    }  # fmt: skip
    [request] = operator.requests
    sent = {f.path: f.sha256 for f in request.files}
    assert sent.keys() == files.keys() - {"key.json", "audit.jsonl", "model.sig"}
    for name, digest in sent.items():
        assert digest == hashlib.sha256(files[name]).hexdigest()
    report = json.loads(files["report.json"])
    assert report["verdict"] == "certified"
    told = {m.name: m.value for m in request.metrics}
    assert {m["name"]: m["value"] for m in report["evaluation"]["metrics"]} == told
    assert float(told["accuracy"]) > 0.9
    assert b"Certified" in files["report.html"]
    assert files["model.sig"] == b'{"signed":true}'


def test_a_certify_pod_that_died_anywhere_is_repeated(trained: Trained, tmp_path: Path) -> None:
    folder = trained.copy(tmp_path)
    for name in ("report.json", "audit.jsonl", "model.sig", ".report.html.tmp"):
        (folder / name).write_text("left behind")
    trained.certify(tmp_path)
    first = contents(tmp_path / "out" / "model")
    trained.certify(tmp_path)  # the folder has its final name already
    assert contents(tmp_path / "out" / "model") == first


def test_a_published_model_stays_signed_while_vault_or_the_operator_is_away(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    trained.certify(tmp_path)
    final = tmp_path / "out" / "model"
    first, written = contents(final), (final / "model.sig").stat().st_ino

    def away(*_: object) -> Any:
        raise VaultUnavailable("Vault is away")

    class NoKeys(GivenKeys):
        acquire = away

    keys = NoKeys(trained.keys.deks, trained.keys.model)
    with pytest.raises(VaultUnavailable):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)
    with pytest.raises(VaultUnavailable):
        trained.certify(tmp_path, away)
    trained.certify(tmp_path)
    assert contents(final) == first
    assert (final / "model.sig").stat().st_ino == written


@pytest.mark.parametrize("name", ["report.json", "audit.jsonl", "model.sig", "left"])
def test_what_differs_in_a_published_model_is_done_again(
    trained: Trained, tmp_path: Path, name: str
) -> None:
    trained.copy(tmp_path)
    trained.certify(tmp_path)
    final = tmp_path / "out" / "model"
    first = contents(final)
    (final / name.replace("left", ".report.html.tmp")).write_text("changed")
    trained.certify(tmp_path)
    assert contents(final) == first


def test_only_a_line_feed_ends_an_audit_line(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    first = genesis("team-a", "rows-v1", UID, SPEC_SHA)
    line = make_line(
        job_uid=UID, seq=1, prev=first, kind="x", time="", data={"message": "a\u2028b\x85c"}
    )
    answer = {"audit": line + "\n"}
    trained.certify(tmp_path, lambda r: signed(r).model_copy(update=answer))
    assert contents(tmp_path / "out" / "model")["audit.jsonl"].decode() == line + "\n"


def test_missed_gates_leave_the_model_unsigned(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    gates = (Gate(metric="accuracy", min=1.1),)
    with pytest.raises(GatesMissed, match="accuracy") as caught:
        trained.certify(tmp_path, missed, gates=gates)
    assert caught.value.exit_code == 14
    files = contents(tmp_path / "out" / "model")
    assert "model.sig" not in files
    assert json.loads(files["report.json"])["verdict"] == "gatesMissed"


def test_a_better_model_is_never_replaced_by_one_that_missed(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    final = sealed_model(tmp_path / "out" / "model")
    good = contents(final)
    gates = (Gate(metric="accuracy", min=1.1),)
    with pytest.raises(GatesMissed):
        trained.certify(tmp_path, missed, gates=gates, replace_output=True)
    assert contents(final) == good
    assert (staging(tmp_path) / "report.json").exists()
    trained.certify(tmp_path, replace_output=True)
    assert "model.sig" in contents(final)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model"}


def test_the_operators_verdict_must_be_the_reports(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    with pytest.raises(AuditBroken):
        trained.certify(tmp_path, missed)
    with pytest.raises(SignatureInvalid):
        trained.certify(tmp_path, lambda r: signed(r).model_copy(update={"bundle": None}))
    with pytest.raises(AuditBroken):
        trained.certify(tmp_path, lambda r: signed(r).model_copy(update={"audit": "{}\n"}))
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    "harm", ["flip", "link", "missing", "extra", "policy", "manifest", "folder link"]
)
def test_a_stored_model_that_was_tampered_with_gets_no_key(
    trained: Trained, tmp_path: Path, harm: str
) -> None:
    folder = trained.copy(tmp_path)
    weights = folder / "weights.safetensors.sealed"
    if harm == "flip":
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "link":
        weights.rename(tmp_path / "aside")
        weights.symlink_to(tmp_path / "aside")
    elif harm == "missing":
        weights.unlink()
    elif harm == "extra":
        (folder / "saved_model.pb").write_bytes(b"x")
    elif harm == "policy":
        (folder / "policy.json").write_bytes(b"{}")
    elif harm == "manifest":
        text = (folder / "model.json").read_text()
        (folder / "model.json").write_text(text.replace("rows-v1", "rows-v2"))
    else:
        folder.rename(tmp_path / "aside")
        folder.symlink_to(tmp_path / "aside")
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    with pytest.raises(ModelCorrupt):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)
    assert keys.asked == 0


def test_another_jobs_model_is_refused_even_with_its_own_digests(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    with pytest.raises(ModelCorrupt, match="specSha256"):
        trained.certify(tmp_path, spec_sha256="00" * 32)
    with pytest.raises(ModelCorrupt, match=r"model\.json: model "):
        trained.certify(tmp_path, model=ModelSpec(architecture="mlp"))


def test_a_model_sealed_under_another_key_is_refused(trained: Trained, tmp_path: Path) -> None:
    trained.copy(tmp_path)
    keys = GivenKeys(trained.keys.deks, Secret(os.urandom(32)))
    with pytest.raises(WrongKey):
        run_certification(trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1)


def test_the_final_name_is_checked_before_a_key_is_asked_for(
    trained: Trained, tmp_path: Path
) -> None:
    trained.copy(tmp_path)
    final = tmp_path / "out" / "model"
    final.mkdir()
    (final / "theirs").write_text("x")
    keys = GivenKeys(trained.keys.deks, trained.keys.model)
    phases: list[Callable[[], None]] = [
        lambda: training.run_training(run_spec(tmp_path), keys, FakeOperator(), lambda: 1),
        lambda: run_certification(
            trained.certify_spec(tmp_path), keys, FakeOperator(signed), lambda: 1
        ),
    ]
    for phase in phases:
        with pytest.raises(OutputExists) as caught:
            phase()
        assert caught.value.exit_code == 13
    assert keys.asked == 0


# --- export and metrics -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_a_keras_file_for_people(trained: Trained, tmp_path: Path) -> None:
    import keras

    folder = trained.copy(tmp_path)
    place = model_file_associated_data(UID, "weights.safetensors.sealed")
    sealed = (folder / "weights.safetensors.sealed").read_bytes()
    plain = decrypt_bytes(sealed, trained.keys.model, place)
    export.export(folder / "model.json", plain, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name, array in safetensors.numpy.load(plain).items():
        np.testing.assert_array_equal(models.weights_of(loaded)[name], array)
    assert [p.name for p in tmp_path.glob(".*.keras")] == []
    with pytest.raises(ModelCorrupt):
        export.export(folder / "model.json", plain + b"\0", tmp_path / "other.keras")
    with pytest.raises(SecuretrainError):
        export.export(folder / "model.json", plain, tmp_path / "model.pkl")


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
