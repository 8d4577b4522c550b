"""The real clock, behind the port `Clock` so that tests can set the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """ports.Clock on the system's time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def rfc3339(self) -> str:
        """The same as RFC 3339 text in UTC, whole seconds."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
