"""A job's NetworkPolicy: nothing comes in; gateway, Vault, the job's storage and DNS are reached.

It goes with its job, while a pod may still run for its grace period. So one more policy, which no
job owns, closes all job pods of the namespace; policies add up, so it takes nothing away.

Without egress CIDRs a connection's own address is used if it is an IP address; a host name cannot
stand in a NetworkPolicy, so then the server is closed until the connection names its CIDRs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from securetrain.api import names
from securetrain.api.gateway import JobRef
from securetrain.connections import Connection
from securetrain.storage.connection import StorageConnection
from securetrain.vault.connection import VaultConnection
from securetrain_operator.build import meta
from securetrain_operator.settings import Settings

NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
DNS_NAMESPACE: Final = "kube-system"
DNS_PORT: Final = 53
HTTPS_PORT: Final = 443
DEFAULT_DENY: Final = f"{names.CHILD_PREFIX}0-default-deny"
"""No job's name begins with a digit, so no job's own policy can have this name."""


def default_deny(namespace: str) -> dict[str, Any]:
    """The NetworkPolicy that closes all job pods of a namespace, whatever becomes of their jobs."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": DEFAULT_DENY,
            "namespace": namespace,
            "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
        },
        "spec": {
            "podSelector": {
                "matchExpressions": [{"key": names.JOB_UID_LABEL, "operator": "Exists"}]
            },
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def network_policy(
    job: JobRef,
    settings: Settings,
    connection: VaultConnection,
    storages: Sequence[StorageConnection] = (),
) -> dict[str, Any]:
    """NetworkPolicy `stj-<name>` that selects the job's pods by its UID."""
    servers = [_to_server(connection.address, connection)]
    servers += [_to_server(storage.endpoint, storage) for storage in storages]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta.metadata(job, names.network_policy(job.name)),
        "spec": {
            "podSelector": {"matchLabels": {names.JOB_UID_LABEL: job.uid}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [_to_gateway(settings), *filter(None, servers), _to_dns()],
        },
    }


def _to_gateway(settings: Settings) -> dict[str, Any]:
    pods = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: settings.namespace}},
        "podSelector": {"matchLabels": dict(settings.gateway_egress)},
    }
    return {"to": [pods], "ports": [_port("TCP", settings.gateway_port)]}


def _to_server(url: str, connection: Connection) -> dict[str, Any]:
    """The way to a connection's server; empty if nothing says where it is."""
    address = urlsplit(url)
    blocks = connection.egress_cidrs or _as_block(address.hostname or "")
    to = [{"ipBlock": {"cidr": block}} for block in blocks]
    return {"to": to, "ports": [_port("TCP", address.port or HTTPS_PORT)]} if to else {}


def _as_block(host: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_network(host)),)
    except ValueError:
        return ()


def _to_dns() -> dict[str, Any]:
    to = [{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: DNS_NAMESPACE}}}]
    return {"to": to, "ports": [_port("UDP", DNS_PORT), _port("TCP", DNS_PORT)]}


def _port(protocol: str, port: int) -> dict[str, Any]:
    return {"protocol": protocol, "port": port}
