"""Commands of the data owner: seal a dataset, and look at what is sealed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from securetrain.api.names import Split
from securetrain.cli import policies, render
from securetrain.cli.inspection import Depth, describe_features, inspect_folder
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import InvalidInput
from securetrain.sealed import writer
from securetrain.sealed.sources import read_npz
from securetrain.sealed.splits import Fractions
from securetrain.vault.custody import Custodian

MIB: Final = 1 << 20


def register(app: typer.Typer) -> None:
    """Add `seal`, `inspect`, `policy check` and `new policy`."""
    app.command()(seal)
    app.command()(inspect)
    policies.register(app)


def seal(
    src: Annotated[Path, typer.Argument(help="A .npz file with uint8 images and labels.")],
    dest: Annotated[str, typer.Argument(help="The folder to make; it must not exist.")],
    kek: Annotated[str, typer.Option(help="Transit key that wraps the data keys.")],
    policy: Annotated[Path, typer.Option(help="The usage policy, JSON.")],
    label_names: Annotated[
        str, typer.Option(help="Names of the classes, separated by commas; else their numbers.")
    ] = "",
    images_key: Annotated[str, typer.Option(help="Array of the images.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Array of the labels.")] = "labels",
    group_key: Annotated[
        str | None, typer.Option(help="Array of group keys: one group stays in one split.")
    ] = None,
    split: Annotated[str, typer.Option(help="Percent TRAIN/VALIDATION/TEST.")] = "80/10/10",
    shard_size: Annotated[int, typer.Option(min=1, max=64, help="MiB of data in a shard.")] = 16,
    transit_mount: Annotated[str, typer.Option(help="Mount of the transit engine.")] = "transit",
    output: OutputOption = Output.TEXT,
) -> None:
    """Encrypt a dataset into a folder, one data key per split, wrapped by Vault.

    Vault is found by VAULT_ADDR, VAULT_TOKEN or ~/.vault-token, and VAULT_CACERT.
    """
    options = writer.SealOptions(
        kek=kek,
        policy=policies.read_policy(policy)[0],
        transit_mount=transit_mount,
        fractions=Fractions.parse(split),
        shard_bytes=shard_size * MIB,
    )
    folder = _local(dest)
    names = tuple(name.strip() for name in label_names.split(",")) if label_names else ()
    with client_from_env() as client:
        custodian = Custodian(client, transit_mount, kek)
        custodian.require()  # before the work, not after it
        source = read_npz(
            src,
            images_key=images_key,
            labels_key=labels_key,
            group_key=group_key,
            label_names=names,
        )
        started = time.monotonic()
        with render.progress_bar("sealing", len(source), output) as advance:
            sealed = writer.seal(
                source,
                folder,
                options,
                custodian,
                lambda done: advance(done.records, _rate(done.bytes, started)),
            )
    _show(sealed, time.monotonic() - started, output)


def inspect(
    folder: Annotated[Path, typer.Argument(help="A sealed dataset or model.")],
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every file.")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Open the keys with your Vault login; check all tags.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what a sealed folder is, who may use it, and whether it is whole.

    No key is needed: --deep compares every digest. With --keys, who owns the data also learns
    whether its keys still open, and with both whether every tag of every file is right.
    Exits with 12, naming the file, if something is missing or changed.
    """
    inspect_folder(folder, Depth(deep=deep, keys=keys), output)


def _local(destination: str) -> Path:
    """The destination as a local folder; raises InvalidInput for a URI."""
    if "://" in destination:
        raise InvalidInput(
            "DEST",
            destination,
            "is not a local folder",
            fix="seal into a folder and copy it into the claim",
        )
    return Path(destination)


def _rate(size: int, started: float) -> str:
    return f"{size / MIB / max(time.monotonic() - started, 1e-3):.0f} MiB/s"


def _show(sealed: writer.Sealed, seconds: float, output: Output) -> None:
    splits = {split: sealed.manifest.splits[split].records for split in Split}
    shards = sum(info.shards for info in sealed.manifest.splits.values())
    value = {
        "folder": str(sealed.folder),
        "id": sealed.manifest.id,
        "digest": f"sha256:{sealed.sha256}",
        "splits": splits,
        "shards": shards,
        "bytes": sealed.bytes,
        "duplicatesAcross": sealed.duplicates_across,
    }
    parts = [f"{split} {records}" for split, records in splits.items()]
    parts.append(f"duplicates across: {sealed.duplicates_across}")
    rate = f"{sealed.bytes / MIB / max(seconds, 1e-3):.0f} MiB/s"
    name = sealed.folder.name
    rows = [
        ("features", describe_features(sealed.manifest.features, sealed.manifest.task)),
        ("splits", " · ".join(parts)),
        ("sealed", f"{shards} shards · {rate} · sha256:{sealed.sha256}"),
        ("next", f"copy {sealed.folder} into a claim, say `datasets`, then"),
        ("", f"securetrain new job --dataset pvc://datasets/{name} > job.yaml"),
    ]
    render.emit(output, value, render.fields(rows))
    if sealed.duplicates_across:
        render.lines(
            f"warning: {sealed.duplicates_across} images lie in more than one split.",
            "fix: give copies of an image the same group key",
        )
