"""Real files of every kind that can be sealed, whose classes a small model learns at once."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from securetrain.sealed.examples import encode_example, frame

SIDE = 12
CLASSES = ("cat", "dog", "owl")
COLOURS = ("red", "green", "blue")
KEY = bytes(range(32))
COLUMNS = ("id", "size", "colour", "weight", "kind")


def picture(label: int, number: int, *, side: int = SIDE, channels: int = 3) -> NDArray[np.uint8]:
    """A noisy image with a bright bar where its class has it; no two are the same."""
    random = np.random.default_rng(1000 * label + number)
    pixels = random.integers(0, 50, (side, side, channels)).astype(np.uint8)
    band = side // len(CLASSES)
    pixels[label * band : (label + 1) * band] += 180
    return pixels


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """The pixels as a PNG or JPEG file, written by PIL."""
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(out, kind)
    return out.getvalue()


def image_folder(root: Path, records: int = 90, **changes: Any) -> Path:
    """A folder of class folders, PNG and JPEG by turns."""
    for number in range(records):
        label = number % len(CLASSES)
        kind = ("PNG", "JPEG")[number // len(CLASSES) % 2]
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:04}.{'png' if kind == 'PNG' else 'jpg'}"
        path.write_bytes(encoded(picture(label, number, **changes), kind))
    return root


def rows(records: int = 240) -> Iterator[tuple[str, float | None, str, int, str]]:
    """Rows of a table whose last column follows from size and colour; some sizes are missing."""
    random = np.random.default_rng(7)
    for number in range(records):
        label = int(random.integers(len(CLASSES)))
        size = 1000.0 + 300 * label + random.normal(0, 20)
        colour = COLOURS[label if random.random() < 0.9 else 0]
        weight = int(random.integers(1_000_000))
        yield f"id-{number}", None if number % 15 == 0 else size, colour, weight, CLASSES[label]


def csv_file(path: Path, records: int = 240, separator: str = ",") -> Path:
    """The table as CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=separator)
        writer.writerow(COLUMNS)
        writer.writerows(rows(records))
    return path


def parquet_file(path: Path, records: int = 240) -> Path:
    """The table as Parquet, in row groups of 50, with a column of vectors."""
    columns = list(zip(*rows(records), strict=True))
    table = pa.table(dict(zip(COLUMNS, (list(column) for column in columns), strict=True)))
    vectors = [[float(number % 7), 1.0] for number in range(records)]
    table = table.append_column("vector", pa.array(vectors, pa.list_(pa.float32(), 2)))
    parquet.write_table(table, path, row_group_size=50)
    return path


def tfrecord_images(path: Path, records: int = 90) -> Path:
    """Encoded images and what else such files hold."""
    examples = (
        encode_example(
            {
                "image/encoded": encoded(picture(number % 3, number)),
                "image/filename": f"{number}.png".encode(),
                "image/height": SIDE,
                "class": number % 3,
            }
        )
        for number in range(records)
    )
    path.write_bytes(b"".join(frame(example) for example in examples))
    return path


def tfrecord_table(path: Path, records: int = 240) -> Path:
    """Numbers, several in a feature, a category and a label."""
    random = np.random.default_rng(8)
    frames = []
    for number in range(records):
        label = number % 3
        values = random.normal(label, 0.2, 4).astype(np.float32)
        example = {"values": values, "zone": number % 4, "count": 5 * label, "label": label}
        frames.append(frame(encode_example(example)))
    path.write_bytes(b"".join(frames))
    return path


def npz_file(path: Path, records: int = 120) -> Path:
    """Images and labels as NumPy arrays, compressed."""
    labels = np.arange(records) % len(CLASSES)
    images = np.stack([picture(int(label), n) for n, label in enumerate(labels)])
    np.savez_compressed(path, images=images, labels=labels)
    return path


def legacy(
    content: bytes, *, key: bytes = KEY, twice: bool = False, iv: bytes | None = None
) -> bytes:
    """Content as the plain AES-CBC recipe stores it."""
    padder = PKCS7(128).padder()
    plain = base64.b64encode(content) if twice else content
    padded = padder.update(plain) + padder.finalize()
    iv = iv or os.urandom(16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return base64.b64encode(iv + encryptor.update(padded) + encryptor.finalize())


def legacy_folder(root: Path, records: int = 90) -> Path:
    """The image folder, each file encrypted by the recipe; every other one twice in base64."""
    for number, path in enumerate(sorted(image_folder(root, records).rglob("*.*"))):
        path.with_suffix(".enc").write_bytes(legacy(path.read_bytes(), twice=number % 2 == 0))
        path.unlink()
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda root: npz_file(root / "data.npz"),
    "images": lambda root: image_folder(root / "images"),
    "csv": lambda root: csv_file(root / "data.csv"),
    "parquet": lambda root: parquet_file(root / "data.parquet"),
    "tfrecord": lambda root: tfrecord_images(root / "images.tfrecord"),
    "tfrecord-table": lambda root: tfrecord_table(root / "table.tfrecord"),
    "legacy": lambda root: legacy_folder(root / "legacy"),
}
"""A source of each kind below a folder."""
