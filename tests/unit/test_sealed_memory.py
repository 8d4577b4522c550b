"""A source several times larger than the memory that sealing may have is sealed all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from securetrain.sealed.dataset import load_dataset
from support.memory_trial import MAKERS, MIB

ROOT = Path(__file__).parents[2]
LIMIT = 512
"""MiB of memory in all, as promised for records of up to 16 MiB."""
SIZES = {"npz": 190, "tfrecord": 384, "parquet": 256, "csv": 124}
ALLOWED = {"npz": 96, "tfrecord": 192, "parquet": 128, "csv": 64}
"""MiB of address space beyond the loaded modules; threads' stacks and arenas count too."""


@pytest.mark.parametrize("kind", SIZES)
def test_sealing_takes_less_memory_than_the_source_has_bytes(tmp_path: Path, kind: str) -> None:
    make, _ = MAKERS[kind]
    path = make(tmp_path, SIZES[kind] * MIB)
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(str(ROOT / part) for part in ("tests", "training_image", ".")),
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # others reserve address space in advance
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.memory_trial", kind, str(tmp_path), str(ALLOWED[kind])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    records, peak = (int(part) for part in done.stdout.split())
    assert peak < LIMIT * MIB
    assert path.stat().st_size > 1.9 * ALLOWED[kind] * MIB
    sealed = load_dataset(tmp_path / "sealed")
    assert sealed.manifest.total_records == records
