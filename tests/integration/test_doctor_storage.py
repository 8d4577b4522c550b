"""`securetrain doctor` on storage connections: a real API server and a real S3 server."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from securetrain.cli import doctor_storage, kube, operator_settings
from securetrain.cli.findings import Finding, run_checks
from support.s3_server import S3Server

NAMESPACE = "team-doctor"
LABELS = {"app": "operator-of-the-doctors-test"}
SECRET = "doctor-login"


@pytest.fixture(autouse=True)
def login(control_plane: ControlPlane, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace, a login in it, and an administrator's kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    monkeypatch.setattr(operator_settings, "OPERATOR", f"app={LABELS['app']}")
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    secret = {"name": SECRET, "namespace": NAMESPACE}
    data = {"AWS_SECRET_ACCESS_KEY": "secret"}
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": data})


def connection(s3_server: S3Server, **changes: Any) -> dict[str, Any]:
    """A storage connection as it stands in the operator's settings."""
    good = {
        "name": "minio",
        "endpoint": s3_server.endpoint,
        "ca": s3_server.ca_pem,
        "credentialsSecret": SECRET,
        "allowedNamespaces": [NAMESPACE],
    }
    return good | changes


def diagnosed(kubectl: Kubectl, *connections: dict[str, Any]) -> list[Finding]:
    """What doctor says when an operator with these connections is installed."""
    metadata = {"name": "operator", "namespace": NAMESPACE, "labels": LABELS}
    container = {"name": "operator", "image": "localhost/operator"}
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": template}
    settings = {"name": operator_settings.SETTINGS, "namespace": NAMESPACE}
    text = yaml.safe_dump({"storageConnections": list(connections)})
    kubectl.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": settings,
            "data": {"settings.yaml": text},
        },
    )
    with kube.api() as api:
        return list(run_checks(doctor_storage.checks(api, NAMESPACE)))


def test_a_connection_that_works_and_its_login_are_ticked(
    kubectl: Kubectl, s3_server: S3Server
) -> None:
    others = connection(s3_server, name="theirs", allowedNamespaces=["team-other"])
    server, secret = diagnosed(kubectl, connection(s3_server), others)
    endpoint = s3_server.endpoint
    assert str(server) == f"✓ storage connection minio: {endpoint} shows a certificate of its CA"
    assert str(secret) == f"✓ Secret {SECRET} for storage connection minio"


def test_a_login_that_is_missing_is_named_with_the_command_that_makes_it(
    kubectl: Kubectl, s3_server: S3Server
) -> None:
    _, secret = diagnosed(kubectl, connection(s3_server, credentialsSecret="forgotten"))
    assert str(secret) == (
        "✗ Secret forgotten of storage connection minio is missing in team-doctor. Fix: kubectl"
        " create secret generic forgotten -n team-doctor --from-file=AWS_ACCESS_KEY_ID=FILE"
        " --from-file=AWS_SECRET_ACCESS_KEY=FILE"
    )


def test_a_server_of_another_ca_is_a_fault(
    kubectl: Kubectl, s3_server: S3Server, control_plane: ControlPlane
) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, ca=control_plane.ca.read_text()))
    assert str(server).startswith(f"✗ storage connection minio: {s3_server.endpoint} shows a")
    assert "its ca does not vouch for" in str(server)


def test_a_bundle_that_is_none_is_a_fault(kubectl: Kubectl, s3_server: S3Server) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, ca="none"))
    assert str(server).startswith("✗ storage connection minio: no TLS with https://127.0.0.1")


def test_a_server_that_cannot_be_reached_from_here_is_a_warning(
    kubectl: Kubectl, s3_server: S3Server
) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, endpoint="https://127.0.0.1:1"))
    assert str(server).startswith("! storage connection minio: https://127.0.0.1:1 cannot be")


def test_a_connection_that_the_operator_would_not_take_is_a_fault(
    kubectl: Kubectl, s3_server: S3Server
) -> None:
    (found,) = diagnosed(kubectl, connection(s3_server, endpoint="http://minio"))
    assert str(found).startswith("✗ storage.connections[0].endpoint: 'http://minio' ")


def test_what_the_caller_may_not_see_is_a_warning(
    kubectl: Kubectl,
    control_plane: ControlPlane,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diagnosed(kubectl, connection(s3_server))
    monkeypatch.setenv("KUBECONFIG", str(control_plane.client("nobody", user="nobody")))
    with kube.api() as api:
        (found,) = run_checks(doctor_storage.checks(api, NAMESPACE))
    assert str(found).startswith("! object storage: you may not read")


def test_what_a_login_holds_never_leaves_the_api_server(
    kubectl: Kubectl, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    ask = kube.get

    def overheard(*asked: Any, **options: Any) -> Any:
        answers.append(ask(*asked, **options))
        return answers[-1]

    monkeypatch.setattr(kube, "get", overheard)
    diagnosed(kubectl, connection(s3_server))
    login = answers[-1]
    assert login["metadata"]["name"] == SECRET
    assert login.keys() == {"kind", "apiVersion", "metadata"}
