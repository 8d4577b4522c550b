"""The system packages that a node and the image builds need."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from localcluster.errors import ClusterError

_PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "setpriv": "util-linux",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
"""Program (looked up on the PATH and in the sbin folders) to Debian package."""

SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def missing() -> list[str]:
    """Names of the Debian packages whose programs are not there."""
    return sorted({package for program, package in _PROGRAMS.items() if not _there(program)})


def ensure() -> None:
    """Installs what is missing on Debian and Ubuntu, and names it elsewhere.

    Raises:
        ClusterError: not root, or packages are missing that cannot be installed here.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "a node needs root: containerd mounts and the kubelet makes cgroups.",
            fix="run the same command with sudo.",
        )
    wanted = missing()
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"these programs' packages are missing: {', '.join(wanted)} (Debian's names).",
            fix="install them with this system's package manager, then run the command again.",
        )
    _apt(["update"])
    _apt(["install", "--yes", "--no-install-recommends", *wanted])
    still = missing()
    if still:
        raise ClusterError(f"apt-get installed {' '.join(still)}, but the programs are not there.")


def _there(program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=SEARCH_PATH) is not None


def _apt(arguments: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", *arguments]
    result = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
    if result.returncode:
        raise ClusterError(
            f"`apt-get {' '.join(arguments)}` failed with {result.returncode}.",
            fix="run it by hand and see what it says.",
        )
