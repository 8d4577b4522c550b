"""A TFRecord file, and records of any bytes in frames that are right."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.target import Target, file_of, sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed.examples import frame
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.tfrecord import TfRecordSource

BREAK = b"\xff\xfe"
"""Parts two records in one input: no tf.train.Example needs it."""


def parse(data: bytes) -> None:
    with file_of(data, "data.tfrecord") as path:
        sound_source(TfRecordSource((path,), Wishes()))


def views(data: bytes) -> Sequence[bytes]:
    """The file; and the bytes as records, past the frames' checksums."""
    return data, b"".join(frame(record) for record in data.split(BREAK))


TARGET = Target(parse, (InvalidInput,), views=views)
