"""TensorFlow is the judge of our records: it reads them, and would have written the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from securetrain.sealed.examples import FRAME_BYTES, encode_example, frame

IMAGE = np.arange(28 * 28, dtype=np.uint32).astype(np.uint8)
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


@pytest.mark.parametrize("label", [0, 1, 127, 128, 9999, 2**62, -1])
@pytest.mark.parametrize("size", [0, 1, 119, 127, 128, 784, 16_384, 300_000])
def test_tensorflow_reads_our_example(label: int, size: int) -> None:
    image = np.resize(IMAGE, size).tobytes()
    ours = encode_example({"image": image, "label": label})
    parsed = tf.io.parse_single_example(ours, FEATURES)
    assert parsed["image"].numpy() == image
    assert int(parsed["label"]) == label
    theirs = tf.train.Example.FromString(ours)
    assert theirs.SerializeToString(deterministic=True) == ours


def test_tensorflow_reads_our_frames(tmp_path: Path) -> None:
    records = [encode_example({"image": IMAGE.tobytes(), "label": n}) for n in range(20)]
    records.append(b"")
    file = tmp_path / "records"
    file.write_bytes(b"".join(frame(record) for record in records))
    assert file.stat().st_size == sum(len(record) + FRAME_BYTES for record in records)
    dataset = tf.data.TFRecordDataset(str(file))
    assert list(dataset.as_numpy_iterator()) == records
