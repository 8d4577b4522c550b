"""`doctor`, object storage's half: can jobs of a namespace reach what the settings name?

Of a login only its Secret's metadata is asked for, so what it holds never leaves the API server.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from kubernetes import client
from pydantic import ValidationError

from securetrain.cli import kube, operator_settings
from securetrain.cli.findings import Check, Finding, fault, ok, warning
from securetrain.errors import ClusterDenied
from securetrain.storage.connection import StorageConnection
from securetrain.storage.credentials import REQUIRED
from securetrain.validation import first_problem

CONNECT_SECONDS: Final = 3.0


def checks(api: client.ApiClient, namespace: str) -> list[tuple[str, Check]]:
    """Name and check."""
    return [("object storage", lambda: _storage(api, namespace))]


def _storage(api: client.ApiClient, namespace: str) -> Iterator[Finding]:
    settings = operator_settings.settings(api) or {}
    for index, entry in enumerate(settings.get("storageConnections") or ()):
        connection = _parsed(index, entry)
        if isinstance(connection, Finding):
            yield connection
        elif connection.allows(namespace):
            yield _server(connection)
            yield _login(api, namespace, connection)


def _parsed(index: int, entry: Any) -> StorageConnection | Finding:
    try:
        return StorageConnection.model_validate(entry)
    except ValidationError as error:
        problem = first_problem(error)
        where = f"storage.connections[{index}].{problem.field}"
        return fault(f"{where}: {problem.shown} {problem.message}", "correct it in Helm's values")


def _server(connection: StorageConnection) -> Finding:
    """Shake hands as a pod would; nothing is asked of the server."""
    name = f"storage connection {connection.name}"
    where = urlsplit(connection.endpoint)
    try:
        context = ssl.create_default_context(cadata=connection.ca)
        with (
            socket.create_connection((where.hostname, where.port or 443), CONNECT_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=where.hostname),
        ):
            return ok(f"{name}: {connection.endpoint} shows a certificate of its CA")
    except (ssl.SSLCertVerificationError, ValueError):
        return fault(
            f"{name}: {connection.endpoint} shows a certificate that its ca does not vouch for",
            "give the connection the PEM bundle of the server's CA, and the name that is in the"
            " certificate",
        )
    except ssl.SSLError as error:
        fix = "correct its ca and endpoint in Helm's values"
        return fault(f"{name}: no TLS with {connection.endpoint} ({error.reason or 'error'})", fix)
    except OSError:
        return warning(
            f"{name}: {connection.endpoint} cannot be reached from this machine",
            "pods may reach it all the same, by its egressCidrs",
        )


def _login(api: client.ApiClient, namespace: str, connection: StorageConnection) -> Finding:
    secret = connection.credentials_secret
    path = f"/api/v1/namespaces/{namespace}/secrets/{secret}"
    try:
        found = kube.get(api, path, metadata_only=True)
    except ClusterDenied:
        return warning(f"Secret {secret} in {namespace} was not looked for: you may not see it")
    if found is not None:
        return ok(f"Secret {secret} for storage connection {connection.name}")
    files = " ".join(f"--from-file={key}=FILE" for key in REQUIRED)
    return fault(
        f"Secret {secret} of storage connection {connection.name} is missing in {namespace}",
        f"kubectl create secret generic {secret} -n {namespace} {files}",
    )
