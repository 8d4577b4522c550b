"""One small HTTPS request to a server of this machine; no proxy, no redirect, no system CA."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localcluster.pki import KeyPair


def request(
    method: str,
    url: str,
    *,
    ca: Path,
    client: KeyPair | None = None,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 10,
) -> tuple[int, bytes]:
    """Status and body of the answer; status 0 when nobody answers."""
    context = ssl.create_default_context(cafile=str(ca))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port, timeout=seconds, context=context
    )
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, f"{parts.path}?{parts.query}", data, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
