"""securetrain on the local cluster, installed by the very commands of the platform admin's page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from localcluster import binaries, images
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.volumes import give_to_pods, make_claim

ROOT: Final = Path(__file__).resolve().parent.parent
OPERATOR_NAMESPACE: Final = "securetrain"
GATEWAY_NAME: Final = f"securetrain-gateway.{OPERATOR_NAMESPACE}.svc"
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}
CLAIMS: Final = ("datasets", "models")
_PENDING: Final = (
    "owner=helm,name=securetrain,status in (pending-install,pending-upgrade,pending-rollback)"
)
"""What a Helm that was killed has left, for which every other one would refuse to begin."""


class Platform:
    """The operator in a cluster, and namespaces that may run jobs.

    Args:
        cluster: a cluster that is up.
        work: folder for values and volumes.
        quiet: whether long steps keep their progress to themselves.
        vaults: addresses by name of more Vault connections, besides `default`.
        storages: storage connections, as in the chart's values.
    """

    def __init__(
        self,
        cluster: Cluster,
        work: Path,
        *,
        quiet: bool = False,
        vaults: Mapping[str, str] | None = None,
        storages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.cluster = cluster
        self._vaults = {"default": cluster.openbao_address_for_pods, **(vaults or {})}
        self._storages = [dict(storage) for storage in storages]
        self.work = work.absolute()
        self.images: Mapping[str, str] = images.load(cluster.node.containerd, quiet=quiet)

    @property
    def environment(self) -> dict[str, str]:
        """What an admin's shell has: our programs on its path, and a Vault login."""
        folders = (str(binaries.folder()), str(Path(sys.executable).parent), os.environ["PATH"])
        openbao = self.cluster.openbao
        return {
            **os.environ,
            "PATH": os.pathsep.join(folders),
            "KUBECONFIG": str(self.cluster.control_plane.kubeconfig),
            "VAULT_ADDR": openbao.address,
            "VAULT_CACERT": str(openbao.ca_file),
            "VAULT_TOKEN": openbao.root_token.reveal_text(),
            "DATASETS_VOLUME": str(self.volume("team-a", "datasets")),
            "MODELS_VOLUME": str(self.volume("team-a", "models")),
            "VAULT_AUDIT_LOG": str(openbao.audit_log),
        }

    def volume(self, namespace: str, claim: str) -> Path:
        """The folder behind a claim."""
        return self.work / "volumes" / namespace / claim

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the admin; raises ClusterError with its last words if it fails."""
        result = subprocess.run(
            argv, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if check and result.returncode:
            said = (result.stderr or result.stdout).strip()[-2000:]
            raise ClusterError(f"`{' '.join(argv[:3])}` failed with {result.returncode}: {said}")
        return result

    def make_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        """A namespace with the restricted Pod Security Standard and more labels."""
        metadata = {"name": name, "labels": {**RESTRICTED, **labels}}
        self.cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def set_vault_up(self, *namespaces: str) -> None:
        """`securetrain vault setup --apply` for namespaces, each with KEKs of its own."""
        for namespace in namespaces:
            keys = ["--dataset-kek", f"{namespace}-digits", "--model-kek", f"{namespace}-models"]
            gateway = ["--gateway-name", GATEWAY_NAME]
            self.run(
                "securetrain",
                "vault",
                "setup",
                "--namespace",
                namespace,
                *keys,
                *gateway,
                "--apply",
            )

    def values(self) -> Path:
        """The chart's values for this cluster, written to a file."""
        connections = [
            {
                "name": name,
                "address": address,
                "ca": self.cluster.openbao.ca_pem,
                "allowedNamespaces": ["*"],
                "egressCidrs": ["10.244.0.1/32"],
            }
            for name, address in self._vaults.items()
        ]
        values = {
            "clusterName": "local",
            "image": dict(self.images),
            "vault": {"connections": connections},
            "storage": {"connections": self._storages},
            "settings": {"resyncSeconds": 5},
        }
        path = self.work / "values.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    def install(self) -> None:
        """`helm upgrade --install`, and wait until the operator is ready."""
        self.make_namespace(OPERATOR_NAMESPACE, {})
        self.cluster.kubectl("delete", "secret", "-n", OPERATOR_NAMESPACE, "-l", _PENDING)
        chart = str(ROOT / "charts" / "securetrain")
        release = ["upgrade", "--install", "securetrain", chart, "-n", OPERATOR_NAMESPACE]
        self.run("helm", *release, "-f", str(self.values()), "--wait", "--timeout", "10m")

    def open_namespace(self, namespace: str) -> None:
        """A namespace that may run jobs, with a claim for datasets and one for models."""
        self.make_namespace(namespace, {"securetrain.dev/jobs": "enabled"})
        for claim in CLAIMS:
            make_claim(self.cluster.kubectl, namespace, claim, self.volume(namespace, claim))

    def remove_namespaces(self, *namespaces: str) -> None:
        """Remove namespaces with all that is in them, and their volumes' folders."""
        kubectl = self.cluster.kubectl
        kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--timeout=300s")
        volumes = [f"{namespace}-{claim}" for namespace in namespaces for claim in CLAIMS]
        kubectl("delete", "persistentvolume", *volumes, "--ignore-not-found", "--timeout=180s")
        for namespace in namespaces:
            shutil.rmtree(self.work / "volumes" / namespace, ignore_errors=True)

    def hand_over(self, folder: Path, namespace: str, name: str) -> None:
        """Copy a sealed dataset into the volume of a namespace, as a data owner would upload it."""
        target = self.volume(namespace, "datasets") / name
        self.run("cp", "-r", str(folder), str(target))
        give_to_pods(self.volume(namespace, "datasets"))
