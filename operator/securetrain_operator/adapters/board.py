"""What the gateway knows of grants beyond the launch record; memory is enough, and all it may be.

Wrapping tokens must never be written anywhere, so they are kept here for their short life, to be
burnt if the pod that they were for gives up. Nothing here decides who gets keys.
"""

from __future__ import annotations

from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.ports import HeldTokens


class MemoryBoard:
    """ports.GrantBoard in memory."""

    def __init__(self) -> None:
        self._held: dict[str, HeldTokens] = {}
        self._waiting: dict[str, tuple[str, Diagnosis]] = {}

    def hold(self, pod_uid: str, tokens: HeldTokens, now: float) -> None:
        """Keep the tokens of a pod's grant until they run out."""
        self._held = {uid: held for uid, held in self._held.items() if held.until > now}
        self._held[pod_uid] = tokens

    def take(self, pod_uid: str) -> HeldTokens | None:
        """The tokens of a pod's grant, once; None if they are not known (any more)."""
        return self._held.pop(pod_uid, None)

    def wait(self, uid: str, pod_uid: str, reason: Diagnosis) -> bool:
        """Note why a job's pod has no keys yet; False if that was known."""
        known = self._waiting.get(uid)
        self._waiting[uid] = (pod_uid, reason)
        return known != (pod_uid, reason)

    def waiting(self, uid: str) -> tuple[str, Diagnosis] | None:
        """UID of the pod that asked last and was put off, and why."""
        return self._waiting.get(uid)

    def forget(self, uid: str) -> None:
        """Drop what a job waits for: its pod has its keys, or the job no longer exists."""
        self._waiting.pop(uid, None)
