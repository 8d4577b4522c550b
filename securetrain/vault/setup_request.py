"""What `vault setup` is asked for, checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from securetrain.api.gateway import MountName
from securetrain.api.types import KekName, Name
from securetrain.errors import InvalidInput

Text = Annotated[str, Field(min_length=1, max_length=512)]

OPERATOR_SUBJECT: Final = "system:serviceaccount:securetrain:securetrain-operator"
GATEWAY_NAMES: Final = ("securetrain-gateway.securetrain.svc",)


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """A namespace, its KEKs, and how the operator logs in. Raises InvalidInput.

    One namespace: what several were given at once they would share.
    """

    namespace: str
    dataset_keks: tuple[str, ...]
    model_keks: tuple[str, ...]
    jwt_public_keys: tuple[str, ...]
    """PEM public keys that sign the cluster's service account tokens."""
    issuer: str
    """`iss` of those tokens."""
    audience: str = "vault"
    operator_subject: str = OPERATOR_SUBJECT
    gateway_names: tuple[str, ...] = GATEWAY_NAMES
    auth_mount: str = "kubernetes-securetrain"
    transit_mount: str = "transit"
    pki_mount: str = "securetrain-pki"
    pki_role: str = "gateway"
    signing_key: str = "securetrain-models"

    def __post_init__(self) -> None:
        _check("namespace", (self.namespace,), Name)
        _check("dataset KEK", self.dataset_keks, KekName)
        _check("model KEK", self.model_keks, KekName)
        _check("signing key", (self.signing_key,), KekName)
        _check("mount", (self.auth_mount, self.transit_mount, self.pki_mount), MountName)
        _check("PKI role", (self.pki_role,), MountName)
        _check("JWT public key", self.jwt_public_keys, str)
        _check("issuer", (self.issuer,), Text)
        _check("audience", (self.audience,), Text)
        _check("operator subject", (self.operator_subject,), Text)
        keys = (*self.dataset_keks, *self.model_keks, self.signing_key)
        for key in keys:
            if keys.count(key) > 1:
                raise InvalidInput("key", key, "has two uses", fix="give each use its own key")


def _check(field: str, values: tuple[str, ...], kind: Any) -> None:
    if not values:
        raise InvalidInput(field, "", "is missing", fix=f"name at least one {field}")
    adapter: TypeAdapter[str] = TypeAdapter(kind)
    for value in values:
        try:
            adapter.validate_python(value)
        except ValidationError:
            raise InvalidInput(
                field, value, "is not a valid name", fix="use letters, digits and dashes"
            ) from None
