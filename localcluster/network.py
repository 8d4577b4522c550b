"""The node's own address for pods, and what its packet filter and name spaces need.

Pods hang on point-to-point links and everything is routed, so that a service's answer takes the
way back through the connection tracker even between two pods of this node, and a server sees a
pod's own address. The bridge has no ports: it only holds the address that pods reach the host by.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.packages import SEARCH_PATH

HOST = "10.244.0.1"
"""The node's address, on which everything that pods may reach listens."""

POD_RANGE = "10.244.0.0/24"
_LINK = "securetrain0"
_NETWORK = "securetrain-local"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_NAMESPACES = Path("/run/netns")


def up() -> None:
    """Gives this machine the address and lets it forward; harmless when that is so already."""
    if _run("ip", "link", "show", _LINK).returncode:
        _must("ip", "link", "add", _LINK, "type", "bridge")
    _must("ip", "addr", "replace", f"{HOST}/32", "dev", _LINK)
    _must("ip", "link", "set", _LINK, "up")
    if _FORWARD.read_text().strip() != "1":
        _FORWARD.write_text("1")


def down() -> None:
    """Takes the address away, and kube-proxy's tables with it."""
    if _run("ip", "link", "show", _LINK).returncode == 0:
        _must("ip", "link", "del", _LINK)
    for family in ("ip", "ip6"):
        _run("nft", "delete", "table", family, "kube-proxy")


def forget(container: str) -> None:
    """Removes what the CNI library wrote down about a container that is gone."""
    for note in Path("/var/lib/cni/results").glob(f"*-{container}-*"):
        note.unlink(missing_ok=True)


def remove_namespace(path: str) -> None:
    """Removes a pod's network name space, and with it both ends of the pod's link."""
    file = Path(path)
    if file.parent.resolve() == _NAMESPACES.resolve() and file.name.startswith("cni-"):
        _run("ip", "netns", "delete", file.name)


def write_cni(folder: Path, addresses: Path) -> None:
    """Writes the CNI configuration that containerd reads.

    Args:
        folder: gets the configuration.
        addresses: where the address manager keeps which addresses are in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [[{"subnet": POD_RANGE, "rangeStart": "10.244.0.10", "gateway": HOST}]]
    ipam = {
        "type": "host-local",
        "dataDir": str(addresses),
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "ptp", "ipMasq": False, "ipam": ipam}
    network = {"cniVersion": "0.4.0", "name": _NETWORK, "plugins": [plugin]}
    (folder / "10-local.conflist").write_text(json.dumps(network, indent=1))


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": SEARCH_PATH}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def _must(*argv: str) -> None:
    result = _run(*argv)
    if result.returncode:
        raise ClusterError(f"`{' '.join(argv)}`: {result.stderr.strip()}")
