"""Is a sealed folder whole? Sizes and digests without any key, and every tag with the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from securetrain.api.names import (
    Split,
    model_file_associated_data,
    shard_associated_data,
)
from securetrain.errors import IntegrityError, ModelCorrupt, ShardCorrupt
from securetrain.sealed import files
from securetrain.sealed.dataset import MAX_SHARD_BYTES, SealedDataset
from securetrain.sealed.files import SealedFolder
from securetrain.sealed.hashing import HashingReader, OnBytes
from securetrain.sealed.model import MAX_WEIGHTS_BYTES, ModelManifest
from securetrain.sealed.streaming import verify_stream
from securetrain.secret import Secret

CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a sealed file must be."""

    path: str
    size: int
    sha256: str
    associated_data: bytes
    limit: int
    error: type[IntegrityError]


def check_shards(
    sealed: SealedDataset,
    *,
    deep: bool,
    deks: Mapping[Split, Secret] | None = None,
    on_bytes: OnBytes = lambda size: None,
) -> int:
    """Compare every shard with its index: its size, with `deep` its digest, with keys its tags.

    Each file is read once, in pieces of a MiB.

    Args:
        sealed: the dataset.
        deep: read every shard.
        deks: its data keys, for `deep`.
        on_bytes: called with the number of bytes done since the last call.

    Returns:
        Bytes of all shards.

    Raises:
        ShardCorrupt: names the first shard that is missing or different.
    """
    total = 0
    for split, entries in sealed.indexes.items():
        for index, entry in enumerate(entries):
            bound_to = shard_associated_data(sealed.manifest.id, split, index, len(entries))
            expected = _Expected(
                entry.path, entry.bytes, entry.sha256, bound_to, MAX_SHARD_BYTES, ShardCorrupt
            )
            _check(sealed.folder, expected, deep, deks[split] if deks else None, on_bytes)
            total += entry.bytes
    return total


def check_weights(
    folder: SealedFolder,
    manifest: ModelManifest,
    *,
    deep: bool,
    dek: Secret | None = None,
    on_bytes: OnBytes = lambda size: None,
) -> None:
    """Compare a model's sealed weights with model.json, as `check_shards`; raises ModelCorrupt."""
    weights = manifest.weights
    bound_to = model_file_associated_data(manifest.id, weights.path)
    expected = _Expected(
        weights.path, weights.bytes, weights.sha256, bound_to, MAX_WEIGHTS_BYTES, ModelCorrupt
    )
    _check(folder, expected, deep, dek, on_bytes)


def _check(
    folder: SealedFolder, expected: _Expected, deep: bool, dek: Secret | None, on_bytes: OnBytes
) -> None:
    path, error = expected.path, expected.error
    with files.open_regular(folder, path, expected.limit, error) as (stream, found):
        if found != expected.size:
            raise error(
                f"{path} has {found} bytes, not {expected.size}.", fix="restore it from a copy"
            )
        if not deep:
            on_bytes(found)
            return
        hashing = HashingReader(stream, on_bytes)
        opens = dek is None or _opens(hashing, expected, dek)
        while hashing.done <= expected.size and hashing.read(CHUNK):
            pass
    if hashing.hexdigest() != expected.sha256:
        raise error(f"{path} is not the file that was sealed.", fix="restore it from a copy")
    if not opens:
        raise error(
            f"{path} does not open: it was not sealed with this key for this place.",
            fix="restore it, and its index, from a copy",
        )


def _opens(stream: HashingReader, expected: _Expected, dek: Secret) -> bool:
    try:
        verify_stream(stream, expected.size, dek, expected.associated_data)
    except ShardCorrupt:
        return False
    return True
