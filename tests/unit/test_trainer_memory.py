"""Reading a dataset takes as much memory as a few of its shards, however many there are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from securetrain.api.names import Split
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.sources.base import numbered
from securetrain.sealed.splits import Fractions
from securetrain.sealed.streaming import Buffers
from securetrain.sealed.writer import SealOptions, seal
from securetrain.secret import Secret
from securetrain_trainer import pipeline, shards
from securetrain_trainer.pipeline import CYCLE, Batches
from securetrain_trainer.shards import SealedSplit
from support.trainer_kit import Wrapper, dataset_of, policy

pytestmark = pytest.mark.timeout(600)

MIB = 1 << 20
SHARD = MIB
SIDE, RECORDS = 128, 8192
SHUFFLED = 2 * MIB


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 MiB of images of 16 KiB, nearly all of them in the train split."""
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def deks(root: Path) -> dict[Split, Secret]:
    images = np.random.default_rng(0).integers(0, 256, (RECORDS, SIDE, SIDE, 1), np.uint8)
    source = ImageSource(images, np.arange(RECORDS) % 2, None, numbered(1, (), field="labels"))
    wrapper, fractions = Wrapper(), Fractions(94, 3, 3)
    options = SealOptions(kek="k", policy=policy(), shard_bytes=SHARD, fractions=fractions)
    seal(source, root / "data", options, wrapper)
    return wrapper.deks


def anonymous() -> int:
    """Bytes of this process's own memory, decrypted shards aside."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def in_shards() -> int:
    """Bytes of the decrypted shards that anybody in this process holds open."""
    held = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of a thread that closes one just now
            place = f"/proc/self/fd/{name}"
            if os.readlink(place).startswith("/memfd:shard"):
                status = os.stat(place)
                held[status.st_ino] = status.st_blocks * 512
    return sum(held.values())


@pytest.mark.parametrize("seed", [None, 1])
def test_a_reader_takes_less_than_a_tenth_of_its_dataset(
    root: Path, deks: dict[Split, Secret], seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "SHUFFLE_BYTES", SHUFFLED)
    dataset, held = dataset_of(root), [0]
    unseal = shards.unseal

    def watched(split: SealedSplit, index: int, buffers: Buffers) -> int:
        descriptor = unseal(split, index, buffers)
        held.append(in_shards())
        return descriptor

    def read(name: Split) -> tuple[int, int]:
        """Most bytes of its own memory, and those of the split."""
        entries = dataset.indexes[name]
        split = SealedSplit(dataset.folder, dataset.manifest.id, name, entries, deks[name])
        with Batches(split, dataset.manifest, 16) as batches:
            walk = batches.in_order() if seed is None else batches.shuffled(seed, 0)
            return max(anonymous() for _ in walk), split.bytes

    monkeypatch.setattr(shards, "unseal", watched)
    read(Split.VALIDATION)  # loads what a first read loads
    before = anonymous()
    most, size = read(Split.TRAIN)
    assert CYCLE * SHARD // 2 < max(held) < (CYCLE + 2) * 1.1 * SHARD
    assert most - before + max(held) < size / 10
