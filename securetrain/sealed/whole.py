"""Is a sealed folder whole? Sizes and digests of its files, without any key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from securetrain.errors import IntegrityError, ModelCorrupt, ShardCorrupt
from securetrain.sealed import files
from securetrain.sealed.dataset import MAX_SHARD_BYTES, SealedDataset
from securetrain.sealed.model import MAX_WEIGHTS_BYTES, SealedWeights

CHUNK: Final = 1 << 20


def check_shards(
    sealed: SealedDataset, *, deep: bool, on_file: Callable[[], None] = lambda: None
) -> int:
    """Compare every shard with its index: its size, and with `deep` its digest.

    Args:
        sealed: the dataset.
        deep: read every shard.
        on_file: called after each shard.

    Returns:
        Bytes of all shards.

    Raises:
        ShardCorrupt: names the first shard that is missing or different.
    """
    total = 0
    for entries in sealed.indexes.values():
        for entry in entries:
            expected = entry.sha256 if deep else None
            _check(sealed.folder, entry.path, entry.bytes, expected, MAX_SHARD_BYTES, ShardCorrupt)
            total += entry.bytes
            on_file()
    return total


def check_weights(folder: Path, weights: SealedWeights, *, deep: bool) -> None:
    """Compare a model's sealed weights with model.json; raises ModelCorrupt."""
    expected = weights.sha256 if deep else None
    _check(folder, weights.path, weights.bytes, expected, MAX_WEIGHTS_BYTES, ModelCorrupt)


def _check(
    folder: Path,
    path: str,
    size: int,
    sha256: str | None,
    limit: int,
    error: type[IntegrityError],
) -> None:
    with files.open_regular(folder, path, limit, error) as (stream, found):
        if found != size:
            raise error(f"{path} has {found} bytes, not {size}.", fix="restore it from a copy")
        if sha256 is None:
            return
        digest = hashlib.sha256()
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise error(f"{path} is not the file that was sealed.", fix="restore it from a copy")
