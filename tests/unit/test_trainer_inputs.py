"""Every kind of source, as a real file: sealed, read by the trainer, and learnt from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

from securetrain.api.gateway import ResultsRequest, ResultsResponse
from securetrain.api.names import Purpose, Split
from securetrain.api.types import ModelSpec, OptimizerSpec, TrainingSpec
from securetrain.errors import InvalidInput, ShardCorrupt
from securetrain.sealed.features import Feature, input_shape
from securetrain.sealed.model import parse_model
from securetrain.sealed.sources.base import Record, Source, Wishes
from securetrain.sealed.sources.opening import open_source
from securetrain.sealed.weights import open_weights
from securetrain.sealed.writer import SealOptions, seal
from securetrain.secret import Secret
from securetrain_trainer.certify import run_certification
from securetrain_trainer.export import export
from securetrain_trainer.pipeline import Batches
from securetrain_trainer.shards import SealedSplit
from securetrain_trainer.training import run_training
from support.real_sources import KEY, MAKERS, SIDE
from support.trained import staging
from support.trainer_kit import (
    FakeOperator,
    GivenKeys,
    Wrapper,
    dataset_of,
    policy,
    run_spec,
    signed,
)

pytestmark = pytest.mark.timeout(600)

WISHES = {
    "npz": Wishes(),
    "images": Wishes(),
    "csv": Wishes(label="kind", ignore=("id",)),
    "parquet": Wishes(label="kind", ignore=("id",)),
    "tfrecord": Wishes(label="class"),
    "tfrecord-table": Wishes(categorical=("zone",)),
    "legacy": Wishes(),
}
CERTIFIED = ("images", "csv")
"""One of images and one of tables: from the sealed dataset on, the kind of source is gone."""
MLP = ModelSpec(architecture="mlp", parameters={"hidden": "16", "layers": "1", "dropout": "0"})
ONE_EPOCH = TrainingSpec(
    epochs=1, batch_size=4, seed=3, optimizer=OptimizerSpec(learning_rate=0.02)
)


def sealed(root: Path, kind: str, **changes: Any) -> GivenKeys:
    """Seal a source of a kind as the dataset of `run_spec`."""
    key_file = root / "key"
    key_file.write_bytes(KEY)
    source, _ = open_source(
        MAKERS[kind](root),
        changes.get("wishes", WISHES[kind]),
        legacy_key=key_file if kind == "legacy" else None,
    )
    wrapper = Wrapper()
    options = SealOptions(kek="k", policy=policy(), shard_bytes=8192)
    seal(source, root / "data", options, wrapper)
    return GivenKeys(wrapper.deks, Secret(os.urandom(32)))


@pytest.mark.parametrize("kind", MAKERS)
def test_one_epoch_learns_what_was_sealed(tmp_path: Path, kind: str) -> None:
    keys, operator = sealed(tmp_path, kind), FakeOperator()
    changes: dict[str, Any] = {"model": MLP, "training": ONE_EPOCH}
    run_training(run_spec(tmp_path, **changes), keys, operator, start=lambda: 1)
    assert measured(operator, "valAccuracy") >= 0.75
    if kind not in CERTIFIED:
        return
    spec = run_spec(tmp_path, Purpose.CERTIFY, artefacts=operator.files, gates=(), **changes)
    certified = FakeOperator(evaluated)
    run_certification(spec, keys, certified, start=lambda: 1)
    assert measured(certified, "accuracy") >= 0.75


def measured(operator: FakeOperator, name: str) -> float:
    return next(float(m.value) for m in operator.requests[-1].metrics if m.name == name)


def evaluated(request: ResultsRequest) -> ResultsResponse:
    return signed(request).model_copy(update={"verdict": "evaluated"})


def first_batch(root: Path, keys: GivenKeys, split: Split = Split.TRAIN) -> tuple[Any, Any]:
    dataset = dataset_of(root)
    of = SealedSplit(
        dataset.folder, dataset.manifest.id, split, dataset.indexes[split], keys.deks[split]
    )
    with Batches(of, dataset.manifest, of.records) as batches:
        inputs, labels = next(iter(batches.in_order()))
    return np.asarray(inputs), np.asarray(labels)


def test_encoded_images_come_out_as_their_pixels(tmp_path: Path) -> None:
    keys = sealed(tmp_path, "tfrecord")
    images, labels = first_batch(tmp_path, keys)
    assert images.shape == (len(labels), SIDE, SIDE, 3)
    bands = images.reshape(len(labels), 3, -1).mean(axis=2)
    assert (bands.argmax(axis=1) == labels).all()
    assert images.max() <= 1.0


def test_images_are_scaled_only_where_the_manifest_says_so(tmp_path: Path) -> None:
    keys = sealed(tmp_path, "images", wishes=Wishes(image_size=(6, 9), channels=1))
    manifest = dataset_of(tmp_path).manifest
    assert manifest.features["image"].resize is True
    images, labels = first_batch(tmp_path, keys)
    assert images.shape == (len(labels), 6, 9, 1)
    bands = images.reshape(len(labels), 3, -1).mean(axis=2)
    assert (bands.argmax(axis=1) == labels).all()


class Claiming:
    """A source whose manifest says that no image has to be scaled."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def features(self) -> dict[str, Feature]:
        image = self._source.features["image"].model_copy(update={"resize": None})
        return {**self._source.features, "image": image}


def test_an_image_of_another_size_than_declared_is_refused(tmp_path: Path) -> None:
    source, _ = open_source(MAKERS["images"](tmp_path), Wishes(image_size=(6, 9)))
    wrapper = Wrapper()
    seal(Claiming(source), tmp_path / "data", SealOptions("k", policy()), wrapper)
    with pytest.raises(ShardCorrupt, match="does not fit the features"):
        first_batch(tmp_path, GivenKeys(wrapper.deks, Secret(bytes(32))))


class Garbled:
    """A source whose records are no tf.train.Example, and no text either."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def scan(self) -> Iterator[Record]:
        return (replace(record, example=b"\x80" * 99) for record in self._source.scan())

    def read(self, where: int, span: int) -> bytes:
        return b"\x80" * 99


@pytest.mark.parametrize("kind", ["npz", "tfrecord-table"])
def test_a_record_that_is_no_example_is_refused_without_its_bytes(
    tmp_path: Path, kind: str
) -> None:
    source, _ = open_source(MAKERS[kind](tmp_path), WISHES[kind])
    wrapper = Wrapper()
    seal(Garbled(source), tmp_path / "data", SealOptions("k", policy()), wrapper)
    keys = GivenKeys(wrapper.deks, Secret(bytes(32)))
    with pytest.raises(ShardCorrupt, match="does not fit the features") as caught:
        first_batch(tmp_path, keys)
    assert "\x80" not in str(caught.value)


def test_a_tables_vector_is_in_the_order_of_names(tmp_path: Path) -> None:
    keys = sealed(tmp_path, "csv")
    manifest = dataset_of(tmp_path).manifest
    assert input_shape(manifest.features, manifest.task) == (5,)
    table, _ = first_batch(tmp_path, keys)
    colours, sizes, weights = table[:, :3], table[:, 3], table[:, 4]
    assert manifest.features["colour"].categories == ("blue", "green", "red")
    assert set(colours.sum(axis=1)) == {1.0}
    assert np.isnan(sizes).any()
    assert np.nanmin(sizes) > 900
    assert weights.max() > 100_000


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_quantities_are_scaled_by_the_train_split_and_stored_with_the_sealed_model(
    tmp_path: Path,
) -> None:
    keys, operator = sealed(tmp_path, "csv"), FakeOperator()
    run_training(run_spec(tmp_path, model=MLP, training=ONE_EPOCH), keys, operator, start=lambda: 1)
    folder = staging(tmp_path)
    manifest = parse_model((folder / "model.json").read_bytes())
    weights = open_weights(manifest, (folder / manifest.weights.path).read_bytes(), keys.model)
    stored = safetensors.numpy.load(weights)
    table, _ = first_batch(tmp_path, keys)
    expected = np.where([False, False, False, True, True], np.nanmean(table, axis=0), 0.0)
    assert np.allclose(stored["scale/mean"], expected, rtol=1e-4)
    spread = np.where([False, False, False, True, True], np.nanvar(table, axis=0), 1.0)
    assert np.allclose(stored["scale/variance"], spread, rtol=1e-3)
    for path in (tmp_path / "data" / "dataset.json", folder / "model.json"):
        assert str(int(expected[3])) not in path.read_text()
    export(folder / "model.json", weights, tmp_path / "model.keras")
    opened = keras.models.load_model(tmp_path / "model.keras")
    logits = np.asarray(opened(table))
    assert np.isfinite(logits).all()


def test_a_cnn_is_refused_for_a_table_before_any_key(tmp_path: Path) -> None:
    keys = sealed(tmp_path, "csv")
    spec = run_spec(tmp_path, model=ModelSpec(architecture="cnn"))
    with pytest.raises(InvalidInput, match="is for images"):
        run_training(spec, keys, FakeOperator(), start=lambda: 1)
    assert keys.asked == 0
