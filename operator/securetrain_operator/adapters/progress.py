"""The latest progress of running jobs: it decides nothing, so memory is enough."""

from __future__ import annotations

from securetrain.api.gateway import ProgressReport


class MemoryProgress:
    """ports.ProgressBoard in memory; after a restart the pods' next reports fill it again."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[str, ProgressReport, str]] = {}

    def put(self, uid: str, pod_uid: str, report: ProgressReport, time: str) -> bool:
        """Take a report; False if the same pod has sent this sequence number or a later one."""
        known = self._latest.get(uid)
        if known and known[0] == pod_uid and report.sequence <= known[1].sequence:
            return False
        self._latest[uid] = (pod_uid, report, time)
        return True

    def latest(self, uid: str) -> tuple[ProgressReport, str] | None:
        """The last report of a job and its time."""
        known = self._latest.get(uid)
        return (known[1], known[2]) if known else None

    def forget(self, uid: str) -> None:
        """Drop what is known of a job that no longer exists."""
        self._latest.pop(uid, None)
