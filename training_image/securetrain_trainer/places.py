"""Where a run's dataset comes from and its model goes: mounted claims, or object storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securetrain.api.gateway import ObjectStorage, RunSpec
from securetrain.errors import BadConfiguration
from securetrain.sealed.files import SealedFolder
from securetrain.storage.credentials import read_credentials
from securetrain.storage.objects import ObjectStore
from securetrain.storage.uri import parse_uri
from securetrain_trainer.object_place import ObjectPlace
from securetrain_trainer.ports import Output
from securetrain_trainer.store import Place

PATIENCE: Final = 120.0
"""Seconds for which a pod waits for object storage that is away, before it asks for a new pod."""


@dataclass(frozen=True, slots=True)
class Places:
    """Both ends of a run."""

    dataset: SealedFolder
    output: Output


@contextmanager
def open_places(run: RunSpec) -> Iterator[Places]:
    """Both ends of a run; nothing is written yet.

    Raises:
        StorageMisconfigured: the storage's credentials or its CA are not usable.
    """
    with ExitStack() as opened:
        yield Places(_dataset(run, opened), _output(run, opened))


def place_of(run: RunSpec) -> Place:
    """Where the job's model goes on a claim."""
    return Place.of(run.output_path, run.job.uid)


def _dataset(run: RunSpec, opened: ExitStack) -> SealedFolder:
    if run.dataset_storage is None:
        return Path(run.dataset_path)
    return _store(run.dataset_storage, run.dataset_path, opened)


def _output(run: RunSpec, opened: ExitStack) -> Output:
    if run.output_storage is None:
        return place_of(run)
    parent, _, name = run.output_path.rpartition("/")
    return ObjectPlace(_store(run.output_storage, parent, opened), name, run.job.uid)


def _store(storage: ObjectStorage, address: str, opened: ExitStack) -> ObjectStore:
    """Open a store; only a pod that uses one needs the library for it."""
    try:
        from securetrain.storage.s3 import open_store
    except ModuleNotFoundError:
        raise BadConfiguration(
            "this image cannot read s3:// addresses: it lacks s3fs",
            fix="build it with securetrain[trainer], or put the data on a claim",
        ) from None
    login = read_credentials(Path(storage.credentials))
    return opened.enter_context(open_store(storage, login, parse_uri(address), patience=PATIENCE))
