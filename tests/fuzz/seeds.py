"""Writes the first files of the corpora anew, from really sealed data: `python -m fuzz.seeds`.

The keys are made for it and kept nowhere. What fuzzing found, named otherwise, is left alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import yaml

from fuzz import target
from fuzz.targets import frames, shard, tfrecord, weights
from securetrain.cli.policy_text import to_yaml
from securetrain.sealed import streaming
from securetrain.sealed.dataset import KEYS_FILE
from securetrain.sealed.examples import encode_example, frame
from securetrain.sealed.pair import Pending
from securetrain.sealed.policy import POLICY_FILE, RequiredGate
from securetrain.sealed.sources.base import Source, Wishes
from securetrain.sealed.sources.image_folder import ImageFolder
from securetrain.sealed.sources.opening import open_source
from securetrain.sealed.strict_json import dump
from securetrain.sealed.writer import SealOptions, seal
from securetrain_trainer.models import dump_weights, weights_of
from support import samples
from support.real_sources import csv_file, encoded, image_folder, legacy, npz_file, picture
from support.sealed_folders import POLICY, KeptKeys, digits_source, sealed_model

Seed = tuple[str, str, bytes]
REQUESTS = (
    b'{"op": "create", "name": "upload.json", "size": 2, "sha256": "%"}|{}',
    b'{"op": "write", "name": "shards/a.sealed", "size": 5, "sha256": "%"}|bytes',
    b'{"op": "list", "limit": 9}',
    b'{"op": "digest", "name": "shards/a.sealed"}',
    b'{"op": "read", "name": "shards/a.sealed", "limit": 9}',
    b'{"op": "remove", "name": "upload.json"}',
)
"""One of each that a receiver takes; see `frames.framed`."""
GATES = (RequiredGate(metric="accuracy", min="0.97"), RequiredGate(metric="loss", max="0.5"))
STRICT = POLICY.model_copy(
    update={"images": ("builtin", "sha256:" + "1" * 64), "gates": GATES, "network_isolation": False}
)
TAGGED = b"a: !!int ''\nb: !!bool q\nc: !!timestamp q\nd: !!str 5\ne: !!float 1\n"
LARGE = b"apiVersion: securetrain.dev/v1alpha1\nkind: 0x" + b"f" * 4000 + b"\n"
MERGED = b"a: &a {b: 1e-3, c: '2'}\nd: {<<: *a, e: [x, 2026-01-01]}\nf: |\n  g\n"


def main() -> None:
    """Write them."""
    with TemporaryDirectory() as folder:
        for name, file, data in seeds(Path(folder)):
            path = target.CORPUS / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def seeds(folder: Path) -> Iterator[Seed]:
    """Target, file and content of each."""
    yield from of_datasets(folder)
    yield "policy", "valid.json", dump(STRICT)
    yield "policy", "least.json", dump(POLICY)
    yield "model", "valid.json", (sealed_model(folder / "model") / "model.json").read_bytes()
    yield "weights", "valid.safetensors", dump_weights(weights_of(weights.model()))
    yield from of_shards()
    yield from of_sources(folder)
    yield "yaml_file", "policy.yaml", to_yaml(STRICT).encode()
    yield "yaml_file", "job.yaml", yaml.safe_dump(samples.training_job("a", "b")).encode()
    for name, data in (("merged", MERGED), ("tagged", TAGGED), ("large-integer", LARGE)):
        yield "yaml_file", f"{name}.yaml", data
    yield "frames", "stream", b"".join(map(frames.framed, REQUESTS))
    yield "frames", "lines", b"\n".join(REQUESTS)


def of_datasets(folder: Path) -> Iterator[Seed]:
    """The descriptions of sealed datasets of each kind."""
    table, _ = open_source(csv_file(folder / "t.csv", 60), Wishes(label="kind", ignore=("id",)))
    images = ImageFolder(image_folder(folder / "images", 24), Wishes())
    sources: dict[str, Source] = {
        "valid": digits_source(folder, 40),
        "table": table,
        "images": images,
    }
    for name, source in sources.items():
        options = SealOptions(kek="team-a-digits", policy=dump(STRICT), shard_bytes=512)
        seal(source, sealed := folder / f"sealed-{name}", options, KeptKeys())
        yield "manifest", f"{name}.json", (sealed / "dataset.json").read_bytes()
        yield "index", f"{name}.jsonl", (sealed / "train.index.jsonl").read_bytes()
    both = ((sealed / file).read_bytes() for file in (POLICY_FILE, KEYS_FILE))
    yield "keys", "valid.json", (sealed / KEYS_FILE).read_bytes()
    yield "rewrap", "valid.json", dump(Pending.of(*both))


def of_shards() -> Iterator[Seed]:
    """Sealed streams of no, one and several segments; and frames as a shard holds them."""
    records = b"".join(frame(encode_example({"label": number})) for number in range(3))
    yield "shard", "frames", records
    with patch.object(streaming, "SEGMENT", shard.SEGMENT):
        for name, plain in (("empty", b""), ("one", b"x" * 5), ("several", records * 3)):
            yield "shard", name, streaming.encrypt_bytes(plain, shard.DEK, shard.PLACE)


def of_sources(folder: Path) -> Iterator[Seed]:
    """Sources of each kind, whole, and parts that lie under a checksum or a cipher."""
    table = csv_file(folder / "small.csv", 9).read_bytes()
    yield "csv_table", "comma.csv", table
    yield "csv_table", "tab.csv", csv_file(folder / "small.tsv", 9, "\t").read_bytes()
    yield "csv_table", "quoted.csv", b'\xef\xbb\xbfid,"a ""b""",kind\r\n1,"2,5",x\r\n2,,"y\nz"\r\n'
    yield "legacy", "content.csv", table
    yield "legacy", "sealed", legacy(table)
    yield "legacy", "twice", legacy(table, twice=True)
    yield "npz", "whole.npz", npz_file(folder / "small.npz", 3).read_bytes()
    for name, array in (
        ("grey.npy", np.zeros((3, 2, 2), np.uint8)),
        ("fortran.npy", np.asfortranarray(np.arange(18, dtype=np.uint8).reshape(3, 2, 3, 1))),
    ):
        np.save(stream := io.BytesIO(), array)
        yield "npz", name, stream.getvalue()
    examples = [
        encode_example({"image": encoded(picture(0, n, side=3)), "label": n}) for n in range(2)
    ]
    numbers = [
        encode_example({"v": np.array([n, 0.5], np.float32), "z": n, "label": n}) for n in range(2)
    ]
    yield "tfrecord", "images.tfrecord", b"".join(map(frame, examples))
    yield "tfrecord", "records", tfrecord.BREAK.join(numbers)
    yield "image", "png", encoded(picture(0, 0, side=3))
    yield "image", "grey.png", encoded(picture(0, 0, side=3, channels=1))
    yield "image", "jpeg", encoded(picture(0, 0, side=3), "JPEG")


if __name__ == "__main__":
    main()
