"""Helm itself installs, upgrades and removes the release, on a cluster that nobody else uses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from localcluster import binaries
from localcluster.control_plane import ControlPlane
from securetrain.api import names
from support import samples
from support.api import Api
from support.chart import CHART, OPERATOR_NAMESPACE, RELEASE, VALUES
from support.installed import ADMISSION, make_namespace

CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
Helm = Callable[..., str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ControlPlane]:
    server = ControlPlane(tmp_path / "cluster", die_with_parent=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def helm(cluster: ControlPlane, tmp_path: Path) -> Helm:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES))

    def run(*arguments: str) -> str:
        command = [binaries.ensure() / "helm", f"--kubeconfig={cluster.kubeconfig}", *arguments]
        command += ["--namespace", OPERATOR_NAMESPACE]
        if "upgrade" in arguments:
            command += [RELEASE, CHART, "--install", "--create-namespace", "--values", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_release_from_install_to_uninstall(cluster: ControlPlane, helm: Helm) -> None:
    admin = Api(cluster.kubeconfig)
    guards = f"{ADMISSION}/validatingadmissionpolicies"

    notes = helm("upgrade")
    assert f"system:serviceaccount:{OPERATOR_NAMESPACE}:securetrain-operator" in notes
    assert {g["metadata"]["name"] for g in admin.get(guards).expect()["items"]} > {*names.GUARDS}
    make_namespace(admin, "team-a")
    admin.create(samples.training_job()).expect()

    notes = helm("upgrade", "--set", "guards.enabled=false,settings.requireGuards=false")
    assert "keys ARE granted without them" in notes
    assert not admin.get(guards).expect()["items"]
    settings = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/securetrain-settings"
    text = admin.get(settings).expect()["data"]["settings.yaml"]
    assert yaml.safe_load(text)["requireGuards"] is False

    helm("uninstall", RELEASE)
    assert admin.get(settings).status == 404
    assert admin.get(CRD).ok
    jobs = "/apis/securetrain.dev/v1alpha1/namespaces/team-a/securetrainingjobs"
    assert [job["metadata"]["name"] for job in admin.get(jobs).expect()["items"]] == ["digits-v7"]

    helm("upgrade")
    assert admin.get(settings).ok, "a release takes the CRD that it left behind"
