"""Public keys of a cluster's service account tokens, from its JWKS to the PEM that Vault takes."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from securetrain.errors import InvalidInput

MAX_JWKS_BYTES: Final = 1 << 20
MIN_RSA_BITS: Final = 2048

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


def pems_of_jwks(document: bytes) -> tuple[str, ...]:
    """Every key of a JWKS document (RFC 7517) as PEM; raises InvalidInput."""
    if len(document) > MAX_JWKS_BYTES:
        raise _invalid("is too long")
    try:
        keys = [_public_key(jwk) for jwk in json.loads(document)["keys"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _invalid("is not a set of RSA or EC public keys") from None
    if not keys:
        raise _invalid("has no keys")
    return tuple(dict.fromkeys(_pem(key) for key in keys))


def normal_pem(text: str) -> str:
    """A public key's PEM in its one normal form; raises InvalidInput."""
    try:
        key = load_pem_public_key(text.encode())
    except ValueError:
        raise _invalid("is not a PEM public key") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _invalid("is neither RSA nor EC")
    return _pem(_strong(key))


def _public_key(jwk: Any) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    if jwk["kty"] == "RSA":
        return _strong(rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key())
    if jwk["kty"] == "EC":
        curve = _CURVES[jwk["crv"]]
        return ec.EllipticCurvePublicNumbers(
            _number(jwk["x"]), _number(jwk["y"]), curve
        ).public_key()
    raise ValueError


def _strong(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise _invalid(f"has an RSA key of less than {MIN_RSA_BITS} bits")
    return key


def _number(text: str) -> int:
    padded = text + "=" * (-len(text) % 4)
    return int.from_bytes(base64.b64decode(padded, altchars=b"-_", validate=True))


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(
        "service account public keys",
        "…",
        problem,
        fix="give PEM files with --jwt-public-key, or the cluster's /openid/v1/jwks",
    )
