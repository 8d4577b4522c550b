"""The operator as its own process on a real API server and OpenBao, as the chart installs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from localcluster.ports import free_ports
from securetrain.vault import setup
from securetrain.vault.client import VaultClient
from securetrain.vault.setup_request import SetupRequest
from support.chart import AUDIENCE, OPERATOR_NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
GATEWAY_NAME = f"securetrain-gateway.{OPERATOR_NAMESPACE}.svc"
ACCOUNT = "securetrain-operator"
TOKEN = re.compile(r"\beyJ|\b(hv)?[sb]\.[A-Za-z0-9_-]{20}")
"""A token of Kubernetes, of Vault or of OpenBao, whose tokens begin with `s.`."""
TRAINER = "registry.example.org/securetrain/trainer@sha256:" + "b" * 64


def set_up_vault(
    openbao: OpenBao, control_plane: ControlPlane, namespace: str, *model_keks: str
) -> None:
    """What `securetrain vault setup --apply` does; with further model KEKs."""
    request = SetupRequest(
        namespace=namespace,
        dataset_keks=("app-digits",),
        model_keks=("app-models", *model_keks),
        jwt_public_keys=(control_plane.token_public_key,),
        issuer=control_plane.issuer,
        operator_subject=f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}",
        gateway_names=(GATEWAY_NAME,),
    )
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        setup.apply(setup.plan(client, request))


@dataclass(frozen=True, slots=True)
class OperatorProcess:
    """Files and ports of one operator."""

    folder: Path
    gateway_port: int
    health_port: int
    address: str = "127.0.0.1"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.yaml"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def output(self) -> str:
        """Standard output: audit records and refusals."""
        return (self.folder / "stdout").read_text()

    @property
    def log(self) -> str:
        """Standard error: log lines."""
        return (self.folder / "stderr").read_text()

    def probe(self, path: str) -> tuple[int, Any]:
        """Status and body of a probe; 0 if nobody answers."""
        url = f"http://{self.address}:{self.health_port}{path}"
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it; killed at the end if it still runs."""
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
            "SECURETRAIN_SETTINGS": str(self.settings_file),
            "KUBECONFIG": str(self.kubeconfig),
        }
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "securetrain_operator"],
                env=environment,
                stdout=out,
                stderr=err,
                cwd=self.folder,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Wait until /readyz says yes."""
        until = time.monotonic() + seconds
        while self.probe("/readyz")[0] != 200:
            assert time.monotonic() < until, f"{self.probe('/readyz')}\n{self.log}"
            time.sleep(0.2)


def prepare(
    folder: Path, control_plane: ControlPlane, openbao: OpenBao, *namespaces: str, **more: Any
) -> OperatorProcess:
    """Write settings, tokens and kubeconfig of an operator; `more` are further settings."""
    made = OperatorProcess(folder, *free_ports(2))
    token = folder / "vault-token"
    token.write_text(operator_token(control_plane, "--audience=vault"))
    connection = {
        "address": openbao.address,
        "ca": openbao.ca_pem,
        "allowedNamespaces": list(namespaces),
        "egressCidrs": ["192.0.2.7/32"],
    }
    settings = {
        "namespace": OPERATOR_NAMESPACE,
        "audience": AUDIENCE,
        "trainerImage": TRAINER,
        "gatewayUrl": f"https://{GATEWAY_NAME}",
        "gatewayPort": made.gateway_port,
        "gatewayNames": [GATEWAY_NAME],
        "healthPort": made.health_port,
        "listenAddress": made.address,
        "vaultConnections": [connection],
        "vaultTokenFile": str(token),
        "resyncSeconds": 5,
        **more,
    }
    made.settings_file.write_text(yaml.safe_dump(settings))
    write_kubeconfig(made.kubeconfig, control_plane, operator_token(control_plane))
    return made


def write_kubeconfig(path: Path, control_plane: ControlPlane, token: str) -> None:
    """A kubeconfig that logs in by a token."""
    cluster = {"server": control_plane.address, "certificate-authority": str(control_plane.ca)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(config))


def operator_token(control_plane: ControlPlane, *flags: str) -> str:
    """A token of the operator's service account."""
    return control_plane.kubectl(
        "create", "token", ACCOUNT, "-n", OPERATOR_NAMESPACE, "--duration=1h", *flags
    ).strip()
