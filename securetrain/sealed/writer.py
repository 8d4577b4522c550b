"""Seals a source into a dataset folder. Plaintext never touches a disk.

All is written into a folder beside the destination, which gets its final name by one rename at the
very end: a dataset is there whole or not at all. The data keys are wrapped last, bound to the bytes
of the manifest and of the policy.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Split, dek_associated_data, shard_associated_data
from securetrain.errors import BadConfiguration, InvalidInput, OutputExists
from securetrain.sealed import dataset, files, strict_json
from securetrain.sealed.examples import FRAME_BYTES, encode_example, frame
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.splits import (
    Assignment,
    Fractions,
    assign,
    content_identity,
    group_identity,
)
from securetrain.sealed.streaming import KEY, encrypt_stream
from securetrain.secret import Secret

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
    """Images that lie in more than one split; only a group key can cause that."""


def seal(
    source: ImageSource,
    destination: Path,
    options: SealOptions,
    wrapper: KeyWrapper,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Sealed:
    """Seal a source into the folder `destination`, which must not exist.

    Raises:
        ManifestInvalid: the policy is not valid.
        InvalidInput: a split would be empty, or an option is out of range.
        OutputExists: the destination exists.
        SecuretrainError: whatever `wrapper` raises; nothing is left behind.
    """
    parse_policy(options.policy)
    assignment = _assign(source, options)
    with _staged(destination) as folder:
        writer = _Writer(source, folder, options, assignment, on_progress)
        deks = {split: Secret(os.urandom(KEY)) for split in Split}
        manifest = writer.write_content(deks)
        manifest_bytes = strict_json.dump(manifest)
        files.write_new(folder / dataset.DATASET_FILE, manifest_bytes)
        files.write_new(folder / dataset.POLICY_FILE, options.policy)
        digest = sha256_hex(manifest_bytes)
        keys = _wrap(deks, digest, options, wrapper)
        files.write_new(folder / dataset.KEYS_FILE, dataset.dump_keys(keys))
    return Sealed(destination, manifest, digest, writer.done.bytes, assignment.duplicates_across)


def _assign(source: ImageSource, options: SealOptions) -> Assignment:
    contents = tuple(source.contents())
    if source.groups is None:
        identities = tuple(content_identity(content) for content in contents)
    else:
        identities = tuple(group_identity(group) for group in source.groups)
    assignment = assign(identities, contents, options.fractions)
    empty = [split for split in Split if not assignment.records[split]]
    if empty:
        raise InvalidInput(
            "SRC",
            len(source),
            f"records leave nothing for the split {empty[0]}",
            fix="seal more records or groups, or give that split a larger part with --split",
        )
    return assignment


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


@contextmanager
def _staged(destination: Path) -> Iterator[Path]:
    """A new folder that becomes `destination` on leaving, or vanishes on an error."""
    _check_free(destination)
    staging = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        (staging / dataset.SHARD_FOLDER).mkdir(parents=True)
        yield staging
        files.sync_folder(staging / dataset.SHARD_FOLDER)
        files.sync_folder(staging)
        _check_free(destination)
        staging.rename(destination)
        files.sync_folder(destination.parent)
    except OSError as failure:
        raise BadConfiguration(
            f"{destination} cannot be written ({os.strerror(failure.errno or 0)}).",
            fix="choose a destination that you may write and that has room",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_free(destination: Path) -> None:
    if os.path.lexists(destination):
        raise OutputExists(
            f"DEST: {str(destination)!r} exists.",
            fix="a sealed dataset is new: choose another name",
        )


class _Writer:
    """Writes the shards and indexes of one dataset."""

    def __init__(
        self,
        source: ImageSource,
        folder: Path,
        options: SealOptions,
        assignment: Assignment,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._source = source
        self._folder = folder
        self._assignment = assignment
        self._on_progress = on_progress
        self._id = str(uuid.uuid4())
        self._per_shard = _records_per_shard(source, options.shard_bytes)
        self.done = Progress(0, 0)

    def write_content(self, deks: dict[Split, Secret]) -> dataset.Manifest:
        """Write all shards and indexes; returns dataset.json."""
        return dataset.Manifest(
            format="securetrain/dataset/v1",
            id=self._id,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            records=dataset.RECORDS,
            cipher=dataset.CIPHER,
            features=self._source.features,
            task=self._source.task,
            splits={split: self._write_split(split, deks[split]) for split in Split},
        )

    def _write_split(self, split: Split, dek: Secret) -> dataset.SplitInfo:
        index = b"".join(strict_json.dump_line(entry) for entry in self._shards(split, dek))
        files.write_new(self._folder / dataset.index_path(split), index)
        return dataset.SplitInfo(
            records=len(self._assignment.records[split]),
            shards=self._count(split),
            index_sha256=sha256_hex(index),
            key_check=dataset.key_check(dek, self._id, split),
        )

    def _shards(self, split: Split, dek: Secret) -> Iterator[dataset.ShardEntry]:
        numbers, count = self._assignment.records[split], self._count(split)
        for index in range(count):
            # Even parts: shard sizes differ by one record at most.
            part = numbers[len(numbers) * index // count : len(numbers) * (index + 1) // count]
            path = dataset.shard_path(split, index, count)
            bound_to = shard_associated_data(self._id, split, index, count)
            yield self._write_shard(path, part, dek, bound_to)

    def _write_shard(
        self, path: str, numbers: tuple[int, ...], dek: Secret, associated_data: bytes
    ) -> dataset.ShardEntry:
        plain = io.BytesIO()
        for number in numbers:
            plain.write(frame(encode_example(self._source.record(number))))
        size = plain.tell()
        plain.seek(0)
        with files.create(self._folder / path) as stream:
            hashing = _Hashing(stream)
            sealed = encrypt_stream(plain, hashing, dek, associated_data)
        self.done = Progress(self.done.records + len(numbers), self.done.bytes + size)
        self._on_progress(self.done)
        return dataset.ShardEntry(
            path=path, records=len(numbers), bytes=sealed, sha256=hashing.sha256.hexdigest()
        )

    def _count(self, split: Split) -> int:
        return -(-len(self._assignment.records[split]) // self._per_shard)


def _records_per_shard(source: ImageSource, shard_bytes: int) -> int:
    if not 1 <= shard_bytes <= MAX_PLAIN_SHARD_BYTES:
        raise InvalidInput(
            "--shard-size",
            shard_bytes,
            "is out of range",
            fix=f"use 1 to {MAX_PLAIN_SHARD_BYTES} bytes",
        )
    highest = {**source.record(0), "label": source.task.classes - 1}
    return max(1, shard_bytes // (len(encode_example(highest)) + FRAME_BYTES))


class _Hashing:
    """Hashes what is written on its way to a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of `data`."""
        self.sha256.update(data)
        return self._stream.write(data)
