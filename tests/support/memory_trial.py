"""Run in a process of its own: seals a large source and prints how much memory that took.

    python -m support.memory_trial KIND FOLDER MEBIBYTES LIMIT_MEBIBYTES

The limit holds for the address space beyond what is mapped once all modules are loaded, so that
an allocation beyond it fails at once.
"""

from __future__ import annotations

import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from securetrain.sealed.examples import encode_example, frame
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.opening import open_source
from securetrain.sealed.splits import Fractions
from securetrain.sealed.writer import SealOptions, seal
from support.trainer_kit import Wrapper, policy

MIB = 1 << 20
RECORD = 1 * MIB


def npz(folder: Path, size: int) -> Path:
    """Images of 1 MiB each in one array, written piece by piece."""
    path = folder / "data.npz"
    records = size // RECORD
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            header(member, np.zeros((0, 1024, 1024), np.uint8), (records, 1024, 1024))
            for number in range(records):
                member.write(noise(number))
        with archive.open("labels.npy", "w") as member:
            header(member, np.zeros(0, np.int64), (records,))
            member.write((np.arange(records) % 3).tobytes())
    return path


def header(member: IO[bytes], like: np.ndarray, shape: tuple[int, ...]) -> None:
    """The beginning of a .npy of this shape."""
    fields = {"descr": like.dtype.str, "fortran_order": False, "shape": shape}
    text = repr(fields).encode().ljust(117) + b"\n"
    member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def noise(number: int) -> bytes:
    """1 MiB that no other number gives."""
    return np.random.default_rng(number).bytes(RECORD)


def tfrecord(folder: Path, size: int) -> Path:
    """Records of 16 MiB: four million floats."""
    path = folder / "data.tfrecord"
    with path.open("wb") as stream:
        for number in range(size // (16 * MIB)):
            pixels = noise(number) * 16
            stream.write(frame(encode_example({"p": pixels, "label": number % 3})))
    return path


def parquet(folder: Path, size: int) -> Path:
    """One row group of vectors."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    path = folder / "data.parquet"
    width = 1 << 16
    rows = size // (width * 4)
    values = np.random.default_rng(0).random(rows * width, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
    labels = pa.array([n % 3 for n in range(rows)])
    table = pa.table({"v": vectors, "y": labels})
    pq.write_table(table, path, row_group_size=rows, use_dictionary=["y"], compression="none")
    return path


def csv(folder: Path, size: int) -> Path:
    """Rows of 64 KiB: 64 numbers of a thousand digits each."""
    path = folder / "data.csv"
    digits = [f"0.{number:02}{'1' * 1018}" for number in range(64)]
    with path.open("w") as stream:
        stream.write(",".join((*(f"x{n}" for n in range(64)), "y")) + "\n")
        for row in range(size // (64 << 10)):
            at = row % 64
            stream.write(",".join((*digits[at:], *digits[:at], "abc"[row % 3])) + "\n")
    return path


MAKERS: dict[str, tuple[Callable[[Path, int], Path], Wishes]] = {
    "npz": (npz, Wishes()),
    "tfrecord": (tfrecord, Wishes(image_size=(4096, 4096))),
    "parquet": (parquet, Wishes(label="y")),
    "csv": (csv, Wishes(label="y")),
}


def main(kind: str, folder: str, limit: str) -> None:
    """Seal under a limit of memory; the source is there already."""
    _, wishes = MAKERS[kind]
    if kind == "parquet":
        __import__("pyarrow.parquet")
    path = next(Path(folder).glob("data.*"))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    allowed = mapped + int(limit) * MIB
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    source, _ = open_source(path, wishes)
    options = SealOptions(kek="k", policy=policy(), fractions=Fractions(34, 33, 33))
    seal(source, Path(folder) / "sealed", options, Wrapper())
    print(f"{len(source)} {peak()}")


def peak() -> int:
    """Most bytes that were resident; getrusage would count those of whoever started us too."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
