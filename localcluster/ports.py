"""Loopback ports: free ones for tests, and a clear word when a wanted one is taken.

Free ones lie below the range that the kernel gives to clients (32768 and up on Linux) and that of
NodePorts (30000 and up): a port of those may be taken between the choice and its use.
"""

from __future__ import annotations

import errno
import json
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from localcluster.errors import ClusterError

LOWEST, HIGHEST = 12000, 29999


def free_ports(count: int) -> list[int]:
    """That many different free TCP ports, chosen by chance."""
    found: set[int] = set()
    while len(found) < count:
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
        if _free("0.0.0.0", port):  # noqa: S104 - asks for every address and listens on none
            found.add(port)
    return list(found)


def remembered(file: Path, names: Iterable[str]) -> dict[str, int]:
    """Free ports by name, written to a file so that a restart uses the same ones again."""
    if file.exists():
        return {str(name): int(port) for name, port in json.loads(file.read_text()).items()}
    wanted = list(names)
    ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ports))
    return ports


def require_free(addresses: Iterable[tuple[str, int]]) -> None:
    """Checks that nothing listens on these addresses.

    Raises:
        ClusterError: names every address that is taken.
    """
    taken = [f"{host}:{port}" for host, port in addresses if not _free(host, port)]
    if taken:
        raise ClusterError(
            f"another process listens on {', '.join(taken)}",
            fix="stop it (`ss -ltnp` names it), then run the command again.",
        )


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
