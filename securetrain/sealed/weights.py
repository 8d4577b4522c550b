"""Opens a model's sealed weights, the same way for the certify pod and for the model's owner."""

from __future__ import annotations

import hmac

from securetrain.api.digest import sha256_hex
from securetrain.api.names import MODEL_KEY_NAME, model_file_associated_data
from securetrain.errors import ModelCorrupt, ShardCorrupt, WrongKey
from securetrain.sealed.dataset import key_check
from securetrain.sealed.model import ModelManifest
from securetrain.sealed.streaming import decrypt_bytes
from securetrain.secret import Secret


def open_weights(manifest: ModelManifest, sealed: bytes, dek: Secret) -> bytes:
    """Plaintext safetensors of a stored model.

    Args:
        manifest: model.json.
        sealed: content of the sealed weights' file.
        dek: the model's data key.

    Raises:
        WrongKey: the key is not the one that sealed the model.
        ModelCorrupt: the weights do not open, or are not the ones that model.json names.
    """
    if not hmac.compare_digest(key_check(dek, manifest.id, MODEL_KEY_NAME), manifest.key_check):
        raise WrongKey(
            "the model's key is not the one that sealed it",
            fix="restore model.json, or run the job again under a new name",
        )
    path = manifest.weights.path
    try:
        plain = decrypt_bytes(sealed, dek, model_file_associated_data(manifest.id, path))
    except ShardCorrupt:
        raise ModelCorrupt(f"{path} was changed, cut or moved") from None
    if sha256_hex(plain) != manifest.weights.plaintext_sha256:
        raise ModelCorrupt(f"{path} does not hold the weights that model.json names")
    return plain
