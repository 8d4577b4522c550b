"""No zombies: when a part of the operator ends, the whole process ends with its error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import kopf
import pytest

from localcluster.control_plane import ControlPlane
from localcluster.ports import free_ports
from securetrain.api.names import PLURAL
from securetrain_operator import app, handlers
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.app import App
from securetrain_operator.settings import Settings
from support.api import Api
from support.chart import AUDIENCE
from support.installed import install_crd
from support.operator_process import TRAINER, write_kubeconfig

BLIND = "blind-operator"


def settings() -> Settings:
    connection = {"address": "https://127.0.0.1:1", "ca": "none"}
    gateway_port, health_port = free_ports(2)
    return Settings.model_validate(
        {
            "namespace": "default",
            "audience": AUDIENCE,
            "trainerImage": TRAINER,
            "gatewayUrl": "https://gateway.default.svc",
            "gatewayPort": gateway_port,
            "gatewayNames": ["gateway.default.svc"],
            "healthPort": health_port,
            "vaultConnections": [connection],
        }
    )


@pytest.fixture
async def cluster(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubeCluster]:
    """A login that may list all that the operator lists, but watches no pods."""
    kubectl = control_plane.kubectl
    install_crd(Api(control_plane.kubeconfig))
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": BLIND, "namespace": "default"},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": BLIND},
            "rules": [
                {
                    "apiGroups": ["", "batch", "securetrain.dev"],
                    "resources": ["pods", "jobs", "configmaps", PLURAL],
                    "verbs": ["get", "list"],
                },
                {
                    "apiGroups": ["batch", "securetrain.dev"],
                    "resources": ["jobs", PLURAL],
                    "verbs": ["watch"],
                },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": BLIND},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": BLIND,
            },
            "subjects": [{"kind": "ServiceAccount", "name": BLIND, "namespace": "default"}],
        },
    )
    token = kubectl("create", "token", BLIND, "-n", "default", "--duration=1h").strip()
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, control_plane, token)
    monkeypatch.setenv("KUBECONFIG", str(path))
    made = await KubeCluster.connect(path)
    yield made
    await made.close()


async def test_a_watch_that_fails_for_good_ends_the_process(
    cluster: KubeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = handlers.watch_settings

    def impatient() -> kopf.OperatorSettings:
        made = patient()
        made.networking.error_backoffs = ()
        return made

    monkeypatch.setattr(handlers, "watch_settings", impatient)
    wired = App.wire(settings(), cluster, VaultBroker(tmp_path / "absent"))
    async with asyncio.timeout(120):
        with pytest.raises(Exception, match="pods") as caught:
            await wired.run(asyncio.Event())
    assert "Forbidden" in type(caught.value).__name__


async def test_stopping_before_anything_has_started_well(
    cluster: KubeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watches end by themselves, without being waited for in vain."""
    monkeypatch.setattr(app, "WATCH_STOP_SECONDS", 60.0)
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(45):
        await App.wire(settings(), cluster, VaultBroker(tmp_path / "absent")).run(stop)
