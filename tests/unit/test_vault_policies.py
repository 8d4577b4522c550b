"""The HCL that binds the operator, word for word: whoever changes it has to change it here too."""

from __future__ import annotations

import base64

import pytest

from securetrain.api.names import Purpose, Split, dek_associated_data, model_dek_context
from securetrain.errors import InvalidInput
from securetrain.vault import policies
from securetrain.vault.setup_request import SetupRequest

DECRYPT = """\
path "transit/decrypt/digits" {
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "associated_data"]
  allowed_parameters  = {
    "ciphertext" = ["vault:v*"]
    "associated_data" = [%s]
  }
  denied_parameters   = {
    "batch_input" = []
    "associated_data" = [""]
  }
  min_wrapping_ttl    = "10s"
  max_wrapping_ttl    = "60s"
}
"""
MODEL = """
path "transit/decrypt/models" {
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "context"]
  allowed_parameters  = {
    "ciphertext" = ["vault:v*"]
    "context" = ["c2VjdXJldHJhaW4vbW9kZWwtZGVrL3Yx*"]
  }
  denied_parameters   = {
    "batch_input" = []
    "context" = [""]
  }
  min_wrapping_ttl    = "10s"
  max_wrapping_ttl    = "60s"
}
"""
DATAKEY = """
path "transit/datakey/wrapped/models" {
  capabilities        = ["update"]
  required_parameters = ["context"]
  allowed_parameters  = {
    "context" = ["c2VjdXJldHJhaW4vbW9kZWwtZGVrL3Yx*"]
  }
  denied_parameters   = {
    "context" = [""]
  }
}
"""
TRAIN_AND_VALIDATION = (
    '"c2VjdXJldHJhaW4vZGVrL3YxfHRyYWlu*", "c2VjdXJldHJhaW4vZGVrL3YxfHZhbGlkYXRpb258*"'
)
TEST = '"c2VjdXJldHJhaW4vZGVrL3YxfHRlc3R8*"'
SIGN = """\
path "transit/sign/signing/sha2-256" {
  capabilities        = ["update"]
  required_parameters = ["input", "prehashed", "marshaling_algorithm", "key_version"]
  allowed_parameters  = {
    "input"                = []
    "prehashed"            = [true]
    "marshaling_algorithm" = ["asn1"]
    "key_version"          = []
  }
}

path "transit/keys/signing" {
  capabilities = ["read"]
}
"""


def test_train() -> None:
    text = policies.grant_policy(Purpose.TRAIN, "transit", ["digits"], ["models"])
    assert text == DECRYPT % TRAIN_AND_VALIDATION + MODEL + DATAKEY


def test_certify() -> None:
    text = policies.grant_policy(Purpose.CERTIFY, "transit", ["digits"], ["models"])
    assert text == DECRYPT % TEST + MODEL


def test_sign() -> None:
    assert policies.signing_policy("transit", "signing") == SIGN


def test_owners_may_never_create() -> None:
    text = policies.owner_policy("transit", ["digits"], ["models"])
    assert "create" not in text
    assert 'path "transit/encrypt/models"' not in text
    for path in ("encrypt/digits", "decrypt/digits", "decrypt/models", "keys/digits"):
        assert f'path "transit/{path}"' in text


@pytest.mark.parametrize("split", Split)
def test_prefixes_fit_what_is_sent_and_no_other_split(split: Split) -> None:
    sent = base64.b64encode(dek_associated_data(split, "0" * 64, "1" * 64)).decode()
    fitting = [
        s for s in Split if sent.startswith(policies.encoded_prefix(f"securetrain/dek/v1|{s}|"))
    ]
    assert fitting == [split]


def test_the_context_prefix_fits() -> None:
    sent = base64.b64encode(model_dek_context("uid", "1" * 64)).decode()
    assert sent.startswith("c2VjdXJldHJhaW4vbW9kZWwtZGVrL3Yx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": 'a" {}'},
        {"namespace": ""},
        {"dataset_keks": ("../sys",)},
        {"dataset_keks": ("models",)},
        {"transit_mount": "a/b"},
        {"pki_role": "*"},
        {"signing_key": "a\nb"},
        {"jwt_public_keys": ()},
    ],
)
def test_names_cannot_break_out_of_a_policy(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "namespace": "team-a",
        "dataset_keks": ("digits",),
        "model_keks": ("models",),
        "jwt_public_keys": ("pem",),
        "issuer": "https://issuer",
    }
    SetupRequest(**fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        SetupRequest(**(fields | wrong))  # type: ignore[arg-type]
