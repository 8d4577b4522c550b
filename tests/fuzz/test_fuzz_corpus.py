"""Every file of the corpora, whether written or found by fuzzing, is parsed as its target says."""

from __future__ import annotations

import pytest

from fuzz import target

FILES = [(name, path.name) for name in target.names() for path in (target.CORPUS / name).iterdir()]
VALID = {
    "manifest": "valid.json", "index": "valid.jsonl", "policy": "valid.json", "keys": "valid.json",
    "rewrap": "valid.json", "model": "valid.json", "weights": "valid.safetensors",
    "shard": "several", "legacy": "sealed", "npz": "whole.npz", "csv_table": "comma.csv",
    "tfrecord": "images.tfrecord", "yaml_file": "policy.yaml", "image": "png",
    "frames": "stream",
}  # fmt: skip


@pytest.mark.parametrize(("name", "file"), sorted(FILES))
def test_corpus(name: str, file: str) -> None:
    target.load(name).check(target.seed(name, file))


@pytest.mark.parametrize("name", target.names())
def test_a_target_takes_what_is_whole(name: str) -> None:
    target.load(name).parse(target.seed(name, VALID[name]))
