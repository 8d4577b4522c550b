"""The cluster as kubectl sees it: the kubeconfig, its contexts, and plain reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from securetrain.errors import (
    BadConfiguration,
    ClusterDenied,
    ClusterUnavailable,
    UsageError,
)

TIMEOUT: Final = (5, 30)
"""Seconds to connect and to wait for data."""
MAX_ANSWER_BYTES: Final = 1 << 26
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"

_IN_POD: Final = "KUBERNETES_SERVICE_HOST"
_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def api(context: str | None = None) -> client.ApiClient:
    """A client for a context of the kubeconfig, by default the current one; or for the own pod.

    Nothing is sent. Raises UsageError if there is no such context.
    """
    configuration = client.Configuration()
    configuration.retries = False  # a slow server must not be asked again behind our back
    try:
        if _in_pod(context):
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=_files(), context=context, client_configuration=configuration
            )
    except (ConfigException, OSError) as error:
        raise _no_login(context, error) from None
    return client.ApiClient(configuration)


def namespace_or_default(namespace: str | None, context: str | None = None) -> str:
    """The namespace asked for, else the context's, else `default`, as kubectl does."""
    if namespace:
        return namespace
    if _in_pod(context):
        return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.exists() else "default"
    try:
        contexts, active = config.list_kube_config_contexts(config_file=_files())
    except (ConfigException, OSError) as error:
        raise _no_login(context, error) from None
    chosen = active if context is None else next((c for c in contexts if c["name"] == context), {})
    return str((chosen or {}).get("context", {}).get("namespace") or "default")


def get(
    api: client.ApiClient,
    path: str,
    query: Mapping[str, str] | None = None,
    accept: str = "application/json, application/jwk-set+json",
) -> dict[str, Any] | None:
    """GET a path of the API server as plain JSON; None if it does not exist.

    Raises:
        ClusterDenied: the caller may not read it.
        ClusterUnavailable: the API server is away, or answers something else.
    """
    request = api.param_serialize(
        "GET",
        path,
        query_params=list((query or {}).items()),
        header_params={"Accept": accept},
        auth_settings=["BearerToken"],
    )
    try:
        answer = api.call_api(*request, _request_timeout=TIMEOUT)
        data = answer.read()
    except (HTTPError, OSError):
        raise ClusterUnavailable(
            "the API server cannot be reached", fix="check --context and the network"
        ) from None
    if answer.status == 404:
        return None
    if answer.status in (401, 403):
        raise ClusterDenied(f"you may not read {path}", fix="ask your platform admin")
    if answer.status != 200 or len(data) > MAX_ANSWER_BYTES:
        raise ClusterUnavailable(f"the API server answered {answer.status} at {path}")
    try:
        parsed: dict[str, Any] = json.loads(data)
    except ValueError:
        raise ClusterUnavailable(f"the API server's answer at {path} is not JSON") from None
    return parsed


def exists(api: client.ApiClient, path: str) -> bool:
    """Whether an object is there, of which nothing but some columns for people is sent.

    Not its metadata either: an annotation of `kubectl apply` may repeat all that a Secret holds.
    Raises as `get`.
    """
    return get(api, path, {"includeObject": "None"}, TABLE) is not None


def require(api: client.ApiClient, path: str) -> dict[str, Any]:
    """`get`, but absence is an error."""
    found = get(api, path)
    if found is None:
        raise BadConfiguration(f"the cluster has nothing at {path}", fix="check --context")
    return found


def _in_pod(context: str | None) -> bool:
    has_file = bool(os.environ.get("KUBECONFIG")) or Path(_files()).exists()
    return context is None and not has_file and _IN_POD in os.environ


def _files() -> str:
    """Paths of the kubeconfig; the client itself looks at KUBECONFIG only when it is imported."""
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def _no_login(context: str | None, error: Exception) -> UsageError | BadConfiguration:
    if context is not None:
        return UsageError(
            f"the kubeconfig has no usable context {context!r}", fix="kubectl config get-contexts"
        )
    return BadConfiguration(
        f"there is no usable kubeconfig ({type(error).__name__})",
        fix="set KUBECONFIG, or use --context",
    )
