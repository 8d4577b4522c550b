"""Errors that only the operator raises.

SecuretrainError
├── TryAgain
│   ├── ApiUnavailable      the API server is away, slow, or answers 429 or 5xx
│   ├── Conflict            somebody else wrote first; read again
│   └── AlreadyExists       an object of that name is there
└── Refused
    ├── BadToken            the bearer token is not one of ours, or not valid any more (401)
    └── ApiDenied           the API server refused the operator itself (403)
"""

from __future__ import annotations

from securetrain.errors import Refused, TryAgain


class ApiUnavailable(TryAgain):
    """The API server is away, slow, or answers 429 or 5xx."""


class Conflict(TryAgain):
    """An object changed since it was read."""


class AlreadyExists(TryAgain):
    """An object of that name is there already."""


class BadToken(Refused):
    """The bearer token is not for us, or not valid any more."""


class ApiDenied(Refused):
    """The API server refused the operator itself: its RBAC is incomplete."""
