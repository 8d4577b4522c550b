"""From serialized records to tensors, as dataset.json declares them; what does not fit is refused.

An image becomes height, width and channels in 0…1. A table's record becomes one vector: the
features in the order of their names, a quantity as it is (NaN where it is missing), a category as
one number for each of its values, of which one is 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from securetrain.sealed.dataset import Manifest
from securetrain.sealed.features import Feature, image_name, input_shape, inputs
from securetrain_trainer.layout import layout_of

Batch = tuple[Any, Any]
"""Inputs, float32 [n, …] as `input_shape` says, and labels, int64 [n]."""
Parser = Callable[[Any], Batch]


def batched(records: Any, manifest: Manifest, batch: int) -> Any:
    """A dataset of batches from a dataset of serialized tf.train.Example, in the same order."""
    name = encoded_image(manifest)
    if name is None:
        return records.batch(batch).map(parser(manifest))
    # Decoding is what costs, so images are decoded side by side, and are bytes until then.
    decoded = records.map(_decoder(name, manifest), num_parallel_calls=_threads())
    classes = manifest.task.classes
    return decoded.batch(batch).map(
        lambda images, labels: (_scaled(images), _in_range(labels, classes, "label out of range"))
    )


def encoded_image(manifest: Manifest) -> str | None:
    """Name of the feature that is a PNG or JPEG; None if there is none."""
    name = image_name(manifest.features, manifest.task)
    return name if name and manifest.features[name].encoding == "image" else None


def parser(manifest: Manifest) -> Parser:
    """A function from serialized records [n] to a batch, for all but encoded images."""
    image = image_name(manifest.features, manifest.task)
    values = _values(manifest, image)
    label, classes = manifest.task.label_name, manifest.task.classes

    def parse(serialized: Any) -> Batch:
        parsed = values(serialized)
        labels = _in_range(parsed[label], classes, "label out of range")
        if image is None:
            return _table(parsed, manifest), labels
        shape = manifest.features[image].shape
        return _scaled(tf.reshape(parsed[image], [tf.shape(labels)[0], *shape])), labels

    return parse


def _values(manifest: Manifest, image: str | None) -> Callable[[Any], dict[str, Any]]:
    """A function from serialized records [n] to the values of their features."""
    spec, layout = _spec(manifest, image), layout_of(manifest.features)

    def parse(serialized: Any) -> dict[str, Any]:
        parsed: dict[str, Any] = tf.io.parse_example(serialized, spec)
        if image is not None:
            parsed[image] = tf.io.decode_raw(parsed[image], tf.uint8)
        return parsed

    return parse if layout is None else lambda serialized: layout.cut(serialized, parse)


def _decoder(name: str, manifest: Manifest) -> Parser:
    """A function from one serialized record to its image, 0…255, and its label."""
    spec, feature = _spec(manifest, name), manifest.features[name]
    height, width, channels = feature.shape

    def decode(serialized: Any) -> Batch:
        parsed = tf.io.parse_single_example(serialized, spec)
        image = tf.io.decode_image(parsed[name], channels, expand_animations=False)
        if feature.resize:
            image = tf.ensure_shape(image, [None, None, channels])
            image = tf.image.resize(image, [height, width], antialias=True)
        else:
            image = tf.ensure_shape(image, feature.shape)
        return image, parsed[manifest.task.label_name]

    return decode


def _spec(manifest: Manifest, image: str | None) -> dict[str, Any]:
    names = [image] if image else list(inputs(manifest.features, manifest.task))
    label = manifest.task.label_name
    return {name: _parsed_as(manifest.features[name]) for name in (*names, label)}


def _parsed_as(feature: Feature) -> Any:
    if feature.is_image:
        return tf.io.FixedLenFeature([], tf.string)
    kind = tf.float32 if feature.encoding == "float" else tf.int64
    return tf.io.FixedLenFeature(feature.shape, kind)


def _table(parsed: dict[str, Any], manifest: Manifest) -> Any:
    columns = []
    for name, feature in inputs(manifest.features, manifest.task).items():
        if feature.categories:
            depth = len(feature.categories)
            index = _in_range(parsed[name], depth, "category out of range")
            columns.append(tf.one_hot(index, depth))
        else:
            columns.append(tf.reshape(tf.cast(parsed[name], tf.float32), [-1, feature.values]))
    (width,) = input_shape(manifest.features, manifest.task)
    return tf.ensure_shape(tf.concat(columns, axis=1), [None, width])


def _in_range(values: Any, count: int, problem: str) -> Any:
    within = tf.reduce_all((values >= 0) & (values < count))
    with tf.control_dependencies([tf.debugging.Assert(within, [problem])]):
        return tf.identity(values)


def _scaled(pixels: Any) -> Any:
    return tf.cast(pixels, tf.float32) / 255.0


def _threads() -> int:
    threads: int = tf.config.threading.get_inter_op_parallelism_threads()
    return threads or len(os.sched_getaffinity(0))
