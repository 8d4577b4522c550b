"""Records that are cut give what TensorFlow's own parser gives, and all others are left to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.sealed.examples import encode_entry, encode_example, join_entries
from securetrain.sealed.features import Feature
from securetrain_trainer.layout import layout_of

PIXELS = 6
IMAGE = Feature(dtype="uint8", shape=(2, 3, 1), encoding="raw")
LABEL = Feature(dtype="int64", shape=(), encoding="int64")
IMAGE_FIRST = {"image": IMAGE, "label": LABEL}
LABEL_FIRST = {"class": LABEL, "image": IMAGE}
RELAXED = settings(deadline=None)
"""TensorFlow traces on its first call."""


def example(pixels: bytes, label: int) -> bytes:
    return encode_example({"image": pixels, "label": label})


GOOD = example(b"pixels", 3)
HOSTILE = {
    "longer pixels": example(b"pixels!", 3),
    "shorter pixels": example(b"pixel", 3),
    "no pixels": example(b"", 3),
    "a label of two bytes": example(b"pixels", 300),
    "a label of two bytes, with the length of one": example(b"pixel", 300),
    "a negative label": example(b"pixels", -1),
    "features the other way round": join_entries(
        [encode_entry("label", 3), encode_entry("image", b"pixels")]
    ),
    "names exchanged": encode_example({"label": b"pixels", "image": 3}),
    "another name of the same length": encode_example({"imagE": b"pixels", "label": 3}),
    "one more feature": encode_example({"image": b"pixels", "label": 3, "more": 1}),
    "the label twice": join_entries(
        [encode_entry("image", b"pixels"), encode_entry("label", 3), encode_entry("label", 4)]
    ),
    "a label that goes on past the record": GOOD[:-1] + b"\x83",
    "cut": GOOD[:-1],
    "longer": GOOD + b"\x00",
    "empty": b"",
    "noise of the same length": bytes(range(len(GOOD))),
    "floats": encode_example({"image": b"pixels", "label": 3.0}),
}


def parsing(features: dict[str, Feature]) -> Callable[[Any], dict[str, Any]]:
    """TensorFlow's parser, as the trainer uses it."""
    (name,) = (name for name, feature in features.items() if feature.is_image)
    label = next(other for other in features if other != name)
    spec = {
        name: tf.io.FixedLenFeature([], tf.string),
        label: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: Any) -> dict[str, Any]:
        parsed: dict[str, Any] = tf.io.parse_example(serialized, spec)
        parsed[name] = tf.io.decode_raw(parsed[name], tf.uint8)
        return parsed

    return parse


def refuse(_serialized: Any) -> dict[str, Any]:
    """A parser that nothing may be left to: TensorFlow would run it in the middle of a batch."""
    with tf.control_dependencies([tf.debugging.Assert(False, ["was not cut"])]):
        return {
            "image": tf.zeros([1, PIXELS], tf.uint8),
            "label": tf.zeros([1], tf.int64),
        }


def compiled(function: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    made: Callable[[Any], dict[str, Any]] = tf.function(
        function, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    return made


def cutting(
    features: dict[str, Feature], otherwise: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], dict[str, Any]]:
    layout = layout_of(features)
    assert layout is not None
    return compiled(lambda serialized: layout.cut(serialized, otherwise))


CUT_ONLY = cutting(IMAGE_FIRST, refuse)
EITHER = cutting(IMAGE_FIRST, parsing(IMAGE_FIRST))
PARSED = compiled(parsing(IMAGE_FIRST))


def outcome(parse: Callable[[Any], dict[str, Any]], records: list[bytes]) -> object:
    try:
        found = parse(tf.constant(records))
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # its text quotes the record
        return "refused"
    return {name: np.asarray(values).tolist() for name, values in found.items()}


@RELAXED
@given(
    st.lists(
        st.tuples(st.binary(min_size=PIXELS, max_size=PIXELS), st.integers(0, 127)), min_size=1
    )
)
def test_what_was_sealed_is_cut_and_not_parsed(values: list[tuple[bytes, int]]) -> None:
    records = [example(pixels, label) for pixels, label in values]
    assert outcome(CUT_ONLY, records) == outcome(PARSED, records)


@pytest.mark.parametrize("name", HOSTILE)
def test_one_record_of_another_layout_sends_its_batch_to_the_parser(name: str) -> None:
    for records in ([HOSTILE[name]], [GOOD, HOSTILE[name], GOOD], [GOOD, GOOD, HOSTILE[name]]):
        assert outcome(CUT_ONLY, records) == "refused"
        assert outcome(EITHER, records) == outcome(PARSED, records)


@RELAXED
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_what_the_parser_gives(place: int, value: int) -> None:
    changed = GOOD[:place] + bytes([value]) + GOOD[place + 1 :]
    assert outcome(EITHER, [GOOD, changed]) == outcome(PARSED, [GOOD, changed])


def test_the_label_may_come_first() -> None:
    records = [encode_example({"class": n, "image": bytes([n] * PIXELS)}) for n in range(5)]
    cut = outcome(cutting(LABEL_FIRST, parsing(LABEL_FIRST)), records)
    assert cut == outcome(compiled(parsing(LABEL_FIRST)), records)


@pytest.mark.parametrize(
    "other",
    [
        Feature(dtype="uint8", shape=(2, 3, 1), encoding="image"),
        Feature(dtype="float32", shape=(6,), encoding="float"),
        Feature(dtype="int64", shape=(), encoding="int64"),
    ],
)
def test_tables_and_encoded_images_have_no_layout(other: Feature) -> None:
    assert layout_of({"image": other, "label": LABEL}) is None
