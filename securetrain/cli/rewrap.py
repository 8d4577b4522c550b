"""`securetrain rewrap` and `securetrain shred`: what an owner changes about sealed data's keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from securetrain.api.digest import sha256_hex
from securetrain.cli import policies, render
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import InvalidInput, KeyRevoked, UsageError, VaultMisconfigured
from securetrain.sealed.dataset import KEYS_FILE, POLICY_FILE, SealedDataset, load_dataset
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.rewrap import KeyPlace, Rewrapped, key_place, open_keys, settled
from securetrain.sealed.rewrap import rewrap as wrap_again
from securetrain.vault.custody import Custodian

LOCAL_FIX: Final = (
    f"copy its *.json and *.index.jsonl files here, work on them, and copy {POLICY_FILE} and"
    f" {KEYS_FILE} back; shards are not needed"
)

Answer = TypeVar("Answer", bool, str)

FolderArgument = Annotated[str, typer.Argument(metavar="DATASET", help="A sealed dataset.")]


def register(app: typer.Typer) -> None:
    """Add `rewrap` and `shred`."""
    app.command()(rewrap)
    app.command()(shred)


def rewrap(
    dataset: FolderArgument,
    policy: Annotated[
        Path | None,
        typer.Option(help="The policy from now on, JSON or YAML; else the present one."),
    ] = None,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Make every earlier wrapped key useless.")
    ] = False,
    kek: Annotated[
        str | None, typer.Option(help="Wrap by another KEK; the present one stays valid.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Wrap a dataset's keys again, by a new version of its KEK; shards stay as they are.

    With --policy the dataset gets a new usage policy. An earlier policy stays valid for whoever
    kept its files, until --revoke has Vault refuse all that was wrapped before.
    """
    _check_options(policy, revoke, kek)
    folder = _local(dataset)
    sealed = load_dataset(folder)
    wanted = policies.read_policy(policy)[0] if policy else sealed.policy_bytes
    place = key_place(sealed)
    with client_from_env() as client:
        custodian = Custodian(client, place.mount, place.kek)
        versions = custodian.versions()
        wraps = not (revoke and settled(sealed, versions, wanted))
        open_keys(sealed, custodian)  # before the question, not after it
        move = None
        if kek and kek != place.kek:
            move = (kek, Custodian(client, place.mount, kek))
            move[1].require()
        _show_plan(sealed, place, wanted, kek or place.kek if wraps else None)
        last = versions.latest if wraps else versions.latest - 1
        said = _consequences(place, last, revoke, wanted != sealed.policy_bytes)
        if move:
            said.append(_left_behind(place, move[0]))
        _confirm(yes, said)
        done = wrap_again(
            folder, sealed, custodian, policy=wanted if policy else None, revoke=revoke, move=move
        )
    _show_done(folder, place.mount, kek or place.kek, done, output)


def shred(
    dataset: FolderArgument,
    confirm: Annotated[
        str | None, typer.Option(help="The KEK's name, to confirm without being asked.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Destroy every version of a dataset's KEK so far: nobody can read the dataset ever again.

    That holds for all copies that this KEK has wrapped, and for all other datasets that it has. The
    KEK itself stays, with a new version. A KEK that the dataset had before `rewrap --kek` is not
    touched. Needs the Vault policy st-shred-<namespace>.
    """
    sealed = load_dataset(_local(dataset))
    place = key_place(sealed)
    with client_from_env() as client:
        custodian = Custodian(client, place.mount, place.kek)
        kept = custodian.versions().kept
        if shredded := place.version >= kept:
            _require_own(sealed, custodian)
            _confirm_loss(place, confirm)
            kept = custodian.rotate()
            custodian.destroy_before(kept)
        _require_unreadable(sealed, custodian)
    value = {
        "shredded": shredded,
        "id": sealed.manifest.id,
        "kek": f"{place.mount}/{place.kek}",
        "destroyedBefore": kept,
    }
    said = "shredded" if shredded else "was shredded before"
    rows = [
        ("dataset", f"{sealed.manifest.id} {said}: nobody can read it any more"),
        ("KEK", f"{place.mount}/{place.kek}, versions before {kept} are destroyed"),
        ("note", "backups of Vault's storage from before still hold them: let them expire"),
    ]
    render.emit(output, value, render.fields(rows))


def _check_options(policy: Path | None, revoke: bool, kek: str | None) -> None:
    if revoke and policy is None:
        # What lies in the storage may be an older, looser policy that somebody put back.
        raise UsageError(
            "--revoke needs --policy: the file that holds from now on.",
            fix="name your own copy of the policy, not the one in the dataset's folder",
        )
    if revoke and kek is not None:
        raise UsageError(
            "--kek leaves the present KEK as it is, so there is nothing to --revoke.",
            fix="re-wrap with --kek; then revoke or shred what the old KEK still protects",
        )


def _local(dataset: str) -> Path:
    if "://" in dataset:
        raise InvalidInput("DATASET", dataset, "is not a local folder", fix=LOCAL_FIX)
    return Path(dataset)


def _show_plan(sealed: SealedDataset, place: KeyPlace, wanted: bytes, kek: str | None) -> None:
    """Say on standard error what will be wrapped: whoever writes to storage could swap it."""
    before = f"{place.mount}/{place.kek} version {place.version}"
    after = f"→ a new version of {kek}" if kek else "stays: it was made for this policy"
    rows = [
        ("dataset", f"{sealed.manifest.id} sha256:{sealed.manifest_sha256}"),
        ("KEK", f"{before} {after}"),
        ("policy", _change(sealed.policy_sha256, sha256_hex(wanted))),
        *policies.describe_policy(parse_policy(wanted)),
    ]
    render.lines(*(f"{name:<12} {value}" for name, value in rows))


def _change(before: str, after: str) -> str:
    unchanged = before == after
    return f"sha256:{before[:16]}… " + ("stays" if unchanged else f"→ sha256:{after[:16]}…")


def _consequences(place: KeyPlace, last: int, revoke: bool, changed: bool) -> list[str]:
    said = []
    if changed:
        said.append(
            "Jobs that have keys under the present policy cannot be certified any more:"
            " they end with DatasetChanged. Wait for them, or run them again."
        )
    if revoke:
        said += [
            f"Vault will open nothing that version {last} of {place.kek} or an earlier one"
            " wrapped: other copies of this dataset need the new files, and pods that ask with"
            " the old ones fail with KeyRevoked. Pods that have their keys run on.",
            f"Other datasets under {place.kek} become unreadable: move them with --kek first.",
        ]
    elif changed:
        said.append("The present policy stays valid for whoever keeps its files: see --revoke.")
    return said


def _left_behind(place: KeyPlace, kek: str) -> str:
    return (
        f"What {place.kek} wrapped stays valid: whoever kept the present {KEYS_FILE} can go on"
        f" with it, and neither --revoke nor shred of {kek} reaches it. To end that, shred"
        f" {place.kek} too: keep a copy of {POLICY_FILE} and {KEYS_FILE} for it."
    )


def _confirm(yes: bool, consequences: Sequence[str]) -> None:
    render.lines(*(f"! {text}" for text in consequences))
    if not yes and not _ask(lambda: typer.confirm("Go on?", err=True)):
        raise typer.Abort


def _confirm_loss(place: KeyPlace, confirm: str | None) -> None:
    render.lines(
        f"! Everything that {place.mount}/{place.kek} has ever wrapped is lost for good: this"
        " dataset, its copies, and every other dataset under this KEK.",
        "! Models that were trained on it are not touched: they have a KEK of their own.",
    )
    if confirm is None:
        confirm = _ask(lambda: str(typer.prompt("Type the KEK's name to go on", err=True)))
    if confirm != place.kek:
        raise InvalidInput(
            "--confirm",
            confirm,
            "is not the KEK's name",
            fix=f"nothing was done: it is {place.kek}",
        )


def _ask(question: Callable[[], Answer]) -> Answer:
    if not sys.stdin.isatty():
        raise UsageError(
            "Nobody can be asked here.", fix="read what stands above, then add --yes or --confirm"
        )
    return question()


def _require_own(sealed: SealedDataset, custodian: Custodian) -> None:
    """Before anything is lost: it is this dataset's KEK. Raises WrongKey if storage swapped it."""
    with suppress(KeyRevoked):  # revoked before: Vault cannot tell; the KEK's name is asked for
        open_keys(sealed, custodian)


def _require_unreadable(sealed: SealedDataset, custodian: Custodian) -> None:
    """Prove it: no key of the dataset opens."""
    try:
        open_keys(sealed, custodian)
    except KeyRevoked:
        return
    raise VaultMisconfigured("The dataset can still be read.", fix="ask your Vault admin")


def _refused(least: int) -> str:
    return f"whatever a version before {least} wrapped" if least > 1 else "nothing: see --revoke"


def _show_done(folder: Path, mount: str, kek: str, done: Rewrapped, output: Output) -> None:
    value = {
        "wrapped": done.wrapped,
        "folder": str(folder),
        "kek": f"{mount}/{kek}",
        "version": done.version,
        "refusedBefore": done.refused_before,
        "policyDigest": f"sha256:{done.policy_sha256}",
        "previousPolicyDigest": f"sha256:{done.previous_policy_sha256}",
    }
    how = "wrapped by" if done.wrapped else "were already wrapped by"
    rows = [
        ("keys", f"{how} version {done.version} of {mount}/{kek}"),
        ("policy", _change(done.previous_policy_sha256, done.policy_sha256)),
        ("refused", _refused(done.refused_before)),
        ("next", f"copy {POLICY_FILE} and {KEYS_FILE} over those of every copy of the dataset"),
    ]
    render.emit(output, value, render.fields(rows))
