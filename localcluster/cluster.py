"""The one-node cluster with its OpenBao: up, down, status.

`up` starts what is not running, so it is harmless twice and mends what a crash left. `down` keeps
data and images in the state folder; remove the folder for a fresh start.
"""

from __future__ import annotations

from pathlib import Path

from localcluster import binaries, cache, network, packages, ports
from localcluster.control_plane import ControlPlane, controller_flags
from localcluster.dns import Dns
from localcluster.kubectl import Kubectl
from localcluster.node import KUBELET_PORT, Node
from localcluster.openbao import OpenBao
from localcluster.process import Process, wait_until
from localcluster.progress import Progress

STATE = Path(__file__).resolve().parent.parent / "build" / "cluster"
_API_PORT = 6443
_OPENBAO_PORT = 8200
_PATIENT = ("--node-monitor-grace-period=10m",)
"""There is no other node: one that is busy, or has no kubelet for a while, keeps its pods ready."""


class Cluster:
    """All parts of the cluster of one state folder.

    Args:
        state: the folder with all that it writes; one cluster per machine can be up.
    """

    def __init__(self, state: Path = STATE) -> None:
        self.state = state.absolute()
        programs = binaries.folder()
        self._scheduler_program = programs / "kube-scheduler"
        self.control_plane = ControlPlane(
            self.state,
            port=_API_PORT,
            advertise=network.HOST,
            audit="RequestResponse",
            controller_flags=_PATIENT,
        )
        self.openbao = OpenBao(
            self.state / "openbao", port=_OPENBAO_PORT, listen=("127.0.0.1", network.HOST)
        )
        self.node = Node(self.control_plane, programs)
        self._scheduler = Process("scheduler", self.state)
        self._dns = Dns(self.control_plane, programs)

    @property
    def kubectl(self) -> Kubectl:
        """`kubectl` as the cluster's administrator."""
        return self.control_plane.kubectl

    @property
    def helm(self) -> Path:
        """The Helm program."""
        return binaries.ensure() / "helm"

    @property
    def openbao_address_for_pods(self) -> str:
        """OpenBao's URL from inside pods."""
        return f"https://{network.HOST}:{_OPENBAO_PORT}"

    @property
    def processes(self) -> tuple[Process, ...]:
        """Every process of the cluster."""
        return (
            *self.control_plane.processes,
            self._scheduler,
            *self.node.processes,
            self._dns.process,
            self.openbao.process,
        )

    def up(self, *, quiet: bool = False) -> None:
        """Brings everything up and waits until pods can run.

        Raises:
            ClusterError: something is missing or taken on this machine, or does not come up.
        """
        packages.ensure()
        programs = binaries.ensure()
        with cache.lock(self.state / ".lock"):
            self._start(Progress(5, quiet=quiet), programs)

    def down(self, *, quiet: bool = False) -> None:
        """Stops everything and leaves no process, container, mount or network link."""
        with cache.lock(self.state / ".lock"):
            progress = Progress(2, quiet=quiet)
            with progress.step("stopping the node's pods and containers"):
                self._dns.process.stop()
                self._scheduler.stop()
                self.node.stop()
            with progress.step("stopping the control plane and OpenBao"):
                self.control_plane.stop()
                self.openbao.stop()
                network.down()
            progress.finish("the local cluster is down")

    def _start(self, progress: Progress, programs: Path) -> None:
        network.up()
        self._require_ports()
        with progress.step("OpenBao"):
            self.openbao.start()
        with progress.step("control plane"):
            self.control_plane.start()
            flags = controller_flags(self.control_plane.kubeconfig)
            self._scheduler.start([programs / "kube-scheduler", *flags])
        with progress.step("node"):
            self.node.start()
        with progress.step("DNS"):
            self._dns.start()
        with progress.step("waiting for the node"):
            wait_until(self.node.ready, "the node", processes=self.processes)
        progress.finish("the local cluster is up")

    def _require_ports(self) -> None:
        """One message for all ports that strangers hold, before anything is started."""
        wanted = {
            self.openbao.process: [("127.0.0.1", _OPENBAO_PORT), (network.HOST, _OPENBAO_PORT)],
            self.control_plane.processes[1]: [(network.HOST, _API_PORT)],
            self.node.kubelet: [(network.HOST, KUBELET_PORT)],
            self._dns.process: [(network.HOST, 53)],
        }
        addresses = [a for process, list_ in wanted.items() if not process.running for a in list_]
        ports.require_free(addresses)
