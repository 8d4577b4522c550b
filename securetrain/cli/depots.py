"""Folders elsewhere as the command line opens them: `s3://bucket/prefix` and `pvc://claim/path`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Final

import typer

from securetrain.cli import kube, storage_env
from securetrain.cli.storage_env import S3Options
from securetrain.cli.transfer_pod import receiver
from securetrain.errors import (
    InvalidInput,
    OutputExists,
    StorageDenied,
    StorageMisconfigured,
    StorageUnavailable,
    UsageError,
)
from securetrain.storage.claim import ClaimDepot
from securetrain.storage.depot import Depot, ObjectDepot
from securetrain.storage.uri import PVC, StorageUri, parse_uri

PATIENCE: Final = 60.0
"""Seconds for which a call is made again while the S3 server is away, once it has answered."""

ImageOption = Annotated[
    str | None,
    typer.Option(help="Trainer image for the pod that takes the files; default: the operator's."),
]


@dataclass(frozen=True, slots=True)
class Reach:
    """How to get to where the files go."""

    s3: S3Options
    namespace: str | None = None
    context: str | None = None
    image: str | None = None

    def arguments(self, uri: StorageUri) -> list[str]:
        """The options again that matter for an address, for a command that goes on."""
        if uri.scheme != PVC:
            return self.s3.arguments
        said = (("-n", self.namespace), ("--context", self.context), ("--image", self.image))
        return [text for name, value in said if value for text in (name, value)]


def folder_uri(text: str, field: str) -> StorageUri:
    """An address that names a folder; raises InvalidInput that names `field`."""
    uri = parse_uri(text, field)
    if not uri.path:
        raise InvalidInput(field, text, "names no folder", fix=f"write {text}/NAME")
    return uri


@contextmanager
def opened(uri: StorageUri, reach: Reach) -> Iterator[Depot]:
    """The folder at an address.

    Raises:
        UsageError, InvalidInput: an option is missing or wrong.
        OutputExists: a file has the folder's name.
        SecuretrainError: the server or the cluster could not be reached, or said no.
    """
    if uri.scheme == PVC:
        api = kube.api(reach.context)
        namespace = kube.namespace_or_default(reach.namespace, reach.context)
        with receiver(api, namespace, uri, reach.image) as pipe:
            yield ClaimDepot(pipe, f"{uri} in namespace {namespace}")
        return
    try:
        from securetrain.storage.s3 import open_store
    except ImportError:
        raise UsageError(
            "s3:// needs s3fs, which is not installed.", fix="pip install 'securetrain[s3]'"
        ) from None
    server, login = storage_env.server(reach.s3), storage_env.login(reach.s3)
    whole = StorageUri(uri.scheme, uri.place, "")
    with _for_owners(uri), open_store(server, login, whole) as store:
        parts = uri.path.split("/")
        store.list(limit=1)  # tells a missing bucket, which a question about an object does not
        for depth in range(1, len(parts) + 1):
            if store.has(name := "/".join(parts[:depth])):
                raise OutputExists(
                    f"{uri}: there is an object {name}, not a folder of that name.",
                    fix="choose another prefix, or remove the object",
                )
        yield ObjectDepot(replace(store.below(uri.path), patience=PATIENCE), str(uri))


@contextmanager
def _for_owners(uri: StorageUri) -> Iterator[None]:
    """Say what helps whoever has a profile, where a setting of the operator would be named."""
    try:
        yield
    except StorageDenied as error:
        fix = "check --profile and its keys in ~/.aws/credentials, the bucket's policy, the clock"
        raise StorageDenied(error.message, fix=fix) from None
    except StorageUnavailable as error:
        fix = "check --endpoint and --ca, and that the server is up; then do the same again"
        raise StorageUnavailable(error.message, fix=fix) from None
    except StorageMisconfigured as error:
        fix = f"check --endpoint and --region, and that the bucket {uri.place} exists there"
        raise StorageMisconfigured(error.message, fix=fix) from None
