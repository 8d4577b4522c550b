"""`securetrain doctor` on storage connections: a real API server and a real S3 server."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
import yaml

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from securetrain.cli import doctor_storage, kube, operator_settings
from securetrain.cli.findings import Finding, run_checks
from securetrain.storage.connection import StorageConnection
from support.s3_server import S3Server

NAMESPACE = "team-doctor"
LABELS = {"app": "operator-of-the-doctors-test"}
SECRET = "doctor-login"
PRIVATE = b"the-key-itself"
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture(autouse=True)
def login(control_plane: ControlPlane, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace, a login in it, and an administrator's kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    monkeypatch.setattr(operator_settings, "OPERATOR", f"app={LABELS['app']}")
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    data = {"AWS_SECRET_ACCESS_KEY": b64encode(PRIVATE).decode()}
    secret = {"name": SECRET, "namespace": NAMESPACE, "annotations": {APPLIED: json.dumps(data)}}
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "data": data})


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


def diagnosed(
    kubectl: Kubectl, *connections: dict[str, Any], settings: str | None = None
) -> list[Finding]:
    """What doctor says when an operator with these connections, or settings, is installed."""
    metadata = {"name": "operator", "namespace": NAMESPACE, "labels": LABELS}
    container = {"name": "operator", "image": "localhost/operator"}
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": template}
    beside = {"name": operator_settings.SETTINGS, "namespace": NAMESPACE}
    text = settings or yaml.safe_dump({"storageConnections": list(connections)})
    kubectl.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": beside,
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
    assert "that its ca does not vouch for" in str(server)


def test_without_a_ca_the_roots_of_the_machine_count(kubectl: Kubectl, s3_server: S3Server) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, ca=None))
    assert "that this machine's roots do not vouch for" in str(server)


def test_comments_of_a_bundle_may_be_in_any_language(kubectl: Kubectl, s3_server: S3Server) -> None:
    bundle = f"# Főtanúsítvány\n{s3_server.ca_pem}"
    server, _ = diagnosed(kubectl, connection(s3_server, ca=bundle))
    assert str(server).startswith("✓")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ca": "none"}, "storage connection minio: its ca holds no certificate in PEM"),
        (
            {"endpoint": "https://127.0.0.1:99999"},
            "storage connection minio: https://127.0.0.1:99999 is no address of a server",
        ),
        ({"endpoint": f"https://{'a' * 80}"}, f"https://{'a' * 80} is no address of a server"),
    ],
)
def test_a_connection_that_cannot_work_is_a_fault(
    kubectl: Kubectl, s3_server: S3Server, changes: dict[str, str], told: str
) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, **changes))
    assert str(server).startswith("✗ storage connection minio")
    assert f"{told}. Fix: correct it in Helm's values" in str(server)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"endpoint": "http://minio"}, "storage.connections[0].endpoint: "),
        ({"secretAccessKey": "AKIA-by-mistake"}, "storage.connections[0].secretAccessKey: "),
        ({"credentials_secret": "login"}, "storage.connections[0].credentials_secret: "),
        ({"region": 1}, "storage.connections[0].region: "),
    ],
)
def test_what_the_operator_would_not_take_is_a_fault_that_quotes_no_value(
    kubectl: Kubectl, s3_server: S3Server, changes: dict[str, Any], where: str
) -> None:
    (found,) = diagnosed(kubectl, connection(s3_server, **changes))
    assert str(found).startswith(f"✗ {where}")
    assert not any(str(value) in str(found) for value in changes.values() if value != 1)


def test_settings_that_are_no_mapping_are_a_fault(kubectl: Kubectl) -> None:
    (found,) = diagnosed(kubectl, settings="- one\n---\n- two\n")
    assert str(found).startswith("✗ object storage: settings.yaml of ConfigMap")


def test_a_server_that_cannot_be_reached_from_here_is_a_warning(
    kubectl: Kubectl, s3_server: S3Server
) -> None:
    server, _ = diagnosed(kubectl, connection(s3_server, endpoint="https://127.0.0.1:1"))
    assert str(server).startswith("! storage connection minio: https://127.0.0.1:1 cannot be")


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
        login = doctor_storage._login(api, NAMESPACE, parsed(connection(s3_server)))
    assert str(found).startswith("! object storage: you may not read")
    assert str(login).startswith(f"! Secret {SECRET} in {NAMESPACE} was not looked for")


def parsed(entry: dict[str, Any]) -> StorageConnection:
    """A connection of the settings."""
    return StorageConnection.model_validate(entry)


def test_what_a_login_holds_never_leaves_the_api_server(
    kubectl: Kubectl, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the annotation either in which `kubectl apply` keeps what it has applied."""
    answers: list[Any] = []
    ask = kube.get

    def overheard(*asked: Any, **options: Any) -> Any:
        answers.append(ask(*asked, **options))
        return answers[-1]

    monkeypatch.setattr(kube, "get", overheard)
    diagnosed(kubectl, connection(s3_server))
    assert answers[-1]["kind"] == "Table"
    assert b64encode(PRIVATE).decode() not in json.dumps(answers)
