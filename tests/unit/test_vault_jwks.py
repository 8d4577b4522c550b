"""A cluster's JWKS as PEM."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetrain.errors import InvalidInput
from securetrain.vault.jwks import normal_pem, pems_of_jwks


def _number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _pem(key: Any) -> str:
    text: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def _rsa(bits: int) -> tuple[dict[str, str], str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}, _pem(key)


def test_rsa_and_ec_keys() -> None:
    first, first_pem = _rsa(2048)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    numbers = key.public_numbers()
    second = {"kty": "EC", "crv": "P-256", "x": _number(numbers.x), "y": _number(numbers.y)}
    document = json.dumps({"keys": [first, second, first]}).encode()
    assert pems_of_jwks(document) == (first_pem, _pem(key))
    assert normal_pem(first_pem + "\n\n") == first_pem


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}]}',
        b'{"keys": [{"kty": "RSA", "n": "%%", "e": "AQAB"}]}',
    ],
)
def test_what_is_no_set_of_keys(document: bytes) -> None:
    with pytest.raises(InvalidInput):
        pems_of_jwks(document)


def test_weak_and_private_keys_are_refused() -> None:
    weak, weak_pem = _rsa(1024)
    with pytest.raises(InvalidInput):
        pems_of_jwks(json.dumps({"keys": [weak]}).encode())
    with pytest.raises(InvalidInput):
        normal_pem(weak_pem)
    with pytest.raises(InvalidInput):
        normal_pem("-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n")
