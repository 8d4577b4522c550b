"""containerd with all its state in one folder, apart from any other containerd of the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from localcluster import network
from localcluster.errors import ClusterError
from localcluster.packages import SEARCH_PATH
from localcluster.process import Process, wait_until

PAUSE = "localhost/pause:1"


class Containerd:
    """The container runtime of one state folder."""

    def __init__(self, state: Path) -> None:
        self._state = state.absolute()
        self._home = self._state / "containerd"
        self.process = Process("containerd", self._state)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._home / "containerd.sock"

    def start(self) -> None:
        """Starts it and waits until it answers; containers that ran before are found again."""
        self._home.mkdir(parents=True, exist_ok=True)
        network.write_cni(self._state / "cni", self._state / "cni-addresses")
        config = self._home / "config.toml"
        config.write_text(self._config())
        self.process.start(["containerd", "-c", config], env={"PATH": SEARCH_PATH})
        wait_until(
            lambda: self._ctr("version").returncode == 0, "containerd", processes=[self.process]
        )

    def stop(self) -> None:
        """Ends every container, then containerd; the images stay on disk."""
        if not self._home.exists():
            return
        self.start()
        namespaces = self._network_namespaces()
        for task in self._names("tasks"):
            self._ctr("tasks", "kill", "--all", "--signal", "KILL", task)
        wait_until(lambda: not self._still_running(), "the containers to end")
        for container in self._names("containers"):
            self._ctr("tasks", "rm", "--force", container)
            self.ctr("containers", "rm", container)
            network.forget(container)
        for path in namespaces:
            network.remove_namespace(path)
        self.process.stop()

    def ctr(self, *arguments: str) -> str:
        """Output of containerd's own command line tool, in the kubelet's name space.

        Raises:
            ClusterError: it failed.
        """
        result = self._ctr(*arguments)
        if result.returncode:
            raise ClusterError(f"ctr {' '.join(arguments[:3])}: {result.stderr.strip()}")
        return result.stdout

    def images(self) -> dict[str, str]:
        """Digest by name of every image."""
        rows = (line.split() for line in self.ctr("images", "ls").splitlines()[1:])
        return {row[0]: row[2] for row in rows if len(row) > 2}

    def _names(self, kind: str) -> list[str]:
        result = self._ctr(kind, "ls", "-q")
        return result.stdout.split() if result.returncode == 0 else []

    def _still_running(self) -> bool:
        return any("RUNNING" in line for line in self.ctr("tasks", "ls").splitlines())

    def _network_namespaces(self) -> set[str]:
        found = set()
        for name in self._names("containers"):
            spec = json.loads(self.ctr("containers", "info", name))["Spec"]
            spaces = spec["linux"]["namespaces"]
            found |= {
                space["path"] for space in spaces if space["type"] == "network" and "path" in space
            }
        return found

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", "-a", str(self.socket), "-n", "k8s.io", *arguments]
        environment = {"PATH": SEARCH_PATH}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)

    def _config(self) -> str:
        return f"""\
version = 2
root = "{self._home / "root"}"
state = "{self._home / "state"}"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # without it, a machine that may not lower oom_score_adj could start no pod
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self._state / "cni"}"
"""
