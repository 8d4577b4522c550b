"""`securetrain inspect`: what a sealed folder is, who may use it, whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.api.names import Split
from securetrain.cli import render
from securetrain.cli.policies import describe_policy
from securetrain.cli.render import Output
from securetrain.errors import InvalidInput, ManifestInvalid
from securetrain.sealed import files
from securetrain.sealed.dataset import (
    DATASET_FILE,
    POLICY_FILE,
    Feature,
    SealedDataset,
    Task,
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
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.whole import check_shards, check_weights


@dataclass(frozen=True, slots=True)
class Description:
    """What `inspect` prints: for programs, and as rows for people."""

    value: Mapping[str, Any]
    rows: tuple[tuple[str, str], ...]


def inspect_folder(folder: Path, *, deep: bool, output: Output) -> None:
    """Print what a sealed folder is.

    Raises:
        InvalidInput: it is neither a sealed dataset nor a model.
        IntegrityError: a file is missing or not what it should be; its name is in the message.
    """
    if (folder / DATASET_FILE).exists():
        described = _dataset(load_dataset(folder), deep, output)
    elif (folder / MODEL_FILE).exists():
        described = _model(folder, deep)
    else:
        raise InvalidInput(
            "FOLDER",
            str(folder),
            f"holds neither {DATASET_FILE} nor {MODEL_FILE}",
            fix="name the folder of a sealed dataset or model",
        )
    render.emit(output, described.value, render.fields(described.rows))


def describe_features(features: Mapping[str, Feature], task: Task) -> str:
    """Features and task in one line, such as `image uint8 28×28×1 · label 10 classes`."""
    image = features["image"]
    shape = "×".join(str(side) for side in image.shape)
    return f"image {image.dtype} {shape} · label {task.classes} classes"


def _dataset(sealed: SealedDataset, deep: bool, output: Output) -> Description:
    manifest = sealed.manifest
    policy = parse_policy(sealed.policy_bytes)
    shards = sum(info.shards for info in manifest.splits.values())
    done = 0
    with render.progress_bar("checking", shards, output) as advance:

        def on_file() -> None:
            nonlocal done
            done += 1
            advance(done, "")

        size = check_shards(sealed, deep=deep, on_file=on_file)
    splits = {split: manifest.splits[split].records for split in Split}
    keks = {split: f"{key.mount}/{key.kek}" for split, key in sealed.keys.items()}
    value = {
        "kind": "dataset",
        "id": manifest.id,
        "digest": f"sha256:{sealed.manifest_sha256}",
        "policyDigest": f"sha256:{sealed.policy_sha256}",
        "created": manifest.created,
        "splits": splits,
        "shards": shards,
        "bytes": size,
        "keks": keks,
        "policy": policy.to_wire(),
        "checked": _checked(deep),
    }
    rows = (
        ("dataset", f"{manifest.id} of {manifest.created}"),
        ("digest", f"sha256:{sealed.manifest_sha256}"),
        ("features", describe_features(manifest.features, manifest.task)),
        ("splits", " · ".join(f"{split} {records}" for split, records in splits.items())),
        ("KEK", ", ".join(sorted(set(keks.values())))),
        *describe_policy(policy),
        ("whole", f"✓ {shards} shards, {size} bytes, {_checked(deep)} compared"),
    )
    return Description(value, rows)


def _model(folder: Path, deep: bool) -> Description:
    manifest = parse_model(files.read(folder, MODEL_FILE, MAX_MODEL_BYTES))
    key = parse_key(files.read(folder, KEY_FILE, MAX_KEY_BYTES))
    policy_bytes = files.read(folder, POLICY_FILE, MAX_POLICY_BYTES)
    policy = parse_policy(policy_bytes)
    if sha256_hex(policy_bytes) != manifest.dataset.policy_sha256:
        raise ManifestInvalid(
            f"{POLICY_FILE} is not the policy that {MODEL_FILE} names.",
            fix="restore it from a copy",
        )
    check_weights(folder, manifest.weights, deep=deep)
    value = {
        "kind": "model",
        "checked": _checked(deep),
        "manifest": manifest.to_wire(),
        "kek": f"{key.mount}/{key.kek}",
        "policy": policy.to_wire(),
    }
    rows = (
        ("model", f"{manifest.model.architecture} of {manifest.created}"),
        ("job", f"{manifest.job.namespace}/{manifest.job.name} {manifest.job.uid}"),
        ("dataset", f"{manifest.dataset.name} sha256:{manifest.dataset.sha256}"),
        ("features", describe_features(manifest.features, manifest.task)),
        ("KEK", f"{key.mount}/{key.kek}"),
        *describe_policy(policy),
        ("whole", f"✓ weights, {manifest.weights.bytes} bytes, {_checked(deep)} compared"),
        ("next", "securetrain verify: who signed it, and what it reached"),
    )
    return Description(value, rows)


def _checked(deep: bool) -> str:
    return "digests" if deep else "sizes"
