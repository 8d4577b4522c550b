"""A .npz archive of images, and one whose images' array is any bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np

from fuzz.target import Target, file_of, sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.npz import NpzSource


def parse(data: bytes) -> None:
    with file_of(data, "data.npz") as path:
        sound_source(NpzSource(path, Wishes()))


def views(data: bytes) -> Sequence[bytes]:
    """The archive; and the bytes as one of its arrays, past the archive's checksums."""
    labels = io.BytesIO()
    np.save(labels, np.array([0, 1, 1]))
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("images.npy", data)
        archive.writestr("labels.npy", labels.getvalue())
    return data, whole.getvalue()


TARGET = Target(parse, (InvalidInput,), views=views)
