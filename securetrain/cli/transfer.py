"""`securetrain upload` and `download`: sealed folders to and from a bucket or a claim."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from securetrain.api.digest import sha256_hex
from securetrain.cli import depots, render
from securetrain.cli.depots import ImageOption, Reach
from securetrain.cli.jobs import ContextOption, NamespaceOption
from securetrain.cli.render import Advance, Output, OutputOption
from securetrain.cli.storage_env import (
    CaOption,
    EndpointOption,
    ProfileOption,
    RegionOption,
    S3Options,
)
from securetrain.storage.depot import Depot
from securetrain.storage.download import download as fetch
from securetrain.storage.parcel import Parcel, pack
from securetrain.storage.upload import Sent
from securetrain.storage.upload import upload as send
from securetrain.storage.uri import StorageUri

MIB: Final = 1 << 20


def register(app: typer.Typer) -> None:
    """Add `upload` and `download`."""
    app.command()(upload)
    app.command()(download)


def upload(
    folder: Annotated[Path, typer.Argument(help="A sealed dataset or model.")],
    uri: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX or pvc://CLAIM/PATH.")],
    endpoint: EndpointOption = None,
    ca: CaOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    image: ImageOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Send a sealed folder to a bucket or a claim; only ciphertext leaves this machine.

    What is there already and right is not sent again: after a break the same command goes on. A
    dataset is seen by jobs only when dataset.json is there, last of all. Of one that is there only
    policy.json and keys.json are replaced, after a re-wrap; nothing else is ever overwritten.
    """
    where = depots.folder_uri(uri, "URI")
    reach = Reach(S3Options(endpoint, ca, region, profile), namespace, context, image)
    parcel = pack(folder)
    with depots.opened(where, reach) as depot:
        send_with_bar(parcel, depot, where, reach, output)


def download(
    uri: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX or pvc://CLAIM/PATH.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    endpoint: EndpointOption = None,
    ca: CaOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    image: ImageOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Fetch a sealed dataset or model; it is there whole or not at all.

    Every digest is checked. After a break the same command goes on where it stopped.
    """
    where = depots.folder_uri(uri, "URI")
    reach = Reach(S3Options(endpoint, ca, region, profile), namespace, context, image)
    with depots.opened(where, reach) as depot:
        bar = _Bar()
        with render.progress_bar("fetching", 1, output) as advance:
            kind = fetch(depot, folder, lambda *done: bar.tell(advance, *done))
    value = {"kind": kind, "uri": uri, "folder": str(folder), "fetched": bar.moved}
    rows = [
        ("fetched", f"{kind} · {_mib(bar.moved)} · {bar.rate}"),
        ("next", f"securetrain inspect {shlex.quote(str(folder))} --deep"),
    ]
    render.emit(output, value, render.fields(rows))


def send_with_bar(
    parcel: Parcel,
    depot: Depot,
    uri: StorageUri,
    reach: Reach,
    output: Output,
    sealed: Mapping[str, Any] | None = None,
) -> None:
    """Upload with a progress bar, and say what was sent, or how to go on.

    For programs that follows what was said of how it was `sealed`, in one document.
    """
    bar = _Bar()
    with (
        _saying_how_to_go_on(resume_command(parcel.folder, uri, reach)),
        render.progress_bar("uploading", parcel.bytes, output) as advance,
    ):
        sent = send(parcel, depot, lambda done, moved: bar.tell(advance, done, moved))
    value, rows = _sent(parcel, uri, sent, bar.rate)
    render.emit(output, value if sealed is None else {**sealed, "upload": value}, rows)


def resume_command(folder: Path, uri: StorageUri, reach: Reach) -> str:
    """The command that goes on with an upload; it never holds a secret."""
    options = reach.arguments(uri)
    return shlex.join(["securetrain", "upload", str(folder), str(uri), *options])


@contextmanager
def _saying_how_to_go_on(command: str) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C too
        render.lines(f"The upload is not complete. Go on with: {command}")
        raise


def _sent(
    parcel: Parcel, uri: StorageUri, sent: Sent, rate: str
) -> tuple[dict[str, Any], RenderableType]:
    value = {
        "kind": parcel.kind,
        "uri": str(uri),
        "digest": f"sha256:{sha256_hex(parcel.manifest_bytes)}",
        "files": sent.files,
        "bytes": sent.bytes,
        "kept": sent.kept,
    }
    kept = f" · {sent.kept} were there" if sent.kept else ""
    count = f"{sent.files} file" + ("" if sent.files == 1 else "s")
    rows = [("uploaded", f"{count} · {_mib(sent.bytes)} · {rate}{kept}")]
    if parcel.kind == "dataset":
        rows.append(("next", f"securetrain new job --dataset {uri} > job.yaml"))
    return value, render.fields(rows)


class _Bar:
    """The rate of what really moved."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.moved = 0

    @property
    def rate(self) -> str:
        """So far, as text."""
        return f"{_mib(self.moved / max(time.monotonic() - self._started, 1e-3))}/s"

    def tell(self, advance: Advance, done: int, moved: int, of: int | None = None) -> None:
        """Move the bar."""
        self.moved = moved
        advance(done, self.rate, of)


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"
