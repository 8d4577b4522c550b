"""Vault's own rules about who may ask for what: HCL text of every policy. Pure.

They bind the operator itself. It can get keys only inside single-use tokens of at most a minute,
of the splits that its role is for, and never a batch, whose items these rules cannot see into.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from securetrain.api.names import MODEL_DEK_PREFIX, SPLITS_OF, Purpose, dek_prefix

MIN_WRAPPING_TTL: Final = "10s"
MAX_WRAPPING_TTL: Final = "60s"


def grant_policy(
    purpose: Purpose, transit: str, dataset_keks: Sequence[str], model_keks: Sequence[str]
) -> str:
    """Policy `st-train-<ns>` or `st-certify-<ns>`.

    Args:
        purpose: decides the splits; a train role cannot ask for the test split's key.
        transit: the transit mount.
        dataset_keks: KEKs of the datasets that jobs of the namespace may train on.
        model_keks: KEKs of the models that they may make.
    """
    bindings = [encoded_prefix(dek_prefix(split)) for split in SPLITS_OF[purpose]]
    context = [encoded_prefix(MODEL_DEK_PREFIX)]
    rules = [_decrypt(transit, kek, "associated_data", bindings) for kek in dataset_keks]
    rules += [_decrypt(transit, kek, "context", context) for kek in model_keks]
    if purpose is Purpose.TRAIN:
        rules += [_datakey(transit, kek, context) for kek in model_keks]
    return "\n".join(rules)


def signing_policy(transit: str, key: str) -> str:
    """Policy `st-sign`: SHA-256 digests only, with a named version of one key."""
    return f"""\
path "{transit}/sign/{key}/sha2-256" {{
  capabilities        = ["update"]
  required_parameters = ["input", "prehashed", "marshaling_algorithm", "key_version"]
  allowed_parameters  = {{
    "input"                = []
    "prehashed"            = [true]
    "marshaling_algorithm" = ["asn1"]
    "key_version"          = []
  }}
}}

path "{transit}/keys/{key}" {{
  capabilities = ["read"]
}}
"""


def gateway_policy(pki: str, role: str) -> str:
    """Policy `st-gateway`: the gateway's serving certificate."""
    return f"""\
path "{pki}/issue/{role}" {{
  capabilities        = ["update"]
  required_parameters = ["common_name", "alt_names", "ttl"]
  allowed_parameters  = {{
    "common_name" = []
    "alt_names"   = []
    "ttl"         = []
  }}
}}
"""


def owner_policy(transit: str, dataset_keks: Sequence[str], model_keks: Sequence[str]) -> str:
    """Policy `st-owner-<ns>` for people who own data: seal, open, re-wrap and revoke.

    `update` and never `create`, since encrypting with a KEK that does not exist would make it.
    Versions can be made and cut off, but not destroyed: see `shred_policy`.
    """
    rules = [
        f"""\
path "{transit}/{verb}/{kek}" {{
  capabilities = ["update"]
}}
"""
        for keks, verbs in ((dataset_keks, ("encrypt", "decrypt")), (model_keks, ("decrypt",)))
        for kek in keks
        for verb in verbs
    ]
    rules += [
        f"""\
path "{transit}/keys/{kek}" {{
  capabilities = ["read"]
}}
"""
        for kek in (*dataset_keks, *model_keks)
    ]
    rules += [_rotation(transit, kek, ("min_decryption_version",)) for kek in dataset_keks]
    return "\n".join(rules)


def shred_policy(transit: str, dataset_keks: Sequence[str]) -> str:
    """Policy `st-shred-<ns>`: destroy old versions of dataset KEKs, for ever.

    It is apart from the owner's, to be attached to a login for that one act.
    """
    bounds = ("min_decryption_version", "min_encryption_version")
    rules = [
        f"""\
path "{transit}/keys/{kek}" {{
  capabilities = ["read"]
}}

path "{transit}/decrypt/{kek}" {{
  capabilities = ["update"]
}}

path "{transit}/keys/{kek}/trim" {{
  capabilities        = ["update"]
  required_parameters = ["min_available_version"]
  allowed_parameters  = {{
    "min_available_version" = []
  }}
}}
"""
        for kek in dataset_keks
    ]
    rules += [_rotation(transit, kek, bounds) for kek in dataset_keks]
    return "\n".join(rules)


def encoded_prefix(text: str) -> str:
    """What base64 of any text with this prefix starts with: whole groups of three bytes only."""
    whole = len(text) // 3 * 3
    return base64.b64encode(text[:whole].encode()).decode()


def _decrypt(transit: str, kek: str, binding: str, prefixes: Sequence[str]) -> str:
    allowed = ", ".join(f'"{prefix}*"' for prefix in prefixes)
    # HashiCorp Vault lets an empty binding pass the allowed list, so it is denied by name.
    return f"""\
path "{transit}/decrypt/{kek}" {{
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "{binding}"]
  allowed_parameters  = {{
    "ciphertext" = ["vault:v*"]
    "{binding}" = [{allowed}]
  }}
  denied_parameters   = {{
    "batch_input" = []
    "{binding}" = [""]
  }}
  min_wrapping_ttl    = "{MIN_WRAPPING_TTL}"
  max_wrapping_ttl    = "{MAX_WRAPPING_TTL}"
}}
"""


def _rotation(transit: str, kek: str, bounds: Sequence[str]) -> str:
    """Make a new version of a KEK, and say which versions count; nothing else of its settings."""
    allowed = "\n".join(f'    "{bound}" = []' for bound in bounds)
    return f"""\
path "{transit}/keys/{kek}/rotate" {{
  capabilities = ["update"]
}}

path "{transit}/keys/{kek}/config" {{
  capabilities        = ["update"]
  required_parameters = ["min_decryption_version"]
  allowed_parameters  = {{
{allowed}
  }}
}}
"""


def _datakey(transit: str, kek: str, prefixes: Sequence[str]) -> str:
    allowed = ", ".join(f'"{prefix}*"' for prefix in prefixes)
    return f"""\
path "{transit}/datakey/wrapped/{kek}" {{
  capabilities        = ["update"]
  required_parameters = ["context"]
  allowed_parameters  = {{
    "context" = [{allowed}]
  }}
  denied_parameters   = {{
    "context" = [""]
  }}
}}
"""
