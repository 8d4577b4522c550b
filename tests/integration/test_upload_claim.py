"""`securetrain upload` to a claim, as far as an API server without nodes goes; e2e has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kubernetes import client

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from localcluster.platform import RESTRICTED
from securetrain.cli import kube, operator_settings, transfer_pod
from securetrain.cli.main import main
from securetrain.errors import ExitCode
from support.trainer_kit import seal_dataset

NAMESPACE = "team-upload"
IMAGE = "localhost/securetrain/trainer@sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane, kubectl: Kubectl) -> str:
    """A namespace of the restricted Pod Security Standard, with a claim."""
    metadata = {"name": NAMESPACE, "labels": RESTRICTED}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "datasets", "namespace": NAMESPACE},
            "spec": claim,
        },
    )
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=120s")
    return NAMESPACE


@pytest.fixture
def dataset(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed dataset, and a kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    seal_dataset(tmp_path / "sealed", records=60)
    return tmp_path / "sealed"


def test_pod_security_takes_the_pod_and_no_guard_is_meant_by_its_name(
    dataset: Path, namespace: str
) -> None:
    body = transfer_pod.pod("securetrain-transfer-0", "datasets", IMAGE)
    core = client.CoreV1Api(kube.api())
    made = core.create_namespaced_pod(namespace, body, dry_run="All", field_validation="Strict")
    assert made.spec.automount_service_account_token is False
    assert [volume.name for volume in made.spec.volumes] == ["claim", "tmp"]  # no token came in
    assert not made.metadata.name.startswith("stj-")


def test_a_pod_that_does_not_start_is_explained_and_removed(
    dataset: Path,
    namespace: str,
    kubectl: Kubectl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(transfer_pod, "READY_SECONDS", 2.0)
    command = ["upload", str(dataset), "pvc://datasets/x", "-n", namespace, "--image", IMAGE]
    assert main(command) == ExitCode.CONFIGURATION
    err = capsys.readouterr().err
    assert "which should take the files, does not start: it is not scheduled" in err
    left = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    assert left == []


def test_the_operators_settings_name_the_image(
    namespace: str, kubectl: Kubectl, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"app": "operator-of-this-test"}
    monkeypatch.setattr(operator_settings, "OPERATOR", "app=operator-of-this-test")
    container = {"name": "operator", "image": IMAGE}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    kubectl.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "operator", "namespace": namespace, "labels": labels},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "securetrain-settings", "namespace": namespace},
            "data": {"settings.yaml": f"trainerImage: {IMAGE}\n"},
        },
    )
    assert transfer_pod.trainer_image(kube.api()) == IMAGE


@pytest.mark.parametrize(
    ("uri", "image", "code", "words"),
    [
        ("pvc://absent/x", IMAGE, ExitCode.CONFIGURATION, "claim: 'absent' does not exist in"),
        ("pvc://datasets", IMAGE, ExitCode.CONFIGURATION, "write pvc://datasets/NAME"),
        ("pvc://datasets/../x", IMAGE, ExitCode.CONFIGURATION, "is no address of sealed data"),
        ("pvc://datasets/x", "", ExitCode.USAGE, "--image is needed"),
    ],
)
def test_what_is_wrong_is_one_clear_error(
    dataset: Path,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uri: str,
    image: str,
    code: ExitCode,
    words: str,
) -> None:
    # Others may have installed one.
    monkeypatch.setattr(operator_settings, "OPERATOR", "app=absent")
    command = ["upload", str(dataset), uri, "-n", namespace]
    assert main([*command, *(["--image", image] if image else [])]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("error: ") == err.count("fix: ") == 1
