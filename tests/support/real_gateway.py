"""The real key gateway over TLS, with launched jobs: real API server, Job controller and Vault.

Only the kubelet is missing, and tests play it: bind a pod, report it as running, mint its token.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api import names
from securetrain.sealed.writer import SealOptions, seal
from securetrain.vault.custody import Custodian
from securetrain_operator.settings import Settings
from support import samples, trainer_kit, vaultkit
from support.api import Api
from support.chart import AUDIENCE, OPERATOR_NAMESPACE, OPERATOR_USER, of_kind, render
from support.gateway_stage import ADDRESS, HOST, KUBELET, NODE, GatewayStage
from support.installed import ROLE_KINDS, install_crd, make_namespace
from support.operator_process import TRAINER, operator_token, write_kubeconfig
from support.real_operator import Background, OffsetClock, serve

CLAIMS = ("datasets", "models")


@contextmanager
def staged(
    control_plane: ControlPlane, openbao: OpenBao, folder: Path, name: str, **settings: Any
) -> Iterator[GatewayStage]:
    """A stage of its own: namespace, claims, Vault mounts, a sealed dataset, a served gateway.

    No guard is installed and none is asked for, unless `settings` say so: the gateway is alone.
    """
    admin = Api(control_plane.kubeconfig)
    kit = prepare_vault(control_plane, openbao, name)
    prepare_cluster(admin, kit.request.namespace)
    seal_dataset(kit, folder / "data")
    login = folder / "kubeconfig"
    write_kubeconfig(login, control_plane, operator_token(control_plane))
    (folder / "vault-token").write_text(operator_token(control_plane, "--audience=vault"))
    background, clock = Background(), OffsetClock()
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        chosen = settings_of(kit, listener.getsockname()[1], folder / "vault-token", **settings)
        stack = AsyncExitStack()
        try:
            operator = background(serve(stack, login, chosen, clock, listener))
            yield GatewayStage(
                admin, admin.as_user(*KUBELET), operator, kit, chosen, clock, background, folder
            )
        finally:
            background(stack.aclose())
            background.close()
            strike(admin, kit.request.namespace)


def strike(admin: Api, namespace: str) -> None:
    """Leave nothing that another operator would take for its work."""
    jobs = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    admin.delete(jobs).expect()
    admin.delete(f"/api/v1/nodes/{NODE}").expect()


def prepare_vault(control_plane: ControlPlane, openbao: OpenBao, name: str) -> vaultkit.Kit:
    """Mounts and roles for one namespace; the operator logs in by its real tokens."""
    return vaultkit.prepare(
        openbao,
        name,
        jwt_public_keys=(control_plane.token_public_key,),
        issuer=control_plane.issuer,
        operator_subject=OPERATOR_USER,
        gateway_names=(HOST,),
    )


def prepare_cluster(admin: Api, namespace: str) -> None:
    """CRD, the operator's rights, a node, and a namespace with its claims."""
    make_namespace(admin, OPERATOR_NAMESPACE, enabled=False)
    install_crd(admin)
    for item in of_kind(render(), *ROLE_KINDS):
        admin.apply(item).expect()
    admin.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}).expect()
    make_namespace(admin, namespace)
    for claim in CLAIMS:
        admin.apply(samples.claim(claim, namespace)).expect()


def seal_dataset(kit: vaultkit.Kit, folder: Path) -> None:
    """A small dataset, sealed for the kit's namespace by its owner."""
    wanted = kit.request
    rules = trainer_kit.policy(
        namespaces=[wanted.namespace], outputKeks=list(wanted.model_keks), networkIsolation=True
    )
    (kek,) = wanted.dataset_keks
    options = SealOptions(kek=kek, policy=rules, transit_mount=wanted.transit_mount)
    with kit.admin() as owner:
        seal(trainer_kit.source(60), folder, options, Custodian(owner, wanted.transit_mount, kek))


def settings_of(kit: vaultkit.Kit, port: int, vault_token: Path, **changes: Any) -> Settings:
    """The operator's settings."""
    connection = kit.connection.model_copy(update={"name": "default"})
    fields = {
        "namespace": OPERATOR_NAMESPACE,
        "audience": AUDIENCE,
        "trainer_image": TRAINER,
        "gateway_url": f"https://{HOST}:{port}",
        "gateway_names": (HOST,),
        "watch_namespaces": (kit.request.namespace,),
        "vault_connections": (connection,),
        "vault_token_file": str(vault_token),
        "require_guards": False,
    }
    return Settings(**(fields | changes))
