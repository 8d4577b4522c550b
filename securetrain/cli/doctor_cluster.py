"""`doctor`, the cluster's half: what must be there for jobs to run."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from kubernetes import client

from securetrain.api.names import (
    API_VERSION,
    GATEWAY_PORT,
    GUARDS,
    NAMESPACE_LABEL,
    NAMESPACE_LABEL_VALUE,
    PLURAL,
)
from securetrain.cli import kube, operator_settings
from securetrain.cli.findings import Check, Finding, fault, ok, warning

GATEWAY_SERVICE: Final = "securetrain-gateway"
MIN_KUBERNETES: Final = (1, 34)
ENFORCERS: Final = (
    "antrea-agent",
    "aws-node",
    "calico-node",
    "canal",
    "cilium",
    "kube-router",
    "ovnkube-node",
    "weave-net",
)
"""DaemonSets of network plugins that enforce NetworkPolicy."""

_POLICIES: Final = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
_BINDINGS: Final = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
_HELM: Final = "helm upgrade --install securetrain charts/securetrain"


def checks(api: client.ApiClient, namespace: str) -> list[tuple[str, Check]]:
    """Name and check, in the order in which things are installed."""
    return [
        ("Kubernetes", lambda: _version(api)),
        ("CRD", lambda: _crd(api)),
        ("guards", lambda: _guards(api)),
        ("operator", lambda: _operator(api)),
        ("network", lambda: _network(api)),
        ("namespace", lambda: _namespace(api, namespace)),
        ("claims", lambda: _claims(api, namespace)),
    ]


def _version(api: client.ApiClient) -> Iterator[Finding]:
    found = kube.require(api, "/version")
    number = tuple(int("".join(filter(str.isdigit, found[key]))) for key in ("major", "minor"))
    text = f"Kubernetes {found['gitVersion']}"
    if number < MIN_KUBERNETES:
        yield fault(f"{text} is too old", "upgrade to 1.34 or later")
    else:
        yield ok(text)


def _crd(api: client.ApiClient) -> Iterator[Finding]:
    found = kube.get(api, f"/apis/{API_VERSION}") or {}
    served = {item.get("name") for item in found.get("resources", ())}
    if {PLURAL, f"{PLURAL}/status"} <= served:
        yield ok(f"CRD {PLURAL} {API_VERSION}")
    else:
        yield fault(f"CRD {PLURAL} is not served", _HELM)


def _guards(api: client.ApiClient) -> Iterator[Finding]:
    policies = (kube.get(api, _POLICIES) or {}).get("items", ())
    bindings = (kube.get(api, _BINDINGS) or {}).get("items", ())
    closed = {
        item["metadata"]["name"]
        for item in policies
        if item["spec"].get("failurePolicy", "Fail") == "Fail"
    }
    denied = {
        item["spec"].get("policyName")
        for item in bindings
        if "Deny" in item["spec"].get("validationActions", ())
    }
    missing = [name for name in GUARDS if name not in closed & denied]
    if missing:
        yield fault(
            f"guards missing or not denying: {', '.join(missing)}",
            f"{_HELM} --set guards.enabled=true, by a cluster admin",
        )
    else:
        yield ok(f"guards {len(GUARDS)}/{len(GUARDS)}")


def _operator(api: client.ApiClient) -> Iterator[Finding]:
    items = operator_settings.deployments(api)
    if not items:
        yield fault("the operator is not installed", _HELM)
    for item in items:
        where = item["metadata"]["namespace"]
        if item.get("status", {}).get("readyReplicas", 0):
            yield ok(f"operator in {where}")
            yield from _certificate(api, where)
        else:
            fix = f"kubectl -n {where} describe deployment {item['metadata']['name']}"
            yield fault(f"the operator in {where} is not ready", fix)


def _certificate(api: client.ApiClient, namespace: str) -> Iterator[Finding]:
    """Look at the gateway's certificate where this machine can reach the Service."""
    path = f"/api/v1/namespaces/{namespace}/services/{GATEWAY_SERVICE}"
    service = kube.get(api, path)
    if service is None:
        yield fault(f"Service {GATEWAY_SERVICE} is missing in {namespace}", _HELM)
        return
    ports = service["spec"].get("ports") or [{"port": GATEWAY_PORT}]
    ends = certificate_end(str(service["spec"].get("clusterIP", "")), int(ports[0]["port"]))
    if ends is None:
        yield warning("gateway certificate: the Service cannot be reached from this machine")
        return
    hours = (ends - datetime.now(UTC)).total_seconds() / 3600
    if hours > 0:
        yield ok(f"gateway certificate, {hours:.0f} h left")
    else:
        fix = f"look at Vault's PKI and kubectl -n {namespace} logs deployment/securetrain-operator"
        yield fault("the gateway's certificate has ended", fix)


def certificate_end(host: str, port: int) -> datetime | None:
    """When a TLS server's certificate ends; None if the server cannot be reached.

    The certificate is only looked at; nothing is sent to a server that nobody vouches for.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=3) as raw,
            context.wrap_socket(raw) as connection,
        ):
            data = connection.getpeercert(binary_form=True) or b""
    except OSError:
        return None
    return x509.load_der_x509_certificate(data).not_valid_after_utc


def _network(api: client.ApiClient) -> Iterator[Finding]:
    found = kube.get(api, "/apis/apps/v1/daemonsets") or {}
    names = {item["metadata"]["name"] for item in found.get("items", ())}
    enforcers = sorted(names.intersection(ENFORCERS))
    if enforcers:
        yield ok(f"NetworkPolicy by {', '.join(enforcers)}")
    else:
        yield warning(
            "no network plugin that is known to enforce NetworkPolicy",
            "check your plugin's documentation: without it pods can talk to anybody",
        )


def _namespace(api: client.ApiClient, namespace: str) -> Iterator[Finding]:
    found = kube.get(api, f"/api/v1/namespaces/{namespace}")
    if found is None:
        yield fault(
            f"namespace {namespace} does not exist", f"kubectl create namespace {namespace}"
        )
        return
    labels: Mapping[str, str] = found["metadata"].get("labels") or {}
    if labels.get(NAMESPACE_LABEL) == NAMESPACE_LABEL_VALUE:
        yield ok(f"namespace {namespace} is open for jobs")
    else:
        yield fault(
            f"namespace {namespace} is not open for jobs",
            f"kubectl label namespace {namespace} {NAMESPACE_LABEL}={NAMESPACE_LABEL_VALUE}",
        )


def _claims(api: client.ApiClient, namespace: str) -> Iterator[Finding]:
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    claims = (kube.get(api, path) or {}).get("items", ())
    if not claims:
        yield warning(
            f"no PersistentVolumeClaim in {namespace}", "make claims for datasets and models"
        )
    for claim in claims:
        yield _claim(api, claim)


def _claim(api: client.ApiClient, claim: Mapping[str, Any]) -> Finding:
    name = claim["metadata"]["name"]
    if claim.get("status", {}).get("phase") == "Bound":
        return ok(f"claim {name}")
    wanted = claim["spec"].get("storageClassName")
    classes = "/apis/storage.k8s.io/v1/storageclasses"
    if wanted and kube.get(api, f"{classes}/{wanted}") is None:
        return fault(
            f"StorageClass {wanted} missing for claim {name}",
            "kubectl get storageclass, and make the claim again with one of them",
        )
    if wanted is None and not (kube.get(api, classes) or {}).get("items"):
        return fault(f"claim {name} has no StorageClass and the cluster no default", "name one")
    return warning(f"claim {name} is not bound yet", f"kubectl describe pvc {name}")
