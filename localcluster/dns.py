"""The cluster's DNS: CoreDNS on the node's address, behind the usual service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localcluster import network
from localcluster.control_plane import ControlPlane
from localcluster.node import DNS_SERVICE
from localcluster.process import Process

_COREFILE = """\
.:53 {{
  bind {host}
  errors
  kubernetes cluster.local {{
    kubeconfig {kubeconfig} local
  }}
  cache 5
}}
"""
_ROLE: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "system:coredns"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ],
}
_BINDING: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "system:coredns"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:coredns",
    },
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}
    ],
}
_SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {
        "clusterIP": DNS_SERVICE,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    },
}
_ENDPOINTS: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "kube-dns",
        "namespace": "kube-system",
        "labels": {"kubernetes.io/service-name": "kube-dns"},
    },
    "addressType": "IPv4",
    "ports": _SERVICE["spec"]["ports"],
    "endpoints": [{"addresses": [network.HOST], "conditions": {"ready": True}}],
}


class Dns:
    """CoreDNS for one cluster."""

    def __init__(self, cluster: ControlPlane, programs: Path) -> None:
        self._cluster = cluster
        self._program = programs / "coredns"
        self.process = Process("coredns", cluster.state)

    def start(self) -> None:
        """Starts it and announces its service."""
        self._cluster.kubectl.apply(_ROLE, _BINDING, _SERVICE, _ENDPOINTS)
        kubeconfig = self._cluster.client("coredns", user="system:coredns")
        corefile = self._cluster.state / "Corefile"
        corefile.write_text(_COREFILE.format(host=network.HOST, kubeconfig=kubeconfig))
        self.process.start([self._program, "-conf", corefile])
