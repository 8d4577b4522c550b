"""One node: containerd, kubelet and kube-proxy."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from localcluster import network, oci, ports
from localcluster.containerd import PAUSE, Containerd
from localcluster.control_plane import ControlPlane
from localcluster.packages import SEARCH_PATH
from localcluster.pki import Authority
from localcluster.process import Process, wait_until

NAME = "node1"
DNS_SERVICE = "10.96.0.10"
KUBELET_PORT = 10250


class Node:
    """The only node of a cluster.

    Args:
        cluster: its control plane, whose state folder it shares.
        programs: the folder of compiled programs.
    """

    def __init__(self, cluster: ControlPlane, programs: Path) -> None:
        self._cluster = cluster
        self._state = cluster.state
        self._programs = programs
        self.containerd = Containerd(self._state)
        self.kubelet = Process("kubelet", self._state)
        self.proxy = Process("kube-proxy", self._state)

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its processes, in the order in which they start."""
        return self.containerd.process, self.kubelet, self.proxy

    def start(self) -> None:
        """Starts what is not running; `ready` says when pods can come."""
        self.containerd.start()
        self._load_pause()
        self._start_kubelet()
        environment = {"PATH": SEARCH_PATH}
        proxy = self._cluster.client("kube-proxy", user="system:kube-proxy")
        self.proxy.start([self._programs / "kube-proxy", *_proxy_flags(proxy)], env=environment)

    def stop(self) -> None:
        """Stops it and leaves no container, mount or control group."""
        self.kubelet.stop()
        self.proxy.stop()
        self.containerd.stop()
        _unmount_below(self._state)
        _remove_control_groups()

    def ready(self) -> bool:
        """Whether the node says that pods can come."""
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        result = self._cluster.kubectl.run("get", "node", NAME, "-o", f"jsonpath={path}")
        return result.stdout == "True"

    def _start_kubelet(self) -> None:
        """Tries until it stays: containerd answers before its part for kubelet has recovered."""
        command: list[str | Path] = [self._programs / "kubelet", *self._kubelet_flags()]

        def stays() -> bool:
            self.kubelet.start(command, env={"PATH": SEARCH_PATH})
            return ports.answers(network.HOST, KUBELET_PORT)

        wait_until(stays, "the kubelet", every=0.5, processes=[self.containerd.process])

    def _load_pause(self) -> None:
        if PAUSE in self.containerd.images():
            return
        with tempfile.TemporaryDirectory(dir=self._state) as folder:
            archive = Path(folder) / "pause.tar"
            oci.write_archive(archive, PAUSE, oci.single_program(self._programs / "pause"))
            self.containerd.ctr("images", "import", str(archive))

    def _kubelet_flags(self) -> list[str]:
        pki = self._state / "pki"
        authority = Authority(pki, "ca")
        pair = authority.issue("kubelet-server", common_name=NAME, hosts=(NAME, network.HOST))
        user = f"system:node:{NAME}"
        kubeconfig = self._cluster.client("kubelet", user=user, group="system:nodes")
        config = self._state / "kubelet.json"
        settings = {
            **_kubelet_settings(),
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._cluster.ca)},
            },
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
        }
        config.write_text(json.dumps(settings, indent=1))
        return [
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={network.HOST}",
            f"--root-dir={self._state / 'kubelet'}",
            f"--cert-dir={pki}",
        ]


def _kubelet_settings() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.HOST,
        "port": KUBELET_PORT,
        "healthzPort": 0,
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # a virtual machine may not let even root set sysctls or lower oom_score_adj
        "featureGates": {"KubeletInUserNamespace": True},
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "memory.available": "100Mi",
        },
        # there is no registry to pull a collected image from again
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
    }


def _proxy_flags(kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NAME}",
        f"--cluster-cidr={network.POD_RANGE}",
        "--proxy-mode=nftables",
        "--metrics-bind-address=",
        "--healthz-bind-address=",
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
    ]


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", mount], check=True)


def _remove_control_groups() -> None:
    """Removes the empty groups that the kubelet made, under cgroup v1 and v2 alike."""
    tops = {*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")}
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            wait_until(partial(_removed, Path(folder)), f"{folder} to be empty", seconds=60)


def _removed(folder: Path) -> bool:
    """Removes a control group, unless the kernel is not done yet with a process of it."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EBUSY):
            raise
        return error.errno == errno.ENOENT
    return True
