"""Seals a source into a dataset folder. Plaintext never touches a disk.

All is written into a folder beside the destination, which gets its final name by one rename at the
very end: a dataset is there whole or not at all. The manifest comes after all shards, and the data
keys are wrapped last, bound to the bytes of the manifest and of the policy. Shards are written by
all cores; each is encrypted as its records are read, so that memory is a matter of records and not
of shards.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Split, dek_associated_data, shard_associated_data
from securetrain.errors import InvalidInput
from securetrain.sealed import dataset, files, parallel, strict_json
from securetrain.sealed.examples import frame
from securetrain.sealed.ledger import Places
from securetrain.sealed.plan import Plan, planned
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.sources.base import Source, changed
from securetrain.sealed.splits import Fractions
from securetrain.sealed.staging import check_free, scratch_folder, staged
from securetrain.sealed.streaming import KEY, encrypt_stream
from securetrain.secret import Secret

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEFAULT_SHARD_BYTES: Final = 16 << 20
DEFAULT_FRACTIONS: Final = Fractions()
MAX_PLAIN_SHARD_BYTES: Final = 64 << 20


class KeyWrapper(Protocol):
    """Wraps a data key with one KEK: Vault's transit engine, through the owner's login."""

    def wrap(self, dek: Secret, associated_data: bytes) -> str:
        """The wrapped key, bound to `associated_data`, as `vault:v1:…`."""
        ...


@dataclass(frozen=True, slots=True)
class SealOptions:
    """How to seal."""

    kek: str
    """Name of the KEK, for keys.json."""
    policy: bytes
    """Bytes of policy.json."""
    transit_mount: str = "transit"
    fractions: Fractions = DEFAULT_FRACTIONS
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Most plaintext bytes in a shard; a larger record has a shard of its own."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far sealing has come."""

    records: int
    bytes: int
    """Plaintext bytes that are sealed."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was sealed."""

    folder: Path
    manifest: dataset.Manifest
    sha256: str
    """Digest of dataset.json."""
    bytes: int
    """Plaintext bytes of all shards."""
    duplicates_across: int
    """Contents that lie in more than one split; only a group key can cause that."""


def seal(
    source: Source,
    destination: Path,
    options: SealOptions,
    wrapper: KeyWrapper,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Sealed:
    """Seal a source into the folder `destination`, which must not exist.

    Raises:
        ManifestInvalid: the policy is not valid.
        InvalidInput: a split would be empty, a record is too long, or an option is out of range.
        OutputExists: the destination exists.
        SecuretrainError: whatever `wrapper` raises; nothing is left behind.
    """
    parse_policy(options.policy)
    check_free(destination)
    with planned(source, options.fractions, scratch_folder(destination)) as plan:
        return seal_planned(plan, destination, options, wrapper, on_progress)


def seal_planned(
    plan: Plan,
    destination: Path,
    options: SealOptions,
    wrapper: KeyWrapper,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Sealed:
    """Seal what was planned; see `seal`."""
    parse_policy(options.policy)
    _check_shard_size(options.shard_bytes)
    plan.check_complete()
    with staged(destination) as folder:
        writer = _Writer(plan, folder, options.shard_bytes, on_progress)
        deks = {split: Secret(os.urandom(KEY)) for split in Split}
        manifest = writer.write_content(deks)
        manifest_bytes = strict_json.dump(manifest)
        _check_readable(manifest_bytes)
        files.write_new(folder / dataset.DATASET_FILE, manifest_bytes)
        files.write_new(folder / dataset.POLICY_FILE, options.policy)
        digest = sha256_hex(manifest_bytes)
        keys = _wrap(deks, digest, options, wrapper)
        files.write_new(folder / dataset.KEYS_FILE, dataset.dump_keys(keys))
    across = plan.balance.duplicates_across
    return Sealed(destination, manifest, digest, writer.done.bytes, across)


def _check_shard_size(shard_bytes: int) -> None:
    if not 1 <= shard_bytes <= MAX_PLAIN_SHARD_BYTES:
        raise InvalidInput(
            "--shard-size",
            shard_bytes,
            "is out of range",
            fix=f"use 1 to {MAX_PLAIN_SHARD_BYTES} bytes",
        )


def _check_readable(manifest: bytes) -> None:
    if len(manifest) > dataset.MAX_MANIFEST_BYTES:
        raise InvalidInput(
            "SRC",
            f"{len(manifest)} bytes",
            "are too many for the names of columns, classes and categories",
            fix="leave columns out with --ignore NAME, or make them numbers with --numeric NAME",
        )


def _wrap(
    deks: dict[Split, Secret], manifest_sha256: str, options: SealOptions, wrapper: KeyWrapper
) -> dict[Split, WrappedDek]:
    policy_sha256 = sha256_hex(options.policy)
    return {
        split: WrappedDek(
            mount=options.transit_mount,
            kek=options.kek,
            wrapped=wrapper.wrap(dek, dek_associated_data(split, manifest_sha256, policy_sha256)),
        )
        for split, dek in deks.items()
    }


class _Writer:
    """Writes the shards and indexes of one dataset."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        shard_bytes: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._on_progress = on_progress
        self._id = str(uuid.uuid4())
        self._lock = threading.Lock()
        self.done = Progress(0, 0)

    def write_content(self, deks: dict[Split, Secret]) -> dataset.Manifest:
        """Write all shards and indexes; returns dataset.json."""
        source = self._plan.source
        return dataset.Manifest(
            format="securetrain/dataset/v1",
            id=self._id,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            records=dataset.RECORDS,
            cipher=dataset.CIPHER,
            features=dict(source.features),
            task=source.task,
            splits={split: self._write_split(split, deks[split]) for split in Split},
        )

    def _write_split(self, split: Split, dek: Secret) -> dataset.SplitInfo:
        places = self._plan.ledger.places(split)
        ranges = places.cut(self._shard_bytes)
        _check_count(len(ranges))

        def write(index: int) -> dataset.ShardEntry:
            bound_to = shard_associated_data(self._id, split, index, len(ranges))
            path = dataset.shard_path(split, index, len(ranges))
            return self._write_shard(path, places, ranges[index], dek, bound_to)

        workers = parallel.workers_for(self._plan.ledger.largest)
        shards = parallel.in_order(write, range(len(ranges)), workers)
        index = b"".join(strict_json.dump_line(entry) for entry in shards)
        files.write_new(self._folder / dataset.index_path(split), index)
        return dataset.SplitInfo(
            records=len(places),
            shards=len(ranges),
            index_sha256=sha256_hex(index),
            key_check=dataset.key_check(dek, self._id, split),
        )

    def _write_shard(
        self,
        path: str,
        places: Places,
        part: tuple[int, int],
        dek: Secret,
        associated_data: bytes,
    ) -> dataset.ShardEntry:
        plain = _Frames(self._plan, places.of(*part), self._advance)
        with files.create(self._folder / path) as stream:
            hashing = _Hashing(stream)
            sealed = encrypt_stream(cast(BinaryIO, plain), hashing, dek, associated_data)
        return dataset.ShardEntry(
            path=path, records=part[1] - part[0], bytes=sealed, sha256=hashing.sha256.hexdigest()
        )

    def _advance(self, records: int, size: int) -> None:
        with self._lock:
            self.done = Progress(self.done.records + records, self.done.bytes + size)
            self._on_progress(self.done)


def _check_count(shards: int) -> None:
    if shards > dataset.MAX_SHARDS:
        raise InvalidInput(
            "--shard-size",
            f"{shards} shards",
            f"are more than {dataset.MAX_SHARDS} in one split",
            fix="make shards larger",
        )


class _Frames(io.RawIOBase):
    """The frames of some records as a stream: a record is read when its turn comes."""

    REPORT: Final = 1 << 20
    """Bytes after which progress is told."""

    def __init__(
        self,
        plan: Plan,
        places: list[tuple[int, int, int]],
        advance: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._plan = plan
        self._places = iter(places)
        self._advance = advance
        self._rest = memoryview(b"")
        self._records = self._bytes = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as there are records; 0 at the end."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and (self._rest or self._next()):
            part = self._rest[: len(view) - done]
            view[done : done + len(part)] = part
            self._rest = self._rest[len(part) :]
            done += len(part)
        return done

    def _next(self) -> bool:
        row = next(self._places, None)
        if row is None or self._bytes >= self.REPORT:
            self._advance(self._records, self._bytes)
            self._records = self._bytes = 0
        if row is None:
            return False
        where, span, size = row
        example = self._plan.read(where, span)
        if len(example) != size:
            raise changed("a record")
        self._rest = memoryview(frame(example))
        self._records += 1
        self._bytes += len(self._rest)
        return True


class _Hashing:
    """Hashes what is written on its way to a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of `data`."""
        self.sha256.update(data)
        return self._stream.write(data)
