"""An operator process whose API server and Vault are reached through fault proxies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.vault import setup
from securetrain.vault.client import VaultClient
from securetrain.vault.setup_request import SetupRequest
from support import operator_process
from support.api import Api, Object
from support.chart import OPERATOR_NAMESPACE
from support.fault_proxy import FaultProxy
from support.installed import make_namespace
from support.operator_process import ACCOUNT, GATEWAY_NAME, OperatorProcess


def set_up_vault(openbao: OpenBao, control_plane: ControlPlane, namespace: str) -> None:
    """`vault setup` for a namespace with KEKs of its own, `<namespace>-digits` and `-models`."""
    request = SetupRequest(
        namespace=namespace,
        dataset_keks=(f"{namespace}-digits",),
        model_keks=(f"{namespace}-models",),
        jwt_public_keys=(control_plane.token_public_key,),
        issuer=control_plane.issuer,
        operator_subject=f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}",
        gateway_names=(GATEWAY_NAME,),
    )
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        setup.apply(setup.plan(client, request))


def make_team(admin: Api, namespace: str) -> None:
    """A namespace with the claims that jobs name."""
    make_namespace(admin, namespace)
    for claim in ("datasets", "models"):
        admin.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": "1Mi"}},
                },
            }
        ).expect()


@contextmanager
def proxies(
    folder: Path, control_plane: ControlPlane, openbao: OpenBao
) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """One proxy before the API server, one before Vault."""
    authority = control_plane.ca.read_text()
    with (
        FaultProxy(folder / "api", control_plane.address, authority) as api,
        FaultProxy(folder / "vault", openbao.address, openbao.ca_pem) as vault,
    ):
        yield api, vault


def prepare(
    folder: Path,
    control_plane: ControlPlane,
    openbao: OpenBao,
    ways: tuple[FaultProxy, FaultProxy],
    *namespaces: str,
    **more: Any,
) -> OperatorProcess:
    """An operator as `operator_process.prepare` makes it, that goes by these proxies."""
    folder.mkdir(exist_ok=True)
    made = operator_process.prepare(folder, control_plane, openbao, *namespaces, **more)
    api, vault = ways
    login: Object = yaml.safe_load(made.kubeconfig.read_text())
    cluster = {"server": api.url, "certificate-authority": str(api.ca_file)}
    login["clusters"][0]["cluster"] = cluster
    made.kubeconfig.write_text(yaml.safe_dump(login))
    settings: Object = yaml.safe_load(made.settings_file.read_text())
    settings["vaultConnections"][0] |= {"address": vault.url, "ca": vault.ca_pem}
    made.settings_file.write_text(yaml.safe_dump(settings))
    return made
