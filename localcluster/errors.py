"""The one error of the local cluster: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

from securetrain.errors import BadConfiguration


class ClusterError(BadConfiguration):
    """Something on this machine keeps the local cluster from running."""
