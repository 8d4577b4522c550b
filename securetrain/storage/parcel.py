"""What of a sealed folder is sent: its own files and no other, each with its size and digest.

A stray file, such as an opened model, is no part of a sealed folder and never leaves the machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.api.names import Split
from securetrain.errors import InvalidInput, ManifestInvalid, ModelCorrupt, ShardCorrupt
from securetrain.sealed import dataset, files, model, pair
from securetrain.storage.depot import SealedFile

UPLOAD_FILE: Final = "upload.json"
"""There only until an upload has ended: which dataset or model is on its way."""

MODEL_LIMITS: Final = {
    model.KEY_FILE: model.MAX_KEY_BYTES,
    dataset.POLICY_FILE: MAX_POLICY_BYTES,
    model.REPORT_FILE: model.MAX_REPORT_BYTES,
    model.PAGE_FILE: model.MAX_REPORT_BYTES,
    model.AUDIT_FILE: model.MAX_AUDIT_BYTES,
    model.SIGNATURE_FILE: model.MAX_REPORT_BYTES,
}
"""Files of a model besides model.json and its weights, and the most bytes that each may have."""


@dataclass(frozen=True, slots=True)
class Pair:
    """policy.json and keys.json of a dataset, which a re-wrap replaces."""

    policy: bytes
    keys: bytes


@dataclass(frozen=True, slots=True)
class Parcel:
    """A sealed folder, ready to be sent."""

    folder: Path
    manifest: str
    """Name of the file that is written last: what lies there is visible by it."""
    manifest_bytes: bytes
    files: tuple[SealedFile, ...]
    """All others that never change."""
    pair: Pair | None
    """None for a model."""

    @property
    def kind(self) -> str:
        """`dataset` or `model`."""
        return self.manifest.removesuffix(".json")

    @property
    def bytes(self) -> int:
        """Bytes of all files that never change."""
        return sum(file.size for file in self.files)

    @property
    def names(self) -> frozenset[str]:
        """Every name that this parcel may have where it goes."""
        own = {file.name for file in self.files} | {self.manifest, UPLOAD_FILE}
        replaced = (
            {dataset.POLICY_FILE, dataset.KEYS_FILE, pair.PENDING_FILE} if self.pair else set()
        )
        return frozenset(own | replaced)


def pack(folder: Path) -> Parcel:
    """Read what a sealed folder is; shards are not read.

    Raises:
        InvalidInput: it is neither a dataset nor a model.
        ManifestInvalid: a file is missing or is not what its format demands.
    """
    if os.path.lexists(folder / dataset.DATASET_FILE):
        return _dataset(folder)
    if os.path.lexists(folder / model.MODEL_FILE):
        return _model(folder)
    raise InvalidInput(
        "FOLDER",
        str(folder),
        f"holds neither {dataset.DATASET_FILE} nor {model.MODEL_FILE}",
        fix="name the folder of a sealed dataset or model",
    )


def check(folder: Path, file: SealedFile) -> None:
    """Raise ShardCorrupt unless a file of the folder is the one that was sealed."""
    found = files.digest(folder, file.name, files.ANY_SIZE, ShardCorrupt)
    if found != (file.size, file.sha256):
        raise ShardCorrupt(f"{file.name} is not the file that was sealed.")


def weights_of(data: bytes) -> SealedFile:
    """The weights that the bytes of a model.json name.

    Raises:
        ManifestInvalid: it is no model.json, or its weights have another file's name or a path.
    """
    weights = model.parse_model(data).weights
    if weights.path != model.WEIGHTS_FILE:
        raise ManifestInvalid(
            f"{model.MODEL_FILE}: weights.path is {weights.path!r}, not {model.WEIGHTS_FILE}.",
            fix="take the model from where it was made",
        )
    return SealedFile(weights.path, weights.bytes, weights.sha256)


def _dataset(folder: Path) -> Parcel:
    sealed = dataset.load_dataset(folder)
    shards = (
        SealedFile(entry.path, entry.bytes, entry.sha256)
        for split in Split
        for entry in sealed.indexes[split]
    )
    indexes = (_whole(folder, dataset.index_path(split), files.ANY_SIZE) for split in Split)
    return Parcel(
        folder=folder,
        manifest=dataset.DATASET_FILE,
        manifest_bytes=sealed.manifest_bytes,
        files=(*shards, *indexes),
        pair=Pair(*pair.read(folder)),
    )


def _model(folder: Path) -> Parcel:
    data = files.read(folder, model.MODEL_FILE, model.MAX_MODEL_BYTES, ModelCorrupt)
    others = (
        _whole(folder, name, limit)
        for name, limit in MODEL_LIMITS.items()
        if os.path.lexists(folder / name)
    )
    return Parcel(
        folder=folder,
        manifest=model.MODEL_FILE,
        manifest_bytes=data,
        files=(weights_of(data), *others),
        pair=None,
    )


def _whole(folder: Path, name: str, limit: int) -> SealedFile:
    return SealedFile(name, *files.digest(folder, name, limit))
