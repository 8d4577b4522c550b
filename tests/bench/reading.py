"""What one writes without securetrain: the plaintext pipelines, and the recipe of one by one.

They give the very batches of the sealed pipeline, in its order; `check_same` shows it. Each is made
once and run again for every round, as the sealed one is.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from bench.datasets import BATCH, LARGE_SIDE, SEED, SMALL_SIDE, Twins
from securetrain_trainer.parse import batched
from securetrain_trainer.pipeline import BLOCK, CYCLE, record_seed, shard_order

EPOCH: Final = 1
IV: Final = 16
SPEC: Final = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def sealed(twins: Twins) -> Iterator[Any]:
    """One epoch of the sealed split."""
    return twins.sealed.shuffled(SEED, EPOCH)


def plain_raw(twins: Twins) -> Any:
    """Raw pixels from TFRecord: batches are parsed by parse_example."""

    def parse(serialized: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_example(serialized, SPEC)
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        images = tf.reshape(pixels, [-1, SMALL_SIDE, SMALL_SIDE, 1])
        return tf.cast(images, tf.float32) / 255.0, parsed["label"]

    return _finished(_shuffled_records(twins).batch(BATCH).map(parse))


def plain_jpeg(twins: Twins) -> Any:
    """JPEG from TFRecord: decoded side by side, on as many threads as there are."""

    def decode(serialized: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(serialized, SPEC)
        image = tf.io.decode_jpeg(parsed["image"], channels=3)
        return tf.ensure_shape(image, [LARGE_SIDE, LARGE_SIDE, 3]), parsed["label"]

    threads = tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count()
    decoded = _shuffled_records(twins).map(decode, num_parallel_calls=threads)
    scaled = decoded.batch(BATCH).map(
        lambda image, label: (tf.cast(image, tf.float32) / 255, label)
    )
    return _finished(scaled)


def plain_by_our_parser(twins: Twins) -> Any:
    """TFRecord in plaintext, and from there on what the trainer does with sealed records."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    records = _shuffled_records(twins)
    return _finished(batched(records, twins.manifest, BATCH)).with_options(options)


def recipe(path: Path, key: bytes) -> Iterator[Any]:
    """Batches of images that are decrypted one by one, as `encrypted_one_by_one` wrote them."""
    lines = path.read_bytes().splitlines()
    order = np.random.default_rng(SEED).permutation(len(lines))
    for start in range(0, len(order), BATCH):
        images, labels = [], []
        for number in order[start : start + BATCH]:
            label, token = lines[number].split(b" ")
            labels.append(int(label))
            images.append(np.frombuffer(_opened(token, key), np.uint8))
        pixels = tf.constant(np.stack(images).reshape(-1, SMALL_SIDE, SMALL_SIDE, 1))
        yield tf.cast(pixels, tf.float32) / 255.0, tf.constant(labels, tf.int64)


def _opened(token: bytes, key: bytes) -> bytes:
    content = base64.b64decode(token)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(content[:IV])).decryptor()
    unpadder = PKCS7(128).unpadder()
    padded = decryptor.update(content[IV:]) + decryptor.finalize()
    return base64.b64decode(unpadder.update(padded) + unpadder.finalize())


def drain(epoch: Iterable[Any]) -> None:
    """Take all batches and do nothing with them."""
    for _batch in epoch:
        pass


def check_same(twins: Twins, plain: Callable[[Twins], Any]) -> None:
    """Raise AssertionError unless both sides give the same batches."""
    for ours, theirs in zip(sealed(twins), plain(twins), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if not np.array_equal(one, other):
                raise AssertionError("the sealed and the plaintext batches differ")


def _shuffled_records(twins: Twins) -> Any:
    """Serialized records of one epoch, in the very order of the sealed one."""
    tf.random.set_seed(None)  # it would be mixed into the order
    paths = [twins.plain[index] for index in shard_order(len(twins.plain), SEED, EPOCH)]
    return (
        tf.data.Dataset.from_tensor_slices(paths)
        .interleave(
            tf.data.TFRecordDataset, cycle_length=min(CYCLE, len(paths)), block_length=BLOCK
        )
        .shuffle(twins.records, seed=record_seed(SEED, EPOCH), reshuffle_each_iteration=False)
    )


def _finished(batches: Any) -> Any:
    """Without autotuning, whose threads end late: an epoch's clock would run until they do."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return batches.prefetch(2).with_options(options)
