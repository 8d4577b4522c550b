"""An operator process that reaches its API server and Vault, and pods theirs, by fault proxies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from localcluster.pki import KeyPair
from securetrain.api.names import Purpose
from securetrain.vault import pki
from securetrain.vault.client import VaultClient
from support import stage
from support.fault_proxy import FaultProxy
from support.operator_process import GATEWAY_NAME, TOKEN, OperatorProcess
from support.stage import Stage


@dataclass(frozen=True)
class Ways:
    """The proxies: operator to API server, and operator and pods to Vault.

    Attributes:
        folder: holds the proxies' own CAs, in `api` and `vault`.
    """

    api: FaultProxy
    vault: FaultProxy
    folder: Path


@contextmanager
def opened(
    control_plane: ControlPlane, openbao: OpenBao, folder: Path, namespace: str, **settings: Any
) -> Iterator[tuple[Stage, Ways]]:
    """A guarded stage whose operator, not started yet, goes by proxies."""
    authority = control_plane.ca.read_text()
    with (
        FaultProxy(folder / "api", control_plane.address, authority) as api,
        FaultProxy(folder / "vault", openbao.address, openbao.ca_pem) as vault,
        stage.opened(control_plane, openbao, folder, namespace, guards=True, **settings) as made,
    ):
        ways = Ways(api, vault, folder)
        _divert(made.operator, ways)
        yield made, ways


def _divert(operator: OperatorProcess, ways: Ways) -> None:
    login: Any = yaml.safe_load(operator.kubeconfig.read_text())
    cluster = {"server": ways.api.url, "certificate-authority": str(ways.api.ca_file)}
    login["clusters"][0]["cluster"] = cluster
    operator.kubeconfig.write_text(yaml.safe_dump(login))
    settings: Any = yaml.safe_load(operator.settings_file.read_text())
    settings["vaultConnections"][0] |= {"address": ways.vault.url, "ca": ways.vault.ca_pem}
    operator.settings_file.write_text(yaml.safe_dump(settings))


def second(first: OperatorProcess, folder: Path) -> OperatorProcess:
    """The same operator once more at another address, as if somebody installed it twice."""
    folder.mkdir()
    made = replace(first, folder=folder, address="127.0.0.2")
    settings: Any = yaml.safe_load(first.settings_file.read_text())
    settings["listenAddress"] = made.address
    made.settings_file.write_text(yaml.safe_dump(settings))
    made.kubeconfig.write_text(first.kubeconfig.read_text())
    return made


@contextmanager
def before_the_gateway(
    stage: Stage, folder: Path, operator: OperatorProcess
) -> Iterator[FaultProxy]:
    """A proxy before an operator's gateway, under a certificate that pods trust."""
    with VaultClient(
        stage.openbao.address, stage.openbao.ca_pem, token=stage.openbao.root_token
    ) as client:
        issued = pki.issue_certificate(client, "securetrain-pki", "gateway", [GATEWAY_NAME])
    pair = KeyPair(folder / "gateway.crt", folder / "gateway.key")
    pair.certificate.write_text(issued.chain_pem)
    pair.key.write_bytes(issued.key.reveal())
    upstream = f"https://{operator.address}:{operator.gateway_port}"
    with FaultProxy(
        folder / "gateway", upstream, issued.ca_pem, server_name=GATEWAY_NAME, pair=pair
    ) as proxy:
        yield proxy


def check_trained_once(stage: Stage, name: str, keys: int = 1) -> None:
    """A job has succeeded, and one pod of each phase had keys, or `keys` pods that train."""
    assert stage.phase(name) == "Succeeded", stage.job(name)["status"]
    record = stage.record(stage.job(name)["metadata"]["uid"])
    assert record is not None
    for purpose in Purpose:
        granted = [pod.uid for pod in stage.player.of(name, purpose) if "keys" in pod.stages]
        assert [grant.pod_uid for grant in record.grants_of(purpose)] == granted
        assert len(granted) == (keys if purpose is Purpose.TRAIN else 1)


def check_words(stage: Stage) -> None:
    """The operator said nothing unforeseen: no stack trace, no bug, no token."""
    for line in stage.operator.log.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
    for said in (stage.operator.log, stage.operator.output):
        for text in ("Traceback", "reconcile failed", "unexpected"):
            assert text not in said
        assert not TOKEN.search(said)
