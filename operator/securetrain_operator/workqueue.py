"""The work queue between watches and reconciler: keyed, coalescing, one worker per key at a time.

A key that is enqueued while it waits is one entry; while it is being reconciled, it is looked at
once more afterwards, so no change is missed. Failures come back with a jittered, growing delay; a
Vault outage of hours costs one look a minute and job. All is in memory: after a restart the watches
fill it again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from securetrain.errors import SecuretrainError
from securetrain_operator.logs import describe

FIRST_DELAY: Final = 1.0
MAX_DELAY: Final = 60.0
LOOK_DEADLINE: Final = 180.0
"""A reconcile that takes longer hangs: it is cancelled and tried again."""

log = logging.getLogger(__name__)

Reconcile = Callable[[str], Awaitable[float | None]]


class WorkQueue:
    """Runs `reconcile(key)` for enqueued keys in `workers` tasks; satisfies ports.Wakeup."""

    def __init__(
        self,
        reconcile: Reconcile,
        *,
        workers: int,
        jitter: Callable[[], float] = random.random,
        deadline: float = LOOK_DEADLINE,
    ) -> None:
        self._reconcile = reconcile
        self._workers = workers
        self._jitter = jitter
        self._deadline = deadline
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._since: dict[str, float] = {}
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}

    def enqueue(self, uid: str) -> None:
        """Reconcile this key soon, and once more if it is being reconciled right now."""
        timer = self._later.pop(uid, None)
        if timer:
            timer.cancel()
        if uid in self._running:
            self._again.add(uid)
        elif uid not in self._since:
            self._since[uid] = asyncio.get_running_loop().time()
            self._ready.put_nowait(uid)

    def enqueue_after(self, uid: str, seconds: float) -> None:
        """Reconcile this key in some seconds, or earlier if something else asks for it."""
        timer = self._later.pop(uid, None)
        if timer:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._later[uid] = loop.call_later(max(0.0, seconds), self.enqueue, uid)

    def oldest_age(self) -> float:
        """Seconds that the oldest waiting or running key has been here; 0 if there is none."""
        if not self._since:
            return 0.0
        return asyncio.get_running_loop().time() - min(self._since.values())

    async def run(self) -> None:
        """Work until cancelled, and what is in progress with it: it may be cut off anywhere."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"worker {number}")
        finally:
            for timer in self._later.values():
                timer.cancel()
            self._later.clear()

    async def _work(self) -> None:
        while True:
            uid = await self._ready.get()
            self._running.add(uid)
            try:
                delay = await self._look(uid)
            finally:
                self._running.discard(uid)
                self._since.pop(uid, None)
            if uid in self._again:
                self._again.discard(uid)
                self.enqueue(uid)
            elif delay is not None:
                self.enqueue_after(uid, delay)

    async def _look(self, uid: str) -> float | None:
        """Reconcile once; returns when to look again, None for the next event or resync."""
        try:
            async with asyncio.timeout(self._deadline):
                delay = await self._reconcile(uid)
        except SecuretrainError as error:
            log.warning("%s", error, extra={"job_uid": uid, "reason": error.reason})
            return self._backoff(uid) if error.retryable else None
        except Exception as error:
            # The text of an unforeseen exception may hold anything; its type and place are enough
            # to find it.
            log.error("reconcile failed: %s", describe(error), extra={"job_uid": uid})
            return self._backoff(uid)
        self._failures.pop(uid, None)
        return delay

    def _backoff(self, uid: str) -> float:
        count = self._failures.get(uid, 0)
        self._failures[uid] = count + 1
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(count, 16))
        return float(delay * (0.5 + self._jitter() / 2))
