"""The operator as an administrator sees it: its Deployment, and the settings beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubernetes import client

from securetrain import strict_yaml
from securetrain.cli import kube
from securetrain.errors import BadConfiguration

OPERATOR: Final = "app.kubernetes.io/name=securetrain-operator"
SETTINGS: Final = "securetrain-settings"
_KEY: Final = "settings.yaml"


def deployments(api: client.ApiClient) -> list[dict[str, Any]]:
    """The operator's Deployments in all namespaces; raises as `kube.get`."""
    found = kube.get(api, "/apis/apps/v1/deployments", {"labelSelector": OPERATOR}) or {}
    return list(found.get("items") or ())


def settings(api: client.ApiClient) -> Mapping[str, Any]:
    """The settings of the first operator as they are written; empty where there are none.

    Raises:
        BadConfiguration: they are no mapping in YAML.
        ClusterDenied, ClusterUnavailable: as `kube.get`.
    """
    found = deployments(api)
    if not found:
        return {}
    path = f"/api/v1/namespaces/{found[0]['metadata']['namespace']}/configmaps/{SETTINGS}"
    text = ((kube.get(api, path) or {}).get("data") or {}).get(_KEY, "")
    try:
        (parsed,) = strict_yaml.load_all(text) or [{}]
    except ValueError:  # YamlError is one, and so is a second document
        parsed = None
    if not isinstance(parsed, dict):
        raise BadConfiguration(
            f"{_KEY} of ConfigMap {SETTINGS} is not one mapping in YAML",
            fix="install the chart again",
        )
    return parsed
