"""Weights files made to attack their reader, by somebody who holds the model's key.

The reader must not run, believe or allocate what a file says: it knows names, shapes and types
beforehand, and anything else is an integrity failure within bounded time and memory.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from securetrain.api.types import ModelSpec
from securetrain.errors import ExitCode, ModelCorrupt
from securetrain_trainer import models
from support.trainer_kit import CLASSES, SIDE

pytestmark = pytest.mark.timeout(600)

SPEC = ModelSpec(architecture="mlp", parameters={"hidden": "4", "layers": "1"})
NAMES = ("dense_1/bias", "dense_1/kernel", "logits/bias", "logits/kernel")
DTYPES = (
    "BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F64", "I64", "U64", "C64",
    "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "object", "", "f32", "F32 ",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return models.build(SPEC, (SIDE, SIDE, 1), CLASSES)


@pytest.fixture(scope="module")
def good(model: Any) -> bytes:
    return models.dump_weights(models.weights_of(model))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: bytes, numbers: bytes, length: int | None = None) -> bytes:
    header += b" " * (-len(header) % 8)  # as writers pad it
    return (len(header) if length is None else length).to_bytes(8, "little") + header + numbers


def with_entry(data: bytes, name: str = "logits/bias", **changes: Any) -> bytes:
    header, numbers = split(data)
    header[name] |= changes
    return join(json.dumps(header, separators=(",", ":")).encode(), numbers)


def with_header(data: bytes, change: Callable[[bytes], bytes], length: int | None = None) -> bytes:
    header, numbers = split(data)
    return join(change(json.dumps(header, separators=(",", ":")).encode()), numbers, length)


def with_number(data: bytes, value: float, place: int = -1) -> bytes:
    _header, numbers = split(data)
    array = np.frombuffer(numbers, np.float32).copy()
    array[place] = value
    return data[: len(data) - len(numbers)] + array.tobytes()


def of_type(name: str) -> Callable[[bytes], bytes]:
    return lambda data: with_entry(data, dtype=name)


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "no header": lambda d: b"",
    "half a length": lambda d: d[:5],
    "length only": lambda d: d[:8],
    "header of nothing": lambda d: join(b"", split(d)[1]),
    "header longer than the file": lambda d: (len(d) + 1).to_bytes(8, "little") + d[8:],
    "header of all that there is": lambda d: (2**64 - 1).to_bytes(8, "little") + d[8:],
    "header that wraps around": lambda d: (2**64 - 8).to_bytes(8, "little") + d[8:],
    "header one byte short": lambda d: (
        (len(d) - len(split(d)[1]) - 9).to_bytes(8, "little") + d[8:]
    ),
    "header not JSON": lambda d: with_header(d, lambda h: h[:-1]),
    "header a list": lambda d: with_header(d, lambda h: b"[" + h + b"]"),
    "header of blanks": lambda d: with_header(d, lambda h: b" " * 500_000),
    "header padded": lambda d: with_header(d, lambda h: h + b" " * 4096),
    "header nested deep": lambda d: with_header(d, lambda h: b'{"a":' * 100_000),
    "header of nested lists": lambda d: with_header(d, lambda h: b'{"a":' + b"[" * 100_000),
    "header of many tensors": lambda d: with_header(
        d,
        lambda h: json.dumps(
            {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(9000)}
        ).encode(),
    ),
    "a key twice": lambda d: with_header(
        d, lambda h: h[:-1] + b"," + json.dumps({NAMES[0]: split(d)[0][NAMES[0]]}).encode()[1:]
    ),
    "a field twice": lambda d: with_header(
        d, lambda h: h.replace(b'"dtype"', b'"dtype":"F16","dtype"', 1)
    ),
    "an unknown field": lambda d: with_entry(d, code="import os"),
    "a huge shape": lambda d: with_entry(d, shape=[2**62, 2**62]),
    "a huge shape of nothing": lambda d: with_entry(d, shape=[2**63, 0], data_offsets=[0, 0]),
    "a shape below zero": lambda d: with_entry(d, shape=[-3]),
    "a shape that is a float": lambda d: with_entry(d, shape=[3.0]),
    "a deep shape": lambda d: with_entry(d, shape=[1] * 5000 + [CLASSES]),
    "a flat shape": lambda d: with_entry(d, shape=[CLASSES, 1]),
    "no shape": lambda d: with_entry(d, shape=[]),
    "offsets reversed": lambda d: with_entry(d, data_offsets=[12, 0]),
    "offsets past the end": lambda d: with_entry(d, data_offsets=[2**40, 2**40 + 12]),
    "offsets that wrap": lambda d: with_entry(d, data_offsets=[2**64 - 12, 2**64]),
    "offsets of another": lambda d: with_entry(
        d, data_offsets=split(d)[0]["dense_1/bias"]["data_offsets"]
    ),
    "offsets below zero": lambda d: with_entry(d, data_offsets=[-12, 0]),
    "a gap": lambda d: with_entry(
        d + bytes(8), data_offsets=[end + 8 for end in split(d)[0]["logits/bias"]["data_offsets"]]
    ),
    "bytes at the end": lambda d: d + b"\0",
    "a byte too few": lambda d: d[:-1],
    "metadata": lambda d: with_header(d, lambda h: b'{"__metadata__":{"x":"y"},' + h[1:]),
    "a name that is a path": lambda d: with_header(d, lambda h: h.replace(b"logits/", b"../../")),
    "a name of controls": lambda d: with_header(d, lambda h: h.replace(b"logits", b"\\u001b[2J")),
    "a name of a surrogate": lambda d: with_header(d, lambda h: h.replace(b"logits", b"\\ud800")),
    "one tensor missing": lambda d: safetensors.numpy.save(
        {k: v for k, v in safetensors.numpy.load(d).items() if k != NAMES[0]}
    ),
    "one tensor more": lambda d: safetensors.numpy.save(
        {**safetensors.numpy.load(d), "logits/more": np.zeros(1, np.float32)}
    ),
    "not a number": lambda d: with_number(d, float("nan")),
    "infinity": lambda d: with_number(d, float("inf"), 0),
    "less than any number": lambda d: with_number(d, float("-inf"), 7),
    **{f"type {name}": of_type(name) for name in DTYPES},
    "a zip archive": lambda d: b"PK\x03\x04" + d,
    "an HDF5 file": lambda d: b"\x89HDF\r\n\x1a\n" + d,
    "a pickle": lambda d: b"\x80\x04\x95\x10\0\0\0\0\0\0\0cos\nsystem\n(S'true'\ntR.",
}


def test_the_untouched_file_is_read(model: Any, good: bytes) -> None:
    assert set(models.parse_weights(good, model)) == set(NAMES)
    assert models.parse_weights(with_number(good, 0.25), model)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_weights_file_made_to_attack_its_reader_is_refused(
    model: Any, good: bytes, attack: str
) -> None:
    data = ATTACKS[attack](good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelCorrupt, match="weight") as caught:
        models.parse_weights(data, model)
    assert caught.value.exit_code == ExitCode.INTEGRITY
    assert str(caught.value).isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
