"""Whatever the bytes, a parser answers with a value or with one of our errors."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetrain.api.digest import sha256_hex
from securetrain.api.names import Split
from securetrain.errors import InvalidInput, ManifestInvalid, ShardCorrupt
from securetrain.sealed.dataset import SplitInfo, parse_index, parse_keys, parse_manifest
from securetrain.sealed.model import parse_key, parse_model
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.npz import NpzSource
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.secret import Secret
from support.altered_documents import JSON, changed, places
from support.sealed_folders import repack

RELAXED = settings(deadline=None)
"""A busy machine is no failure."""
SHA = "a" * 64
WRAPPED = {"mount": "transit", "kek": "k", "wrapped": "vault:v1:" + "A" * 80}
FEATURES = {
    "image": {"dtype": "uint8", "shape": [28, 28, 1], "encoding": "raw"},
    "label": {"dtype": "int64", "shape": [], "encoding": "int64"},
}
TASK = {"kind": "classification", "classes": 2, "labels": ["a", "b"]}
SPLIT = {"records": 1, "shards": 1, "indexSha256": SHA, "keyCheck": SHA}
NOW = "2026-01-01T00:00:00Z"

VALID: dict[Callable[[bytes], Any], dict[str, Any]] = {
    parse_manifest: {
        "format": "securetrain/dataset/v1",
        "id": "00000000-0000-4000-8000-000000000000",
        "created": NOW,
        "records": "tf.train.Example",
        "cipher": "AES256_GCM_HKDF_1MB",
        "features": FEATURES,
        "task": TASK,
        "splits": {split: SPLIT for split in Split},
    },
    parse_keys: {"format": "securetrain/keys/v1", "keys": {split: WRAPPED for split in Split}},
    parse_policy: {
        "format": "securetrain/policy/v1",
        "namespaces": ["team-a"],
        "images": ["builtin"],
        "outputKeks": ["k"],
        "notAfter": NOW,
    },
    parse_key: {
        "format": "securetrain/model-key/v1",
        **WRAPPED,
        "jobUid": "u",
        "policySha256": SHA,
    },
    parse_model: {
        "format": "securetrain/model/v1",
        "id": "u",
        "job": {"namespace": "n", "name": "j", "uid": "u", "specSha256": SHA},
        "model": {"architecture": "cnn", "parameters": {}},
        "features": FEATURES,
        "task": TASK,
        "dataset": {"name": "d", "id": "i", "sha256": SHA, "policySha256": SHA},
        "keyCheck": SHA,
        "weights": {"path": "w", "bytes": 56, "sha256": SHA, "plaintextSha256": SHA},
        "trainImage": "builtin",
        "created": NOW,
    },
}
PARSERS = pytest.mark.parametrize("parser", VALID, ids=lambda parser: parser.__name__)


@PARSERS
def test_the_samples_are_valid(parser: Callable[[bytes], Any]) -> None:
    parser(json.dumps(VALID[parser]).encode())


@PARSERS
@RELAXED
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_noise(parser: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        parser(data)


@PARSERS
@RELAXED
@given(draw=st.data(), to=JSON)
def test_one_value_replaced(parser: Callable[[bytes], Any], draw: st.DataObject, to: Any) -> None:
    place = draw.draw(st.sampled_from(places(VALID[parser])))
    with contextlib.suppress(ManifestInvalid):
        parser(json.dumps(changed(VALID[parser], place, to)).encode())


@PARSERS
@RELAXED
@given(draw=st.data(), name=st.text(), value=JSON)
def test_one_unknown_field(
    parser: Callable[[bytes], Any], draw: st.DataObject, name: str, value: Any
) -> None:
    objects = [p for p in places(VALID[parser]) if isinstance(at(VALID[parser], p), dict)]
    place = draw.draw(st.sampled_from([p for p in objects if p[-1:] != ("parameters",)]))
    target = at(VALID[parser], place)
    known = {*target, "gates", "networkIsolation", "metrics", "parameters"}
    if name not in known:
        with pytest.raises(ManifestInvalid):
            parser(json.dumps(changed(VALID[parser], place, {**target, name: value})).encode())


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for key in place:
        value = value[key]
    return value


@PARSERS
@RELAXED
@given(draw=st.data())
def test_one_byte_changed(parser: Callable[[bytes], Any], draw: st.DataObject) -> None:
    data = bytearray(json.dumps(VALID[parser]).encode())
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ManifestInvalid):
        parser(bytes(data))


@RELAXED
@given(st.binary(max_size=400))
def test_index_noise(data: bytes) -> None:
    info = SplitInfo(records=1, shards=1, index_sha256=sha256_hex(data), key_check=SHA)
    with pytest.raises(ManifestInvalid):
        parse_index(data, info, Split.TRAIN)


@RELAXED
@given(st.binary(max_size=400))
def test_stream_noise(data: bytes) -> None:
    with pytest.raises(ShardCorrupt):
        decrypt_bytes(data, Secret(b"k" * 32), b"place")


@settings(RELAXED, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_array_headers(tmp_path: Path, draw: st.DataObject) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3, 4), dtype=np.uint8))
    data = bytearray(stream.getvalue())
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, 127))] = draw.draw(st.integers(0, 255))
    with pytest.raises(InvalidInput):  # there are no labels, whatever the images are
        NpzSource(repack(tmp_path / "a.npz", images=bytes(data)), Wishes())
