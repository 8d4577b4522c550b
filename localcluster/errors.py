"""The one error of the local cluster: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

from securetrain.errors import BadConfiguration


class ClusterError(BadConfiguration):
    """Something on this machine keeps the local cluster from running."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        # Programs say why they failed in several lines, and an error is one.
        lines = (line.strip() for line in message.splitlines())
        super().__init__(" | ".join(line for line in lines if line), fix=fix)
