"""`securetrain seal`: from any source to a sealed dataset; what was found is shown first."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from securetrain.cli import feature_view, policies, render
from securetrain.cli.depots import ImageOption, Reach
from securetrain.cli.destination import Destination
from securetrain.cli.jobs import ContextOption, NamespaceOption
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.storage_env import (
    CaOption,
    EndpointOption,
    ProfileOption,
    RegionOption,
    S3Options,
)
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import InvalidInput, UsageError
from securetrain.sealed import writer
from securetrain.sealed.legacy import WARNING
from securetrain.sealed.plan import Plan, planned
from securetrain.sealed.sources.base import Source, Wishes
from securetrain.sealed.sources.opening import SourceKind, open_source
from securetrain.sealed.splits import Fractions
from securetrain.sealed.staging import check_free, scratch_folder
from securetrain.vault.custody import Custodian

MIB: Final = 1 << 20
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})[x×]([1-9][0-9]{0,4})")


Src = Annotated[
    Path,
    typer.Argument(
        help="A .npz, CSV, Parquet or TFRecord file, a folder of such files, "
        "or a folder with a folder of PNG or JPEG files for each class."
    ),
]
Dest = Annotated[
    str,
    typer.Argument(
        help="The folder to make, which must not exist; or s3://BUCKET/PREFIX or pvc://CLAIM/PATH."
    ),
]
Staging = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the sealed copy before it is sent to a URI, and kept afterwards; "
        "default: NAME.sealed here."
    ),
]
Kek = Annotated[str, typer.Option(help="Transit key that wraps the data keys.")]
Policy = Annotated[Path | None, typer.Option(help="The usage policy, JSON or YAML.")]
Kind = Annotated[
    SourceKind | None, typer.Option(help="What SRC is; found by its content if left out.")
]
Label = Annotated[
    str | None, typer.Option(help="Column, feature or array that is to be predicted.")
]
LabelNames = Annotated[
    str, typer.Option(help="Names of the classes, in their order, separated by commas.")
]
GroupKey = Annotated[
    str | None,
    typer.Option(help="Column, feature or array of group keys: a group stays in one split."),
]
Numeric = Annotated[
    list[str] | None, typer.Option(help="Column that is a quantity; `size_*` names several.")
]
Categorical = Annotated[
    list[str] | None, typer.Option(help="Column that is a category, even if it holds numbers.")
]
Ignore = Annotated[
    list[str] | None, typer.Option(help="Column that is left out, such as an identifier.")
]
ImageSize = Annotated[
    str, typer.Option(help="HEIGHTxWIDTH that images are scaled to when they are read.")
]
Channels = Annotated[
    int | None, typer.Option(help="1, 3 or 4: channels that images are decoded to.")
]
ImagesKey = Annotated[str, typer.Option(help="Array of the images in a .npz.")]
LegacyKeyFile = Annotated[
    Path | None, typer.Option(help="Key of the plain AES-CBC recipe that SRC is encrypted with.")
]
Split = Annotated[str, typer.Option(help="Percent TRAIN/VALIDATION/TEST.")]
ShardSize = Annotated[int, typer.Option(min=1, max=64, help="MiB of data in a shard.")]
TransitMount = Annotated[str, typer.Option(help="Mount of the transit engine.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be sealed; needs SRC alone.")
]


@dataclass(frozen=True, slots=True)
class _Task:
    """What the command was told."""

    src: Path
    kind: SourceKind | None
    wishes: Wishes
    legacy_key: Path | None
    fractions: Fractions
    output: Output


def seal(
    src: Src,
    dest: Dest = "",
    kek: Kek = "",
    policy: Policy = None,
    kind: Kind = None,
    label: Label = None,
    label_names: LabelNames = "",
    group_key: GroupKey = None,
    numeric: Numeric = None,
    categorical: Categorical = None,
    ignore: Ignore = None,
    image_size: ImageSize = "",
    channels: Channels = None,
    images_key: ImagesKey = "images",
    legacy_key_file: LegacyKeyFile = None,
    split: Split = "80/10/10",
    shard_size: ShardSize = 16,
    transit_mount: TransitMount = "transit",
    dry_run: DryRun = False,
    staging: Staging = None,
    endpoint: EndpointOption = None,
    ca: CaOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    image: ImageOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Encrypt a dataset into a folder, one data key per split, wrapped by Vault.

    For a URI the folder is sent on, as by `upload`: only ciphertext leaves this machine.

    Features, classes and splits are found by reading SRC, and shown before anything is written.
    Names of features, classes and categories stand in clear in the sealed dataset.
    Vault is found by VAULT_ADDR, VAULT_TOKEN or ~/.vault-token, and VAULT_CACERT.
    """
    wishes = Wishes(
        label=label,
        group=group_key,
        label_names=_names(label_names),
        numeric=tuple(numeric or ()),
        categorical=tuple(categorical or ()),
        ignore=tuple(ignore or ()),
        image_size=_size(image_size),
        channels=_channels(channels),
        images_key=images_key,
    )
    task = _Task(src, kind, wishes, legacy_key_file, Fractions.parse(split), output)
    if dry_run:
        _show_only(task)
        return
    if not dest or not kek or policy is None:
        raise UsageError("DEST, --kek and --policy are needed.", fix="give them, or --dry-run")
    options = _options(task, kek, policy, transit_mount, shard_size)
    reach = Reach(S3Options(endpoint, ca, region, profile), namespace, context, image)
    _deliver(task, Destination.parse(dest, staging, reach), options)


def _deliver(task: _Task, destination: Destination, options: writer.SealOptions) -> None:
    destination.check()
    destination.send_on(task.output, _seal(task, destination, options))


def _options(
    task: _Task, kek: str, policy: Path, transit_mount: str, shard_mib: int
) -> writer.SealOptions:
    return writer.SealOptions(
        kek=kek,
        policy=policies.read_policy(policy)[0],
        transit_mount=transit_mount,
        fractions=task.fractions,
        shard_bytes=shard_mib * MIB,
    )


def _seal(task: _Task, destination: Destination, options: writer.SealOptions) -> Mapping[str, Any]:
    folder = destination.folder
    with client_from_env() as client:
        custodian = Custodian(client, options.transit_mount, options.kek)
        custodian.require()  # before the work, not after it
        check_free(folder)
        source, kind = _open(task)
        with _planned(task, source, scratch_folder(folder)) as plan:
            _show_balance(task, plan)
            started = time.monotonic()
            with render.progress_bar("sealing", len(source), task.output) as advance:
                sealed = writer.seal_planned(
                    plan,
                    folder,
                    options,
                    custodian,
                    lambda done: advance(done.records, _rate(done.bytes, started)),
                )
            return _show_sealed(task, kind, plan, sealed, time.monotonic() - started, destination)


def _show_only(task: _Task) -> None:
    source, kind = _open(task)
    with _planned(task, source, None) as plan:
        _show_balance(task, plan)
        value = {"kind": str(kind), "dryRun": True, **_data_value(plan)}
        render.emit(task.output, value, render.fields([("dry run", "nothing was written")]))
        plan.check_complete()


def _open(task: _Task) -> tuple[Source, SourceKind]:
    """Open the source and show what its records hold."""
    source, kind = open_source(task.src, task.wishes, kind=task.kind, legacy_key=task.legacy_key)
    if task.legacy_key is not None:
        render.lines(f"warning: {WARNING}")
    if task.output is Output.TEXT:
        found = feature_view.describe_features(source.features, source.task)
        rows = [("source", f"{kind} · {len(source)} records"), ("features", found)]
        rows += [("note", note) for note in source.notes]
        out = render.console()
        out.print(render.fields(rows))
        out.print(feature_view.feature_table(source.features, source.task))
    return source, kind


@contextmanager
def _planned(task: _Task, source: Source, folder: Path | None) -> Iterator[Plan]:
    """Every record's place; the bar is gone before the caller goes on."""
    with ExitStack() as stack:
        with render.progress_bar("reading", len(source), task.output) as advance:
            plan = stack.enter_context(
                planned(source, task.fractions, folder, lambda records: advance(records, ""))
            )
        yield plan


def _show_balance(task: _Task, plan: Plan) -> None:
    if task.output is Output.TEXT:
        out = render.console()
        out.print(feature_view.balance_table(plan.balance, plan.source.task))
        out.print(render.fields([("splits", feature_view.split_line(plan.balance))]))
    render.lines(*feature_view.warnings_of(plan.balance))


def _data_value(plan: Plan) -> dict[str, Any]:
    source = plan.source
    return feature_view.data_value(source.features, source.task, plan.balance, source.notes)


def _show_sealed(
    task: _Task,
    kind: SourceKind,
    plan: Plan,
    sealed: writer.Sealed,
    seconds: float,
    destination: Destination,
) -> Mapping[str, Any]:
    shards = sum(info.shards for info in sealed.manifest.splits.values())
    value = {
        "folder": str(sealed.folder),
        "kind": str(kind),
        "id": sealed.manifest.id,
        "digest": f"sha256:{sealed.sha256}",
        "shards": shards,
        "bytes": sealed.bytes,
        **_data_value(plan),
    }
    rate = f"{sealed.bytes / MIB / max(seconds, 1e-3):.0f} MiB/s"
    rows = [("sealed", f"{shards} shards · {rate} · sha256:{sealed.sha256}")]
    if task.output is Output.TEXT or destination.uri is None:
        render.emit(task.output, value, render.fields(rows + destination.next_steps()))
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidInput("--image-size", text, "is no size", fix="write it as 224x224")
    return int(match[1]), int(match[2])


def _channels(number: int | None) -> int | None:
    if number not in (None, 1, 3, 4):
        raise InvalidInput("--channels", number, "is not offered", fix="use 1, 3 or 4")
    return number


def _rate(size: int, started: float) -> str:
    return f"{size / MIB / max(time.monotonic() - started, 1e-3):.0f} MiB/s"
