"""TFRecord files are sealed as they are; what a model may see is found in the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import Value, encode_example, frame, parse_example
from securetrain.sealed.sources.base import Seekable
from support.real_sources import SIDE, encoded, picture, tfrecord_images, tfrecord_table
from support.sources import records_of, source_of


def write(path: Path, *examples: dict[str, Value]) -> Path:
    path.write_bytes(b"".join(frame(encode_example(example)) for example in examples))
    return path


def test_records_that_tensorflow_wrote_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "data.tfrecord"
    written = []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(5):
            example = tf.train.Example()
            of = example.features.feature
            of["label"].int64_list.value.append(number % 2)
            of["x"].float_list.value.extend([number, -1.5, 1e30])
            of["big"].int64_list.value.append(-(2**62))
            of["name"].bytes_list.value.append(b"nobody")
            written.append(example.SerializeToString())
            writer.write(written[-1])
    source = source_of(path)
    assert [record.example for record in records_of(source)] == written
    assert isinstance(source, Seekable)
    assert [source.read(r.where, r.span) for r in records_of(source)] == written
    assert source.features["x"].shape == (3,)
    assert set(source.features) == {"x", "big", "label"}
    assert source.notes == ("not declared: name (bytes that are no image)",)


@pytest.mark.parametrize("packed", [True, False])
def test_every_spelling_of_a_list_is_read(packed: bool) -> None:
    example = tf.train.Example()
    example.features.feature["f"].float_list.value.extend([1.5, -2.0])
    example.features.feature["i"].int64_list.value.extend([3, -4, 2**63 - 1])
    data = example.SerializeToString()
    if not packed:  # the same lists, an entry at a time
        floats = b"\x0d" + np.float32(1.5).tobytes() + b"\x0d" + np.float32(-2).tobytes()
        feature = b"\x0a\x01f" + b"\x12\x0c" + b"\x12\x0a" + floats
        integers = b"\x08\x03" + b"\x08" + varint(-4) + b"\x08" + varint(2**63 - 1)
        other = b"\x0a\x01i\x12" + bytes([len(integers) + 2, 0x1A, len(integers)]) + integers
        inner = b"\x0a" + bytes([len(feature)]) + feature + b"\x0a" + bytes([len(other)]) + other
        data = b"\x0a" + bytes([len(inner)]) + inner
    assert tf.train.Example.FromString(data) == example
    found = parse_example(data)
    assert found["f"].tolist() == [1.5, -2.0]  # type: ignore[union-attr]
    assert found["i"] == [3, -4, 2**63 - 1]


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_an_image_stands_alone(tmp_path: Path) -> None:
    source = source_of(tfrecord_images(tmp_path / "a.tfrecord", 9), label="class")
    assert set(source.features) == {"image/encoded", "class"}
    assert source.features["image/encoded"].shape == (SIDE, SIDE, 3)
    assert source.task.label_name == "class"
    assert "image/height (a number beside an image)" in source.notes[0]


def test_the_owner_says_what_is_a_category_a_group_or_nothing(tmp_path: Path) -> None:
    path = tfrecord_table(tmp_path / "a.tfrecord", 30)
    source = source_of(path, categorical=("zone",), ignore=("count",))
    assert source.features["zone"].categories == ("0", "1", "2", "3")
    assert set(source.features) == {"zone", "values", "label"}
    grouped = source_of(path, group="zone")
    assert set(grouped.features) == {"count", "values", "label"}
    assert {record.group for record in records_of(grouped)} == {"0", "1", "2", "3"}


def test_raw_pixels_need_their_size(tmp_path: Path) -> None:
    pixels = [picture(n % 2, n).tobytes() for n in range(6)]
    path = write(tmp_path / "a.tfrecord", *({"p": p, "label": n % 2} for n, p in enumerate(pixels)))
    with pytest.raises(InvalidInput, match="do not fit"):
        source_of(path)
    source = source_of(path, image_size=(SIDE, SIDE), channels=3)
    assert source.features["p"].encoding == "raw"


def test_the_same_image_lies_in_the_same_split_whatever_it_came_in(tmp_path: Path) -> None:
    image = encoded(picture(0, 0))
    one = write(tmp_path / "a.tfrecord", {"i": image, "label": 0}, {"i": image, "label": 1})
    first, second = records_of(source_of(one))
    folder = tmp_path / "images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_bytes(image)
    third, _ = records_of(source_of(folder))
    assert first.content == second.content == third.content


ODD: list[tuple[list[dict[str, Value]], dict[str, Any], str]] = [
    ([{"x": 1.0}], {}, "--label.*is no feature"),
    ([{"x": 1.0, "label": 1.0}], {}, "not one int64"),
    ([{"x": 1.0, "label": 1}, {"x": 1.0}], {}, "not one int64"),
    ([{"x": 1.0, "label": -1}], {}, "out of range"),
    ([{"x": 1.0, "label": 10_000}], {}, "out of range"),
    ([{"label": 1}], {}, "do not fit"),
    ([{"x": b"text", "label": 1}], {}, "do not fit"),
    ([{"x": 1.0, "label": 1}, {"x": 2, "label": 0}], {}, "do not fit"),
    ([{"x": float("inf"), "label": 1}], {}, "do not fit"),
    ([{"x": -1, "label": 1}], {"categorical": ("x",)}, "out of range"),
    (
        [{"x": encoded(picture(0, n, side=9 + n)), "label": n} for n in range(2)],
        {},
        "different sizes",
    ),
    (
        [{"x": encoded(picture(0, n, channels=1 + 2 * n)), "label": n} for n in range(2)],
        {},
        "different channels",
    ),
    ([{"x": encoded(picture(0, 0))[:-9], "label": 1}], {}, "do not fit"),
]


@pytest.mark.parametrize(("examples", "wishes", "says"), ODD)
def test_records_that_do_not_fit(
    tmp_path: Path, examples: list[dict[str, Value]], wishes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        source_of(write(tmp_path / "a.tfrecord", *examples), **wishes)


def test_a_file_that_was_cut_or_changed_is_refused(tmp_path: Path) -> None:
    path = tfrecord_table(tmp_path / "a.tfrecord", 4)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        with pytest.raises(InvalidInput, match=r"a\.tfrecord"):
            source_of(path)
        path.write_bytes(whole[: at + 1])
        with pytest.raises(InvalidInput, match=r"a\.tfrecord"):
            source_of(path)


def test_a_folder_of_files_is_one_dataset(tmp_path: Path) -> None:
    for number in range(3):
        tfrecord_table(tmp_path / f"part-{number}.tfrecord", 10)
    source = source_of(tmp_path)
    assert isinstance(source, Seekable)
    records = records_of(source)
    assert len(records) == 30
    assert all(source.read(record.where, record.span) == record.example for record in records)
