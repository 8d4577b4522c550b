"""A rate limit per caller's address, before any call to the API server is spent on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from securetrain_operator.errors import TooManyRequests

MAX_PEERS: Final = 10_000


class PeerLimiter:
    """A token bucket per address; the longest silent address is forgotten first."""

    def __init__(self, now: Callable[[], float], *, per_second: float, burst: int) -> None:
        self._now = now
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str) -> None:
        """Take one token of an address; raises TooManyRequests if none is left."""
        now = self._now()
        level, since = self._buckets.pop(peer, (float(self._burst), now))
        level = min(float(self._burst), level + max(0.0, now - since) * self._per_second)
        allowed = level >= 1
        self._buckets[peer] = (level - 1 if allowed else level, now)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooManyRequests("this address asks too often", fix="wait a second")
