"""`doctor`, object storage's half: can jobs of a namespace reach what the settings name?

Of a login only whether its Secret exists is asked, so what it holds never leaves the API server.
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
from securetrain.tls import client_context
from securetrain.validation import first_problem, parse_strictly

CONNECT_SECONDS: Final = 3.0
VALUES: Final = "correct it in Helm's values"


def checks(api: client.ApiClient, namespace: str) -> list[tuple[str, Check]]:
    """Name and check."""
    return [("object storage", lambda: _storage(api, namespace))]


def _storage(api: client.ApiClient, namespace: str) -> Iterator[Finding]:
    entries = operator_settings.settings(api).get("storageConnections") or ()
    for index, entry in enumerate(entries):
        connection = _parsed(index, entry)
        if isinstance(connection, Finding):
            yield connection
        elif connection.allows(namespace):
            yield _server(connection)
            yield _login(api, namespace, connection)


def _parsed(index: int, entry: Any) -> StorageConnection | Finding:
    """A connection as the operator reads it; what stands there wrongly may be a login, not told."""
    try:
        return parse_strictly(StorageConnection, entry)
    except ValidationError as error:
        problem = first_problem(error)
        where = ".".join(filter(None, (f"storage.connections[{index}]", problem.field)))
        return fault(f"{where}: {problem.message}", VALUES)


def _server(connection: StorageConnection) -> Finding:
    """Shake hands as a pod would; nothing is asked of the server."""
    name, endpoint = f"storage connection {connection.name}", connection.endpoint
    try:
        context = client_context(connection.ca)
    except ValueError:
        return fault(f"{name}: its ca holds no certificate in PEM", VALUES)
    try:
        _shake_hands(endpoint, context)
    except ssl.SSLCertVerificationError:
        whose = "its ca does" if connection.ca else "this machine's roots do"
        fix = "give the connection the bundle of the server's CA, and the name in its certificate"
        return fault(f"{name}: {endpoint} shows a certificate that {whose} not vouch for", fix)
    except ssl.SSLError as error:
        return fault(f"{name}: no TLS with {endpoint} ({error.reason})", VALUES)
    except OSError:
        fix = "pods may reach it all the same, by its egressCidrs"
        return warning(f"{name}: {endpoint} cannot be reached from this machine", fix)
    except ValueError:  # of the port, or of a name that no DNS takes
        return fault(f"{name}: {endpoint} is no address of a server", VALUES)
    return ok(f"{name}: {endpoint} shows a certificate of its CA")


def _shake_hands(endpoint: str, context: ssl.SSLContext) -> None:
    where = urlsplit(endpoint)
    with (
        socket.create_connection((where.hostname, where.port or 443), CONNECT_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=where.hostname),
    ):
        pass


def _login(api: client.ApiClient, namespace: str, connection: StorageConnection) -> Finding:
    secret = connection.credentials_secret
    try:
        found = kube.exists(api, f"/api/v1/namespaces/{namespace}/secrets/{secret}")
    except ClusterDenied:
        return warning(f"Secret {secret} in {namespace} was not looked for: you may not see it")
    if found:
        return ok(f"Secret {secret} for storage connection {connection.name}")
    files = " ".join(f"--from-file={key}=FILE" for key in REQUIRED)
    return fault(
        f"Secret {secret} of storage connection {connection.name} is missing in {namespace}",
        f"kubectl create secret generic {secret} -n {namespace} {files}",
    )
