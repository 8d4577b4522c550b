"""Sealed shards, decrypted into anonymous memory, one ahead of their reader.

A shard is read once, decrypted into a memfd (no name, no disk, closed on exec, sealed against
change) and handed on as `/proc/self/fd/N`. Nothing of it is used before its size, its digest,
its authentication tag and its number of records have been checked. `OpenShards` owns every
descriptor, so an iterator that is abandoned leaks nothing past the owner's end.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

from securetrain.api.names import Split, shard_associated_data
from securetrain.errors import ShardCorrupt
from securetrain.sealed import files
from securetrain.sealed.dataset import MAX_SHARD_BYTES, ShardEntry
from securetrain.sealed.files import SealedFolder
from securetrain.sealed.hashing import HashingReader
from securetrain.sealed.streaming import Buffers, decrypt_stream, plain_size
from securetrain.secret import Secret
from securetrain_trainer.frames import FrameCounter

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class SealedSplit:
    """One split of a dataset and the key that opens it."""

    folder: SealedFolder
    dataset_id: str
    split: Split
    entries: tuple[ShardEntry, ...]
    dek: Secret

    @property
    def records(self) -> int:
        """Records of all shards."""
        return sum(entry.records for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Sealed bytes of all shards."""
        return sum(entry.bytes for entry in self.entries)


def unseal(split: SealedSplit, index: int, buffers: Buffers | None = None) -> int:
    """Decrypt one shard.

    Args:
        split: the split.
        index: the shard's place in its index, from 0.
        buffers: memory to use again from shard to shard.

    Returns:
        Descriptor, at its start, of a write-sealed memfd that holds the shard's TFRecords; the
        caller closes it.

    Raises:
        ShardCorrupt: names the shard: missing, a link, changed, cut, moved, sealed under another
            key, or with other records than the index says.
    """
    entry = split.entries[index]
    try:
        with files.open_regular(split.folder, entry.path, MAX_SHARD_BYTES, ShardCorrupt) as opened:
            stream, size = opened
            if size != entry.bytes:
                raise ShardCorrupt(f"{size} bytes instead of the {entry.bytes} of its index")
            return _decrypt(split, index, stream, buffers or Buffers())
    except ShardCorrupt as error:
        raise ShardCorrupt(
            f"shard {entry.path} of split {split.split}: {error.message}",
            fix="restore the dataset's folder from the owner's copy",
        ) from None


def _decrypt(split: SealedSplit, index: int, raw: BinaryIO, buffers: Buffers) -> int:
    entry = split.entries[index]
    associated = shard_associated_data(split.dataset_id, split.split, index, len(split.entries))
    if plain_size(entry.bytes) == 0:
        raise ShardCorrupt("it is empty")
    descriptor = os.memfd_create("shard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        source, memory = HashingReader(raw), _Memory(descriptor)
        decrypt_stream(source, entry.bytes, split.dek, associated, memory, buffers)
        if source.hexdigest() != entry.sha256:
            raise ShardCorrupt("its digest is not the one of its index")
        found = memory.frames.total()
        if found != entry.records:
            raise ShardCorrupt(f"{found} records instead of the {entry.records} of its index")
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Memory:
    """Takes a shard into its memfd and counts its records.

    It is written and not decrypted into a mapping, where a page fault for each 4 KiB took longer
    than decryption.
    """

    def __init__(self, descriptor: int) -> None:
        self.frames = FrameCounter()
        self._descriptor = descriptor

    def write(self, data: bytes | memoryview, /) -> int:
        """Take some of `data`."""
        count = os.write(self._descriptor, data)
        self.frames.feed(memoryview(data)[:count])
        return count


class OpenShards:
    """Owner of the shards that are in memory; a context manager.

    Memory: the shards that the reader holds, plus the one that a thread decrypts ahead.
    """

    def __init__(self, split: SealedSplit) -> None:
        self.split = split
        self.error: BaseException | None = None
        """What ended the last walk early, for its reader to raise."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unseal")
        self._buffers = Buffers()  # of that one thread
        self._lock = threading.Lock()
        self._descriptors: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.release_all()

    def walk(self, order: Sequence[int]) -> Iterator[str]:
        """Paths of decrypted shards in the given order; each is released with `release`.

        It ends early at a shard that cannot be used and leaves the reason in `error`: raised
        here, it would be printed with all its frames by the library that runs this generator.
        """
        self.error = None
        ahead = self._next(order, 0)
        for place in range(len(order)):
            try:
                descriptor = ahead.result() if ahead else -1
            except Exception as error:
                self.error = error
                return
            ahead = self._next(order, place + 1)
            yield f"/proc/self/fd/{descriptor}"

    def release(self, path: str) -> None:
        """Close the shard of one path; once is enough, twice does no harm."""
        self._close(int(path.rsplit("/", 1)[1]))

    def release_all(self) -> None:
        """Close all that is open."""
        for descriptor in self.open_descriptors():
            self._close(descriptor)

    def open_descriptors(self) -> frozenset[int]:
        """What is open now."""
        with self._lock:
            return frozenset(self._descriptors)

    def _next(self, order: Sequence[int], place: int) -> Future[int] | None:
        return self._pool.submit(self._open, order[place]) if place < len(order) else None

    def _open(self, index: int) -> int:
        descriptor = unseal(self.split, index, self._buffers)
        with self._lock:
            self._descriptors.add(descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        with self._lock:
            if descriptor not in self._descriptors:
                return
            self._descriptors.remove(descriptor)
        os.close(descriptor)
