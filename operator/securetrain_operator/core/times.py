"""Kubernetes' timestamps (RFC 3339, UTC, whole seconds) as seconds since the epoch, and back."""

from __future__ import annotations

from datetime import UTC, datetime


def epoch(text: str) -> float:
    """Seconds since the epoch; raises ValueError if `text` is not RFC 3339."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
