"""Fetches a sealed folder: verified file by file, whole or not at all, resumable.

It is gathered beside its destination and gets its name by one rename. What a broken download left
there, with the right digest, is not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from securetrain.api.names import Split
from securetrain.errors import (
    IntegrityError,
    InvalidInput,
    ManifestInvalid,
    ModelCorrupt,
    ShardCorrupt,
)
from securetrain.sealed import dataset, files, model, pair, parallel
from securetrain.sealed.staging import resumed
from securetrain.storage.depot import Depot, SealedFile
from securetrain.storage.parcel import MODEL_LIMITS, weights_of

CHUNK: Final = 1 << 20
OnProgress = Callable[[int, int, int], None]
"""Told the bytes that are done, those of them that were fetched, and all there are."""


def download(
    depot: Depot, destination: Path, on_progress: OnProgress = lambda done, fetched, total: None
) -> str:
    """Fetch a dataset or model into the folder `destination`, which must not exist.

    Returns:
        `dataset` or `model`.

    Raises:
        OutputExists: the destination exists.
        InvalidInput: there is no sealed dataset or model.
        ManifestInvalid, ShardCorrupt, ModelCorrupt: what is there is not what was sealed, or was
            replaced meanwhile.
        SecuretrainError: what the depot raises; what was fetched stays for the next time.
    """
    with resumed(destination) as folder:
        if depot.has(dataset.DATASET_FILE):
            _fetch_dataset(depot, folder, on_progress)
            return "dataset"
        if depot.has(model.MODEL_FILE):
            _fetch_model(depot, folder, on_progress)
            return "model"
        raise InvalidInput(
            "URI",
            depot.where,
            "holds no sealed dataset or model that is whole",
            fix="check the address; if an upload was broken, end it with securetrain upload",
        )


def _fetch_dataset(depot: Depot, folder: Path, on_progress: OnProgress) -> None:
    sealed = dataset.load_dataset(depot)
    entries = (entry for split in Split for entry in sealed.indexes[split])
    wanted = [SealedFile(entry.path, entry.bytes, entry.sha256) for entry in entries]
    kept = {file.name for file in wanted} | {dataset.index_path(split) for split in Split}
    _prune(folder, kept)
    with _unchanged(depot, dataset.DATASET_FILE, sealed.manifest_bytes):
        _Fetching(depot, folder, ShardCorrupt, on_progress).fetch(wanted)
        files.sync_folder(folder / dataset.SHARD_FOLDER)
        for split, info in sealed.manifest.splits.items():
            name = dataset.index_path(split)
            files.replace(folder, name, files.read(depot, name, dataset.max_index_bytes(info)))
        policy, keys = pair.read(depot)
        files.replace(folder, dataset.POLICY_FILE, policy)
        files.replace(folder, dataset.KEYS_FILE, keys)
    if pair.read(depot) != (policy, keys):
        raise _changed(dataset.KEYS_FILE)
    files.replace(folder, dataset.DATASET_FILE, sealed.manifest_bytes)
    dataset.load_dataset(folder)


def _fetch_model(depot: Depot, folder: Path, on_progress: OnProgress) -> None:
    data = files.read(depot, model.MODEL_FILE, model.MAX_MODEL_BYTES)
    wanted = weights_of(data)
    _prune(folder, {wanted.name})
    with _unchanged(depot, model.MODEL_FILE, data):
        _Fetching(depot, folder, ModelCorrupt, on_progress).fetch([wanted])
        for name, limit in MODEL_LIMITS.items():
            if depot.has(name):
                files.replace(folder, name, files.read(depot, name, limit))
        _require_own_key(folder, model.parse_model(data).id)
    files.replace(folder, model.MODEL_FILE, data)


def _require_own_key(folder: Path, job_uid: str) -> None:
    """Raise ManifestInvalid if the key that came is another job's.

    In a bucket a replacement begins with key.json, while model.json is the old one still.
    """
    if files.exists(folder, model.KEY_FILE):
        key = model.parse_key(files.read(folder, model.KEY_FILE, model.MAX_KEY_BYTES))
        if key.job_uid != job_uid:
            raise _changed(model.KEY_FILE)


@contextmanager
def _unchanged(depot: Depot, name: str, data: bytes) -> Iterator[None]:
    """Raise ManifestInvalid if a manifest there is not the same at the end of the block.

    What was wrong within the block is told as it is only if it has no such cause.
    """
    try:
        yield
    except IntegrityError:
        _require_same(depot, name, data)
        raise
    _require_same(depot, name, data)


def _require_same(depot: Depot, name: str, data: bytes) -> None:
    try:
        same = files.read(depot, name, len(data)) == data
    except IntegrityError:
        same = False
    if not same:
        raise _changed(name)


def _changed(name: str) -> ManifestInvalid:
    return ManifestInvalid(
        f"{name} changed while it was fetched: somebody replaces what is there.",
        fix="wait until they have ended, then do the same again",
    )


def _prune(folder: Path, kept: Collection[str]) -> None:
    """Remove what a broken download of something else left."""
    for path in folder.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and str(path.relative_to(folder)) not in kept:
            path.unlink()


class _Fetching:
    """Fetches files, several at once."""

    def __init__(
        self, depot: Depot, folder: Path, error: type[IntegrityError], on_progress: OnProgress
    ) -> None:
        self._depot, self._folder, self._error = depot, folder, error
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done = self._fetched = self._total = 0

    def fetch(self, wanted: list[SealedFile]) -> None:
        """Have all of them in the folder."""
        self._total = sum(file.size for file in wanted)
        for _ in parallel.in_order(self._settle, wanted, self._depot.workers):
            pass

    def _settle(self, file: SealedFile) -> None:
        if self._is_here(file):
            self._advance(file.size, fetched=False)
            return
        target = self._folder / file.name
        temporary = target.with_name(f".{target.name}.partial")
        temporary.unlink(missing_ok=True)
        with self._depot.open(file.name, file.size, self._error) as (source, size):
            if size != file.size:
                raise self._error(f"{file.name} has {size} bytes, not {file.size}.")
            digest = hashlib.sha256()
            with files.create(temporary) as sink:
                while piece := source.read(CHUNK):
                    digest.update(piece)
                    sink.write(piece)
                    self._advance(len(piece))
        if digest.hexdigest() != file.sha256:
            temporary.unlink()
            raise self._error(f"{file.name} is not the file that was sealed.")
        os.replace(temporary, target)

    def _is_here(self, file: SealedFile) -> bool:
        if not os.path.lexists(self._folder / file.name):
            return False
        found = files.digest(self._folder, file.name, files.ANY_SIZE, self._error)
        return found == (file.size, file.sha256)

    def _advance(self, size: int, *, fetched: bool = True) -> None:
        with self._lock:
            self._done += size
            self._fetched += size if fetched else 0
            self._on_progress(self._done, self._fetched, self._total)
