"""Who calls: from a bearer token and an address to one pod.

Cheap checks of the token's own claims come first, so that garbage costs the API server nothing.
They prove nothing until the TokenReview does. `aud` must be exactly our audience: a TokenReview
answers the intersection and would pass a token that is valid elsewhere too.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.names import SERVICE_ACCOUNT
from securetrain.errors import NotOurPod
from securetrain_operator.errors import BadToken, NotReady
from securetrain_operator.ports import Cluster, Object

MAX_TOKEN: Final = 8192
MAX_LIFETIME: Final = 3600
"""Seconds; kubelet asks for 600."""
JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
USERNAME: Final = re.compile(r"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)", re.ASCII)
EXTRA: Final = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that a token was made for, as the API server vouches."""

    namespace: str
    pod_name: str
    pod_uid: str
    node: str
    credential_id: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod_name} ({self.pod_uid})"


def bearer_token(header: str | None) -> str:
    """The token of an Authorization header; raises BadToken if there is none of the right shape."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or len(token) > MAX_TOKEN or not JWT.fullmatch(token):
        raise BadToken("there is no bearer token of the right shape")
    return token


async def identify(cluster: Cluster, token: str, audience: str, now: float) -> Caller:
    """The pod that holds a token; raises BadToken if the token is not ours or not valid."""
    check_claims(token, audience, now)
    status = await cluster.review_token(token, audience)
    if status.get("authenticated") is not True or status.get("audiences") != [audience]:
        raise BadToken("the API server does not vouch for the token")
    user = status.get("user") or {}
    account = USERNAME.fullmatch(user.get("username") or "")
    if account is None or account[2] != SERVICE_ACCOUNT:
        raise BadToken("the token is not of the jobs' service account")
    extra = user.get("extra") or {}
    return Caller(
        namespace=account[1],
        pod_name=_single(extra, "pod-name"),
        pod_uid=_single(extra, "pod-uid"),
        node=_single(extra, "node-name"),
        credential_id=_single(extra, "credential-id"),
    )


def check_claims(token: str, audience: str, now: float) -> None:
    """Check what the token says of itself, unverified; raises BadToken."""
    part = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise BadToken("the token's claims cannot be read") from None
    if not isinstance(claims, dict) or not isinstance(claims.get("iss"), str) or not claims["iss"]:
        raise BadToken("the token names no issuer")
    if claims.get("aud") != [audience]:
        raise BadToken("the token's audience is not exactly ours")
    issued, expires = claims.get("iat"), claims.get("exp")
    if type(issued) is not int or type(expires) is not int or expires <= now:
        raise BadToken("the token has expired")
    if expires - issued > MAX_LIFETIME:
        raise BadToken("the token lives longer than any that a kubelet asks for")


def check_peer(peer: str | None, pod: Object) -> None:
    """Check that a request came from one of the pod's addresses.

    Raises NotReady while the pod's addresses are not reported yet, NotOurPod for any other address.
    """
    addresses = [entry.get("ip") for entry in pod.get("status", {}).get("podIPs") or ()]
    if not addresses:
        raise NotReady("the pod's address is not reported yet")
    if _address(peer) not in {_address(address) for address in addresses} - {None}:
        raise NotOurPod("the request does not come from one of the pod's addresses")


def _address(text: str | None) -> str | None:
    """An address in one spelling: IPv4 in IPv6 clothes is IPv4."""
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _single(extra: Mapping[str, Any], name: str) -> str:
    match extra.get(EXTRA + name):
        case [str(value)] if value:
            return value
        case _:
            raise BadToken("the token is not bound to a pod on a node")
