"""Digests and canonical JSON (RFC 8785), in one place so that all parts agree to the byte."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes, lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785 form of a JSON value."""
    return rfc8785.dumps(value)


def canonical_sha256(value: Any) -> str:
    """SHA-256 hex of a JSON value's RFC 8785 form."""
    return sha256_hex(canonical_json(value))
