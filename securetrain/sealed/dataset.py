"""The sealed dataset's description: manifest, indexes and key file, without opening a shard.

A dataset is a folder:

    dataset.json                 what it is; its bytes bind the data keys, so it is never rewritten
    <split>.index.jsonl          one line per shard; bound by its digest in dataset.json
    shards/<split>-00000-of-00008.tfrecord.sealed
    policy.json                  the owner's usage policy; its bytes bind the data keys as well
    keys.json                    the wrapped data keys; a re-wrap replaces it and policy.json
    rewrap.json                  only while those two are being replaced: what they will hold
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, model_validator

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import Sha256, WrappedDek
from securetrain.api.names import Split, key_check_info
from securetrain.api.types import Model
from securetrain.errors import ManifestInvalid
from securetrain.sealed import features as content
from securetrain.sealed import files, pair, strict_json
from securetrain.sealed.features import MAX_RECORD_VALUES as MAX_RECORD_VALUES
from securetrain.sealed.features import Feature as Feature
from securetrain.sealed.features import Features as Features
from securetrain.sealed.features import Task as Task
from securetrain.sealed.files import SealedFolder
from securetrain.sealed.pair import KEYS_FILE as KEYS_FILE
from securetrain.sealed.pair import MAX_KEYS_BYTES as MAX_KEYS_BYTES
from securetrain.sealed.pair import POLICY_FILE as POLICY_FILE
from securetrain.secret import Secret

DATASET_FILE: Final = "dataset.json"
SHARD_FOLDER: Final = "shards"

CIPHER: Final = "AES256_GCM_HKDF_1MB"
RECORDS: Final = "tf.train.Example"

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 512
MAX_SHARDS: Final = 100_000
MAX_SHARD_BYTES: Final = 1 << 27
MAX_RECORDS: Final = 10**12

UUID: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
RFC3339_UTC: Final = r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$"

Uuid = Annotated[str, Field(pattern=UUID)]
Rfc3339 = Annotated[str, Field(pattern=RFC3339_UTC)]
RecordCount = Annotated[int, Field(ge=1, le=MAX_RECORDS)]


class SplitInfo(Model):
    """One split as dataset.json describes it."""

    records: RecordCount
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    index_sha256: Sha256
    key_check: Sha256
    """See `key_check`: tells a wrong key before a shard is read."""


class Manifest(Model):
    """dataset.json."""

    format: Literal["securetrain/dataset/v1"]
    id: Uuid
    created: Rfc3339
    records: Literal["tf.train.Example"]
    """Encoding of the records inside the TFRecord frames of a shard."""
    cipher: Literal["AES256_GCM_HKDF_1MB"]
    features: Features
    task: Task
    splits: Annotated[dict[Split, SplitInfo], Field(max_length=len(Split))]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.splits) != set(Split):
            raise ValueError(f"splits must be {', '.join(Split)}")
        content.check(self.features, self.task)
        return self

    @property
    def total_records(self) -> int:
        """Records of all splits."""
        return sum(info.records for info in self.splits.values())


class ShardEntry(Model):
    """One line of an index."""

    path: Annotated[str, Field(max_length=128)]
    """Relative to the dataset's folder; always `shard_path(…)`, so it can never point elsewhere."""
    records: RecordCount
    bytes: Annotated[int, Field(ge=56, le=MAX_SHARD_BYTES)]
    """Size of the sealed file."""
    sha256: Sha256
    """Digest of the sealed file."""


class KeyRing(Model):
    """keys.json.

    Nothing binds the names of mount and KEK, so at least they must agree with each other: a name
    that was damaged is found here, and not by a Vault that merely denies an unknown path.
    """

    format: Literal["securetrain/keys/v1"]
    keys: Annotated[dict[Split, WrappedDek], Field(max_length=len(Split))]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.keys) != set(Split):
            raise ValueError(f"keys must be {', '.join(Split)}")
        if len({(key.mount, key.kek) for key in self.keys.values()}) > 1:
            raise ValueError("all keys must be wrapped by one KEK")
        return self


@dataclass(frozen=True, slots=True)
class SealedDataset:
    """A dataset's description as read once from its folder: what is hashed is what is used."""

    folder: SealedFolder
    manifest: Manifest
    manifest_bytes: bytes
    manifest_sha256: str
    policy_bytes: bytes
    policy_sha256: str
    keys: Mapping[Split, WrappedDek]
    indexes: Mapping[Split, tuple[ShardEntry, ...]]


def shard_path(split: Split, index: int, count: int) -> str:
    """Path of shard `index`, counted from 0, of `count`, relative to the dataset's folder."""
    return f"{SHARD_FOLDER}/{split}-{index:05d}-of-{count:05d}.tfrecord.sealed"


def index_path(split: Split) -> str:
    """Path of a split's index, relative to the dataset's folder."""
    return f"{split}.index.jsonl"


def max_index_bytes(info: SplitInfo) -> int:
    """Most bytes that a split's index may have."""
    return info.shards * MAX_LINE_BYTES


def key_check(dek: Secret, owner_id: str, name: str) -> str:
    """Key check value, 64 hex digits: equal only for the same key, owner and name.

    AES-GCM does not commit to its key, so a shard could be made that opens under two of them. This
    value is compared before a shard is read; it tells nothing about the key.

    Args:
        dek: the data key.
        owner_id: id of the dataset or model.
        name: a split, or `model`.
    """
    derive = HKDF(hashes.SHA256(), length=32, salt=None, info=key_check_info(owner_id, name))
    return derive.derive(dek.reveal()).hex()


def parse_manifest(data: bytes) -> Manifest:
    """Parse dataset.json; raises ManifestInvalid."""
    return strict_json.parse(Manifest, data, name=DATASET_FILE, limit=MAX_MANIFEST_BYTES)


def parse_keys(data: bytes) -> dict[Split, WrappedDek]:
    """Parse keys.json: the wrapped key of each split; raises ManifestInvalid."""
    return strict_json.parse(KeyRing, data, name=KEYS_FILE, limit=MAX_KEYS_BYTES).keys


def dump_keys(keys: Mapping[Split, WrappedDek]) -> bytes:
    """Bytes of keys.json."""
    return strict_json.dump(KeyRing(format="securetrain/keys/v1", keys=dict(keys)))


def parse_index(data: bytes, info: SplitInfo, split: Split) -> tuple[ShardEntry, ...]:
    """Parse a split's index and hold it against dataset.json.

    Returns:
        One entry per shard, in order.

    Raises:
        ManifestInvalid: digest, number of shards, number of records or a path is not as promised.
    """
    name = index_path(split)
    if len(data) > max_index_bytes(info):
        raise ManifestInvalid(f"{name} has {len(data)} bytes, more than {max_index_bytes(info)}.")
    if sha256_hex(data) != info.index_sha256:
        raise ManifestInvalid(f"{name} is not the index that {DATASET_FILE} names.")
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(lines) != info.shards:
        raise ManifestInvalid(
            f"{name} has {len(lines)} lines for {info.shards} shards of {DATASET_FILE}."
        )
    entries = tuple(_entry(line, name, number) for number, line in enumerate(lines))
    if sum(entry.records for entry in entries) != info.records:
        raise ManifestInvalid(
            f"{name} does not add up to {info.records} records of {DATASET_FILE}."
        )
    for index, entry in enumerate(entries):
        if entry.path != shard_path(split, index, info.shards):
            raise ManifestInvalid(f"{name} line {index + 1}: the path is not the shard's own.")
    return entries


def load_dataset(folder: SealedFolder) -> SealedDataset:
    """Read a dataset's description; shards are not opened.

    Raises:
        ManifestInvalid: a file is missing, is a link, is too long, or is not what it should be.
        SecuretrainError: whatever a folder elsewhere says.
    """
    manifest_bytes = files.read(folder, DATASET_FILE, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(manifest_bytes)
    policy_bytes, keys_bytes = pair.read(folder)
    keys = parse_keys(keys_bytes)
    indexes = {
        split: parse_index(
            files.read(folder, index_path(split), max_index_bytes(info)), info, split
        )
        for split, info in manifest.splits.items()
    }
    return SealedDataset(
        folder=folder,
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        manifest_sha256=sha256_hex(manifest_bytes),
        policy_bytes=policy_bytes,
        policy_sha256=sha256_hex(policy_bytes),
        keys=keys,
        indexes=indexes,
    )


def _entry(line: bytes, name: str, number: int) -> ShardEntry:
    return strict_json.parse(
        ShardEntry, line, name=f"{name} line {number + 1}", limit=MAX_LINE_BYTES
    )
