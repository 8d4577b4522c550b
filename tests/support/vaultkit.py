"""A prepared OpenBao for tests: `vault setup` applied, logins by tokens shaped like a cluster's."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from localcluster import https
from localcluster.openbao import OpenBao
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient
from securetrain.vault.connection import VaultConnection
from securetrain.vault.setup import apply, plan
from securetrain.vault.setup_request import SetupRequest

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "vault"
SUBJECT = "system:serviceaccount:securetrain:securetrain-operator"


class ClusterKey:
    """A cluster's service account key: signs tokens shaped like Kubernetes'."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def public_pem(self) -> str:
        public = self._key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def token(self, **claims: Any) -> Secret:
        """A projected token of the operator's pod, with some claims changed."""
        now = int(time.time())
        body = {
            "aud": [AUDIENCE],
            "iss": ISSUER,
            "sub": SUBJECT,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": "0f6a9d6e-8f0b-4f0f-9d0a-1d1f3f2f1f0f",
            "kubernetes.io": {
                "namespace": "securetrain",
                "pod": {"name": "operator-1", "uid": "5f0f3b1e-0000-4000-8000-000000000001"},
                "serviceaccount": {"name": "securetrain-operator", "uid": "5f0f3b1e"},
            },
        }
        signed = ".".join(_url64(json.dumps(part).encode()) for part in (_HEADER, body | claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
        return Secret.from_text(f"{signed}.{_url64(signature)}")


@dataclass(frozen=True)
class Kit:
    """A server on which setup was applied for one namespace."""

    server: OpenBao
    request: SetupRequest
    key: ClusterKey

    def client(self, token: Secret | None = None, **options: Any) -> VaultClient:
        return VaultClient(self.server.address, self.server.ca_pem, token=token, **options)

    def admin(self) -> VaultClient:
        return self.client(self.server.root_token)

    def login(self, role: str, **claims: Any) -> VaultClient:
        client = self.client()
        try:
            client.login_jwt(self.request.auth_mount, role, self.key.token(**claims))
        except BaseException:
            client.close()
            raise
        return client

    def raw_login(self, role: str) -> str:
        """A role's Vault token, for calls that VaultClient would not make."""
        body = {"role": role, "jwt": self.key.token().reveal_text()}
        status, document = self.raw("POST", f"auth/{self.request.auth_mount}/login", body)
        assert status == 200, document
        return str(document["auth"]["client_token"])

    def raw(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        token: str = "",
        ttl: str = "",
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Vault-Token": token} if token else {}
        if ttl:
            headers["X-Vault-Wrap-TTL"] = ttl
        url = f"{self.server.address}/v1/{path}"
        status, data = https.request(
            method, url, ca=self.server.ca_file, body=body, headers=headers
        )
        return status, json.loads(data) if data else {}

    @property
    def connection(self) -> VaultConnection:
        wanted = self.request
        return VaultConnection(
            address=self.server.address,
            ca=self.server.ca_pem,
            auth_mount=wanted.auth_mount,
            audience=wanted.audience,
            transit_mount=wanted.transit_mount,
            pki_mount=wanted.pki_mount,
            pki_role=wanted.pki_role,
            signing_key=wanted.signing_key,
            allowed_namespaces=(wanted.namespace,),
        )


def prepare(server: OpenBao, name: str, **wanted: Any) -> Kit:
    """Apply setup with mounts of their own, `name` being part of all names."""
    key = ClusterKey()
    kit = Kit(server, request(name, key.public_pem, **wanted), key)
    with kit.admin() as admin:
        apply(plan(admin, kit.request))
    return kit


def request(name: str, public_pem: str, **wanted: Any) -> SetupRequest:
    """What setup is asked for in tests."""
    fields: dict[str, Any] = {
        "namespace": f"team-{name}",
        "dataset_keks": (f"{name}-digits",),
        "model_keks": (f"{name}-models",),
        "jwt_public_keys": (public_pem,),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "operator_subject": SUBJECT,
        "gateway_names": ("securetrain-gateway.securetrain.svc",),
        "auth_mount": f"auth-{name}",
        "transit_mount": f"transit-{name}",
        "pki_mount": f"pki-{name}",
        "signing_key": f"{name}-signing",
    }
    return SetupRequest(**(fields | wanted))


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_HEADER = {"alg": "RS256", "typ": "JWT"}
