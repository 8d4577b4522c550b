"""A real Kubernetes control plane without nodes: etcd, API server, controller manager.

It needs no root and no network but loopback, and is up in a few seconds: what integration tests of
an operator need. The one-node cluster builds on it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from localcluster import binaries, https, ports
from localcluster.kubectl import Kubectl
from localcluster.pki import Authority, KeyPair, signing_keys, write_private
from localcluster.process import Process, wait_until

ISSUER = "https://kubernetes.default.svc"
SERVICE_RANGE = "10.96.0.0/16"
_NAMES = ("localhost", "127.0.0.1", "10.96.0.1", "kubernetes.default", "kubernetes.default.svc")
_AUDITED = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {{level: None, users: ["system:apiserver"]}}
- {{level: None, resources: [{{group: coordination.k8s.io}}]}}
- {{level: {level}}}
"""
"""The level RequestResponse logs tokens too: for a cluster that nobody relies on."""
_AUDIT_MEGABYTES = 200
_AUDIT_OLD_FILES = 2


class ControlPlane:
    """The control plane of one state folder.

    Args:
        state: the folder with all that it writes.
        port: the API server's port; a free one by default, and then the same after a restart.
        advertise: the only address that the API server listens on; pods must reach it.
        audit: level at which the API server logs every request to `audit_log`, such as Metadata,
            or RequestResponse, which takes much of its time; empty for no log.
        apiserver_flags: appended to the API server's own.
        controller_flags: appended to the controller manager's own.
        die_with_parent: see `Process`.
    """

    def __init__(
        self,
        state: Path,
        *,
        port: int | None = None,
        advertise: str = "127.0.0.1",
        audit: str = "",
        apiserver_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
        die_with_parent: bool = False,
    ) -> None:
        self.state = state.absolute()
        self._port = port
        self._advertise = advertise
        self._audit = audit
        self._flags = {"apiserver": apiserver_flags, "controller-manager": controller_flags}
        self._etcd, self._apiserver, self._manager = (
            Process(name, self.state, die_with_parent=die_with_parent)
            for name in ("etcd", "apiserver", "controller-manager")
        )

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        return self.state / "admin.kubeconfig"

    @property
    def address(self) -> str:
        """The API server's URL, for this machine and for pods."""
        return f"https://{self._advertise}:{self._ports['api']}"

    @property
    def ca(self) -> Path:
        """PEM file of the cluster's CA."""
        return self.state / "pki" / "ca.crt"

    @property
    def issuer(self) -> str:
        """The `iss` of service account tokens."""
        return ISSUER

    @property
    def token_public_key(self) -> str:
        """The key that verifies service account tokens, PEM; for Vault's JWT auth method."""
        return (self.state / "pki" / "service-accounts.pub").read_text()

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, one JSON object per line, if it was asked for."""
        return self.state / "logs" / "apiserver-audit.jsonl"

    @property
    def kubectl(self) -> Kubectl:
        """`kubectl` as the cluster's administrator."""
        return Kubectl(binaries.ensure() / "kubectl", self.kubeconfig)

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its processes, in the order in which they start."""
        return self._etcd, self._apiserver, self._manager

    @property
    def running(self) -> bool:
        """Whether all its processes are alive."""
        return all(process.running for process in self.processes)

    def start(self) -> None:
        """Starts what is not running and waits until the API server is ready.

        Raises:
            ClusterError: a port is taken, or a process does not come up.
        """
        programs = binaries.ensure()
        pki = self._credentials()
        self._etcd.start([programs / "etcd", *self._etcd_flags()])
        self._apiserver.start([programs / "kube-apiserver", *self._apiserver_flags()])
        serving = (self._etcd, self._apiserver)
        wait_until(lambda: self._answers("/readyz", pki), "the API server", processes=serving)
        # Not earlier: it gives up on an API server that is not healthy within ten seconds.
        self._manager.start([programs / "kube-controller-manager", *self._manager_flags()])
        wait_until(
            lambda: self._has_default_account(pki),
            "the controller manager",
            processes=self.processes,
        )

    def stop(self) -> None:
        """Stops everything and keeps the data."""
        for process in reversed(self.processes):
            process.stop()

    def client(self, name: str, *, user: str, group: str = "") -> Path:
        """A kubeconfig for a user with a client certificate, made on first use."""
        authority = Authority(self.state / "pki", "ca")
        pair = authority.issue(name, common_name=user, organization=group)
        file = self.state / f"{name}.kubeconfig"
        write_private(file, json.dumps(self._kubeconfig(name, pair), indent=1).encode())
        return file

    @property
    def _ports(self) -> dict[str, int]:
        chosen = ports.remembered(self.state / "ports.json", ("api", "etcd"))
        return chosen if self._port is None else {**chosen, "api": self._port}

    def _credentials(self) -> KeyPair:
        pki = self.state / "pki"
        authority = Authority(pki, "ca")
        hosts = tuple(dict.fromkeys((*_NAMES, self._advertise)))
        authority.issue("apiserver", common_name="kube-apiserver", hosts=hosts)
        signing_keys(pki, "service-accounts")
        etcd = Authority(pki, "etcd-ca")
        etcd.issue("etcd", common_name="etcd", hosts=("127.0.0.1",))
        self.client("admin", user="admin", group="system:masters")
        return authority.issue("admin", common_name="admin", organization="system:masters")

    def _etcd_flags(self) -> list[str]:
        pki, url = self.state / "pki", f"https://127.0.0.1:{self._ports['etcd']}"
        return [
            f"--data-dir={self.state / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            f"--cert-file={pki / 'etcd.crt'}",
            f"--key-file={pki / 'etcd.key'}",
            f"--trusted-ca-file={pki / 'etcd-ca.crt'}",
            "--client-cert-auth",
            "--unsafe-no-fsync",
        ]

    def _apiserver_flags(self) -> list[str]:
        pki = self.state / "pki"
        reconciler = "none" if self._advertise.startswith("127.") else "lease"
        return [
            f"--etcd-servers=https://127.0.0.1:{self._ports['etcd']}",
            f"--etcd-cafile={pki / 'etcd-ca.crt'}",
            f"--etcd-certfile={pki / 'etcd.crt'}",
            f"--etcd-keyfile={pki / 'etcd.key'}",
            f"--secure-port={self._ports['api']}",
            f"--bind-address={self._advertise}",
            f"--advertise-address={self._advertise}",
            f"--endpoint-reconciler-type={reconciler}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--kubelet-client-certificate={pki / 'admin.crt'}",
            f"--kubelet-client-key={pki / 'admin.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            *(self._audit_flags() if self._audit else ()),
            *self._flags["apiserver"],
        ]

    def _audit_flags(self) -> list[str]:
        policy = self.state / "audit-policy.yaml"
        policy.write_text(_AUDITED.format(level=self._audit))
        self.audit_log.parent.mkdir(exist_ok=True)
        return [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            f"--audit-log-maxsize={_AUDIT_MEGABYTES}",
            f"--audit-log-maxbackup={_AUDIT_OLD_FILES}",
        ]

    def _manager_flags(self) -> list[str]:
        pki = self.state / "pki"
        return [
            *controller_flags(self.kubeconfig),
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            "--use-service-account-credentials",
            *self._flags["controller-manager"],
        ]

    def _answers(self, path: str, client: KeyPair) -> bool:
        status, _ = https.request("GET", f"{self.address}{path}", ca=self.ca, client=client)
        return status == 200

    def _has_default_account(self, client: KeyPair) -> bool:
        return self._answers("/api/v1/namespaces/default/serviceaccounts/default", client)

    def _kubeconfig(self, name: str, pair: KeyPair) -> dict[str, object]:
        cluster = {"server": self.address, "certificate-authority-data": _base64(self.ca)}
        user = {
            "client-certificate-data": _base64(pair.certificate),
            "client-key-data": _base64(pair.key),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": name}}],
            "current-context": "local",
        }


def controller_flags(kubeconfig: Path) -> list[str]:
    """What controller manager and scheduler have in common: one instance, no port of its own."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
