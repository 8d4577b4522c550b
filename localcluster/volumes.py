"""Volumes for pods that are folders of this machine: commands here can read and write them."""

from __future__ import annotations

import os
from pathlib import Path

from localcluster.kubectl import Kubectl

_POD_USER = 10001
"""The user and group that the pods run as."""


def make_claim(kubectl: Kubectl, namespace: str, name: str, directory: Path) -> None:
    """A PersistentVolumeClaim that is bound to a folder, and waits until it is.

    Args:
        kubectl: an administrator's.
        namespace: where the claim is made.
        name: the claim's name; the volume is called `<namespace>-<name>`.
        directory: made if absent, and given to the pods' user with everything in it.

    Raises:
        ClusterError: the API server refused it, or it does not become bound.
    """
    give_to_pods(directory)
    volume = f"{namespace}-{name}"
    common = {
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "storageClassName": "",
    }
    spec = {
        **common,
        "capacity": {"storage": "10Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(directory.absolute()), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": name},
    }
    claim = {
        **common,
        "volumeName": volume,
        "resources": {"requests": {"storage": "10Gi"}},
    }
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": spec,
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": claim,
        },
    )
    condition = "--for=jsonpath={.status.phase}=Bound"
    kubectl("wait", condition, f"pvc/{name}", f"--namespace={namespace}", "--timeout=180s")


def give_to_pods(directory: Path) -> None:
    """Makes a folder, and makes the pods' user its owner with everything in it; needs root."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, _POD_USER, _POD_USER, follow_symlinks=False)
