"""A stored model's weights are opened only whole, and only by the key that sealed them."""

from __future__ import annotations

import pytest

from securetrain.api.digest import sha256_hex
from securetrain.api.names import MODEL_KEY_NAME, model_file_associated_data
from securetrain.api.types import ModelSpec
from securetrain.errors import ModelCorrupt, WrongKey
from securetrain.sealed.dataset import Feature, Task, key_check
from securetrain.sealed.model import (
    WEIGHTS_FILE,
    ModelDataset,
    ModelJob,
    ModelManifest,
    SealedWeights,
)
from securetrain.sealed.streaming import encrypt_bytes
from securetrain.sealed.weights import open_weights
from securetrain.secret import Secret

UID = "11111111-2222-3333-4444-555555555555"
DEK, OTHER = Secret(b"k" * 32), Secret(b"o" * 32)
PLAIN = b"safetensors"


def seal(plain: bytes, dek: Secret) -> bytes:
    return encrypt_bytes(plain, dek, model_file_associated_data(UID, WEIGHTS_FILE))


def manifest(sealed: bytes) -> ModelManifest:
    return ModelManifest(
        format="securetrain/model/v1",
        id=UID,
        job=ModelJob(namespace="team-a", name="digits", uid=UID, spec_sha256="0" * 64),
        model=ModelSpec(architecture="cnn"),
        features={
            "image": Feature(dtype="uint8", shape=(8, 8, 1), encoding="raw"),
            "label": Feature(dtype="int64", shape=(), encoding="int64"),
        },
        task=Task(kind="classification", classes=2, labels=("0", "1")),
        dataset=ModelDataset(name="digits", id=UID, sha256="0" * 64, policy_sha256="0" * 64),
        key_check=key_check(DEK, UID, MODEL_KEY_NAME),
        weights=SealedWeights(
            path=WEIGHTS_FILE,
            bytes=len(sealed),
            sha256=sha256_hex(sealed),
            plaintext_sha256=sha256_hex(PLAIN),
        ),
        train_image="builtin",
        created="2026-01-01T00:00:00Z",
    )


def test_the_right_key_opens_them() -> None:
    sealed = seal(PLAIN, DEK)
    assert open_weights(manifest(sealed), sealed, DEK) == PLAIN


def test_another_key_is_refused_even_if_it_opens_the_file() -> None:
    sealed = seal(PLAIN, OTHER)
    with pytest.raises(WrongKey):
        open_weights(manifest(sealed), sealed, OTHER)


def test_a_flipped_byte_is_found() -> None:
    sealed = bytearray(seal(PLAIN, DEK))
    sealed[-1] ^= 1
    with pytest.raises(ModelCorrupt, match="was changed"):
        open_weights(manifest(bytes(sealed)), bytes(sealed), DEK)


def test_other_weights_under_the_same_key_are_found() -> None:
    sealed = seal(b"other numbers", DEK)
    with pytest.raises(ModelCorrupt, match="not hold the weights"):
        open_weights(manifest(sealed), sealed, DEK)
