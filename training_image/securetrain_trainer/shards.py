"""Sealed shards, decrypted into anonymous memory, one ahead of their reader.

A shard is read once, decrypted into a memfd (no name, no disk, closed on exec, sealed against
change) and handed on as `/proc/self/fd/N`. Nothing of it is used before its size, its digest,
its authentication tag and its number of records have been checked. `OpenShards` owns every
descriptor, so an iterator that is abandoned leaks nothing past the owner's end.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Self, cast

from securetrain.api.names import Split, shard_associated_data
from securetrain.errors import ShardCorrupt
from securetrain.sealed import files
from securetrain.sealed.dataset import MAX_SHARD_BYTES, ShardEntry
from securetrain.sealed.files import SealedFolder
from securetrain.sealed.streaming import decrypt_into, plain_size
from securetrain.secret import Secret

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_FRAME_EXTRA: Final = 16  # TFRecord: length u64, its CRC u32, data, its CRC u32


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


def unseal(split: SealedSplit, index: int) -> int:
    """Decrypt one shard.

    Args:
        split: the split.
        index: the shard's place in its index, from 0.

    Returns:
        Descriptor of a write-sealed memfd that holds the shard's TFRecords; the caller closes it.

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
            return _decrypt(split, index, stream)
    except ShardCorrupt as error:
        raise ShardCorrupt(
            f"shard {entry.path} of split {split.split}: {error.message}",
            fix="restore the dataset's folder from the owner's copy",
        ) from None


def _decrypt(split: SealedSplit, index: int, raw: BinaryIO) -> int:
    entry = split.entries[index]
    associated = shard_associated_data(split.dataset_id, split.split, index, len(split.entries))
    size = plain_size(entry.bytes)
    if size == 0:
        raise ShardCorrupt("it is empty")
    descriptor = os.memfd_create("shard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            memory.madvise(mmap.MADV_DONTDUMP)
            source = HashingReader(raw)
            decrypt_into(cast(BinaryIO, source), entry.bytes, split.dek, associated, memory)
            if source.hexdigest() != entry.sha256:
                raise ShardCorrupt("its digest is not the one of its index")
            found = count_frames(memory)
            if found != entry.records:
                raise ShardCorrupt(f"{found} records instead of the {entry.records} of its index")
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def count_frames(buffer: mmap.mmap | bytes) -> int:
    """Number of TFRecord frames that fill `buffer` exactly.

    The frames' CRCs are not read: every byte has been authenticated.

    Raises:
        ShardCorrupt: the frames do not fill it.
    """
    length_at = struct.Struct("<Q").unpack_from
    at, end, count = 0, len(buffer), 0
    while at < end:
        if end - at < _FRAME_EXTRA:
            raise ShardCorrupt("its last record is cut")
        at += length_at(buffer, at)[0] + _FRAME_EXTRA
        count += 1
    if at != end:
        raise ShardCorrupt("a record runs past its end")
    return count


class HashingReader(io.RawIOBase):
    """A stream that computes the SHA-256 of what is read through it."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read at most as much as `buffer` holds; 0 at the end."""
        view = memoryview(buffer)
        count: int = self._raw.readinto(view) or 0  # type: ignore[attr-defined]
        self._hash.update(view[:count])
        return count

    def hexdigest(self) -> str:
        """Digest of all bytes read so far."""
        return self._hash.hexdigest()


class OpenShards:
    """Owner of the shards that are in memory; a context manager.

    Memory: the shards that the reader holds, plus the one that a thread decrypts ahead.
    """

    def __init__(self, split: SealedSplit) -> None:
        self.split = split
        self.error: BaseException | None = None
        """What ended the last walk early, for its reader to raise."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unseal")
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
        descriptor = unseal(self.split, index)
        with self._lock:
            self._descriptors.add(descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        with self._lock:
            if descriptor not in self._descriptors:
                return
            self._descriptors.remove(descriptor)
        os.close(descriptor)
