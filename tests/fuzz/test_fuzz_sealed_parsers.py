"""Whatever the bytes, a parser answers with a sound value or with one of our errors.

What that means for each parser is said once, in `fuzz.targets`, where atheris looks for inputs that
break it; hypothesis does the same here, for moments only.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import target
from fuzz.target import Target
from fuzz.targets import keys, manifest, model, policy, rewrap
from securetrain.api.digest import sha256_hex
from securetrain.api.names import Split
from securetrain.errors import InvalidInput, ManifestInvalid, ShardCorrupt
from securetrain.sealed.dataset import SplitInfo, parse_index
from securetrain.sealed.model import parse_key
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.npz import NpzSource
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.secret import Secret
from support.altered_documents import JSON, changed, documents, places
from support.sealed_folders import repack

RELAXED = settings(deadline=None)
"""A busy machine is no failure."""
SHA = "a" * 64
MODEL_KEY = {
    "format": "securetrain/model-key/v1",
    "mount": "transit",
    "kek": "k",
    "wrapped": "vault:v1:" + "A" * 80,
    "jobUid": "u",
    "policySha256": SHA,
}
TARGETS = {
    "manifest": manifest.TARGET,
    "keys": keys.TARGET,
    "policy": policy.TARGET,
    "rewrap": rewrap.TARGET,
    "model": model.TARGET,
    "key": Target(parse_key, names="key.json"),
}
VALID: dict[str, Any] = {
    name: json.loads(target.seed(name, "valid.json")) for name in TARGETS if name != "key"
} | {"key": MODEL_KEY}
EACH = pytest.mark.parametrize("name", TARGETS)


@EACH
def test_the_samples_are_valid(name: str) -> None:
    TARGETS[name].holds(TARGETS[name].parse(json.dumps(VALID[name]).encode()))


@EACH
@RELAXED
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_noise(name: str, data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        TARGETS[name].parse(data)
    TARGETS[name].check(data)


@EACH
@RELAXED
@given(draw=st.data())
def test_altered_documents(name: str, draw: st.DataObject) -> None:
    TARGETS[name].check(draw.draw(documents(VALID[name])))


@EACH
@RELAXED
@given(draw=st.data(), field=st.text(), value=JSON)
def test_one_unknown_field(name: str, draw: st.DataObject, field: str, value: Any) -> None:
    valid = VALID[name]
    objects = [p for p in places(valid) if isinstance(at(valid, p), dict)]
    place = draw.draw(st.sampled_from([p for p in objects if p[-1:] != ("parameters",)]))
    parent = at(valid, place)
    known = {*parent, "gates", "networkIsolation", "metrics", "parameters", "min", "max"}
    if field not in known:
        other = json.dumps(changed(valid, place, {**parent, field: value})).encode()
        with pytest.raises(ManifestInvalid):
            TARGETS[name].parse(other)


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for key in place:
        value = value[key]
    return value


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


@settings(
    RELAXED, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(draw=st.data())
def test_array_headers(tmp_path: Path, draw: st.DataObject) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3, 4), dtype=np.uint8))
    data = bytearray(stream.getvalue())
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, 127))] = draw.draw(st.integers(0, 255))
    with pytest.raises(InvalidInput):  # there are no labels, whatever the images are
        NpzSource(repack(tmp_path / "a.npz", images=bytes(data)), Wishes())
