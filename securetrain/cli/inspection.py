"""`securetrain inspect`: what a sealed folder is, who may use it, whether it is whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.api.names import Split
from securetrain.cli import render
from securetrain.cli.feature_view import describe_features
from securetrain.cli.owner_keys import dataset_keys, model_key
from securetrain.cli.policies import describe_policy
from securetrain.cli.render import Output
from securetrain.errors import InvalidInput, ManifestInvalid
from securetrain.sealed import files
from securetrain.sealed.dataset import (
    DATASET_FILE,
    POLICY_FILE,
    SealedDataset,
    load_dataset,
)
from securetrain.sealed.model import (
    KEY_FILE,
    MAX_KEY_BYTES,
    MAX_MODEL_BYTES,
    MODEL_FILE,
    parse_key,
    parse_model,
)
from securetrain.sealed.policy import UsagePolicy, parse_policy
from securetrain.sealed.rewrap import key_place
from securetrain.sealed.whole import check_shards, check_weights

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Description:
    """What `inspect` prints: for programs, and as rows for people."""

    value: Mapping[str, Any]
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Depth:
    """How thoroughly to look."""

    deep: bool = False
    """Read and hash every file."""
    keys: bool = False
    """With the owner's Vault login: open the keys, and with `deep` check every tag."""

    @property
    def checked(self) -> str:
        """What is compared, in a word."""
        if not self.deep:
            return "sizes"
        return "digests and tags" if self.keys else "digests"


def inspect_folder(folder: Path, depth: Depth, output: Output) -> None:
    """Print what a sealed folder is.

    Raises:
        WrongKey, KeyRevoked: with `keys`, the keys do not open.
        InvalidInput: it is neither a sealed dataset nor a model.
        IntegrityError: a file is missing or not what it should be; its name is in the message.
    """
    if (folder / DATASET_FILE).exists():
        described = _dataset(load_dataset(folder), depth, output)
    elif (folder / MODEL_FILE).exists():
        described = _model(folder, depth, output)
    else:
        raise InvalidInput(
            "FOLDER",
            str(folder),
            f"holds neither {DATASET_FILE} nor {MODEL_FILE}",
            fix="name the folder of a sealed dataset or model",
        )
    render.emit(output, described.value, render.fields(described.rows))


def _dataset(sealed: SealedDataset, depth: Depth, output: Output) -> Description:
    manifest = sealed.manifest
    policy = parse_policy(sealed.policy_bytes)
    place = key_place(sealed)
    deks = dataset_keys(sealed) if depth.keys else None
    total = sum(entry.bytes for entries in sealed.indexes.values() for entry in entries)
    with _progress(total, output) as on_bytes:
        check_shards(sealed, deep=depth.deep, deks=deks, on_bytes=on_bytes)
    splits = {split: manifest.splits[split].records for split in Split}
    shards = sum(info.shards for info in manifest.splits.values())
    kek = f"{place.mount}/{place.kek}"
    value = {
        "kind": "dataset",
        "id": manifest.id,
        "digest": f"sha256:{sealed.manifest_sha256}",
        "policyDigest": f"sha256:{sealed.policy_sha256}",
        "created": manifest.created,
        "splits": splits,
        "shards": shards,
        "bytes": total,
        "keks": dict.fromkeys(sealed.keys, kek),
        "kekVersion": place.version,
        "policy": policy.to_wire(),
        "expired": _expired(policy),
        **_checked(depth),
    }
    rows = (
        ("dataset", f"{manifest.id} of {manifest.created}"),
        ("digest", f"sha256:{sealed.manifest_sha256}"),
        ("features", describe_features(manifest.features, manifest.task)),
        ("splits", " · ".join(f"{split} {records}" for split, records in splits.items())),
        ("KEK", f"{kek} version {place.version}"),
        *_who(policy, depth),
        ("whole", f"✓ {shards} shards, {total} bytes, {depth.checked} compared"),
    )
    return Description(value, rows)


def _model(folder: Path, depth: Depth, output: Output) -> Description:
    manifest = parse_model(files.read(folder, MODEL_FILE, MAX_MODEL_BYTES))
    key = parse_key(files.read(folder, KEY_FILE, MAX_KEY_BYTES))
    policy_bytes = files.read(folder, POLICY_FILE, MAX_POLICY_BYTES)
    policy = parse_policy(policy_bytes)
    if sha256_hex(policy_bytes) != manifest.dataset.policy_sha256:
        raise ManifestInvalid(
            f"{POLICY_FILE} is not the policy that {MODEL_FILE} names.",
            fix="restore it from a copy",
        )
    dek = model_key(manifest, key) if depth.keys else None
    with _progress(manifest.weights.bytes, output) as on_bytes:
        check_weights(folder, manifest, deep=depth.deep, dek=dek, on_bytes=on_bytes)
    value = {
        "kind": "model",
        "manifest": manifest.to_wire(),
        "kek": f"{key.mount}/{key.kek}",
        "policy": policy.to_wire(),
        **_checked(depth),
    }
    rows = (
        ("model", f"{manifest.model.architecture} of {manifest.created}"),
        ("job", f"{manifest.job.namespace}/{manifest.job.name} {manifest.job.uid}"),
        ("dataset", f"{manifest.dataset.name} sha256:{manifest.dataset.sha256}"),
        ("features", describe_features(manifest.features, manifest.task)),
        ("KEK", f"{key.mount}/{key.kek}"),
        *_who(policy, depth),
        ("whole", f"✓ weights, {manifest.weights.bytes} bytes, {depth.checked} compared"),
        ("next", "securetrain verify: who signed it, and what it reached"),
    )
    return Description(value, rows)


def _who(policy: UsagePolicy, depth: Depth) -> list[tuple[str, str]]:
    """Who may use it: the policy's rows, and whether the keys open."""
    rows = describe_policy(policy)
    if _expired(policy):
        rows.append(("", "✗ the policy has ended: no job gets keys. Fix: rewrap with a later one"))
    if depth.keys:
        rows.append(("keys", "✓ open with your login, and are the ones that sealed it"))
    return rows


def _expired(policy: UsagePolicy) -> bool:
    return time.time() >= policy.expires


def _checked(depth: Depth) -> dict[str, Any]:
    return {"checked": depth.checked, "keysOpen": True if depth.keys else None}


@contextmanager
def _progress(total: int, output: Output) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, with the rate."""
    done, started = 0, time.monotonic()
    with render.progress_bar("checking", total, output) as advance:

        def on_bytes(size: int) -> None:
            nonlocal done
            done += size
            rate = done / MIB / max(time.monotonic() - started, 1e-3)
            advance(done, f"{rate:.0f} MiB/s")

        yield on_bytes
