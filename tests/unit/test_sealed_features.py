"""What dataset.json may say about features; what earlier versions wrote stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from securetrain.errors import ManifestInvalid
from securetrain.sealed.dataset import parse_manifest
from securetrain.sealed.features import Feature, Task, check, input_shape
from support.sealed_folders import sealed_dataset

IMAGE = {"dtype": "uint8", "shape": (8, 8, 3), "encoding": "raw"}
PNG = {**IMAGE, "encoding": "image"}
NUMBER = {"dtype": "float32", "shape": (), "encoding": "float"}
COUNT = {"dtype": "int64", "shape": (), "encoding": "int64"}
COLOUR = {**COUNT, "categories": ("red", "green")}
TASK = Task(kind="classification", classes=2, labels=("a", "b"))


def features(**fields: dict[str, Any]) -> dict[str, Feature]:
    return {name: Feature(**of) for name, of in {"label": COUNT, **fields}.items()}


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"image": IMAGE}, (8, 8, 3)),
        ({"photo": {**PNG, "resize": True}}, (8, 8, 3)),
        ({"x": NUMBER, "c": COLOUR, "v": {**NUMBER, "shape": (4, 2)}, "n": COUNT}, (12,)),
    ],
)
def test_an_image_or_a_table(fields: dict[str, Any], shape: tuple[int, ...]) -> None:
    given = features(**fields)
    check(given, TASK)
    assert input_shape(given, TASK) == shape


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": NUMBER, "x": NUMBER}, "label must be one int64"),
        ({"label": COLOUR, "x": NUMBER}, "label must be one int64"),
        ({"label": {**COUNT, "shape": (2,)}, "x": NUMBER}, "label must be one int64"),
        ({"a": IMAGE, "b": IMAGE}, "only input"),
        ({"a": IMAGE, "x": NUMBER}, "only input"),
        ({"a": {**IMAGE, "shape": (8, 8)}}, "height, width and channels"),
        ({"a": {**PNG, "shape": (8, 8, 2)}}, "1, 3 or 4 channels"),
        ({"a": {**IMAGE, "shape": (65_536, 65_536, 1)}}, "more than"),
        ({"a": {**NUMBER, "shape": (65_536,)}, "b": NUMBER}, "makes 65537 numbers"),
    ],
)
def test_what_nobody_could_train_on(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check(features(**fields), TASK)


@pytest.mark.parametrize(
    "fields",
    [
        {**IMAGE, "encoding": "float"},
        {**NUMBER, "encoding": "int64"},
        {**NUMBER, "resize": True},
        {**IMAGE, "resize": True},
        {**NUMBER, "categories": ("a",)},
        {**COLOUR, "shape": (2,)},
        {**COUNT, "categories": ("a", "a")},
        {**COUNT, "categories": ("a\x1b",)},
        {**COUNT, "categories": ()},
        {**COUNT, "categories": tuple(str(n) for n in range(1001))},
    ],
)
def test_features_that_contradict_themselves(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Feature(**fields)


def test_a_dataset_of_images_reads_and_is_written_as_in_the_first_version(tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    data = (written.folder / "dataset.json").read_bytes()
    value = json.loads(data)
    assert value["features"] == {
        "image": {"dtype": "uint8", "shape": [4, 3, 1], "encoding": "raw"},
        "label": {"dtype": "int64", "shape": [], "encoding": "int64"},
    }
    assert value["task"] == {"kind": "classification", "classes": 3, "labels": ["0", "1", "2"]}
    assert parse_manifest(data) == written.manifest


def test_a_forged_manifest_is_refused(tmp_path: Path) -> None:
    written, _, _ = sealed_dataset(tmp_path)
    value = json.loads((written.folder / "dataset.json").read_bytes())
    value["features"]["x"] = {"dtype": "float32", "shape": [], "encoding": "float"}
    with pytest.raises(ManifestInvalid, match="only input"):
        parse_manifest(json.dumps(value).encode())
