"""The work queue in virtual time: coalescing, one worker per key, back-off, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from securetrain.errors import VaultDenied, VaultSealed
from securetrain_operator.logs import describe
from securetrain_operator.workqueue import WorkQueue


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.virtual = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        real_select = selector.select

        def select(timeout: float | None) -> Any:
            if timeout is None:
                raise RuntimeError("nothing would ever happen again")
            self.virtual += timeout
            return real_select(0)

        selector.select = select

    def time(self) -> float:
        return self.virtual


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)


async def run_for(queue: WorkQueue, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.run()


def queue_of(
    reconcile: Callable[[str], Awaitable[float | None]], workers: int = 4, **options: Any
) -> WorkQueue:
    return WorkQueue(reconcile, workers=workers, jitter=lambda: 1.0, **options)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_that_waits_is_one_entry() -> None:
    seen: list[str] = []

    async def reconcile(uid: str) -> None:
        seen.append(uid)

    async def story() -> None:
        queue = queue_of(reconcile)
        for uid in ("a", "b", "a", "a", "b"):
            queue.enqueue(uid)
        await run_for(queue, 5)
        assert sorted(seen) == ["a", "b"]
        assert queue.oldest_age() == 0.0

    in_virtual_time(story())


def test_a_key_enqueued_while_it_runs_is_looked_at_once_more_and_never_twice_at_a_time() -> None:
    running: set[str] = set()
    starts: list[tuple[str, float]] = []

    async def story() -> None:
        async def reconcile(uid: str) -> None:
            assert uid not in running
            running.add(uid)
            starts.append((uid, now()))
            if len(starts) == 1:
                for _ in range(5):
                    queue.enqueue(uid)
            await asyncio.sleep(2)
            running.discard(uid)

        queue = queue_of(reconcile)
        queue.enqueue("a")
        await run_for(queue, 30)
        assert starts == [("a", 0.0), ("a", 2.0)]

    in_virtual_time(story())


def test_workers_run_different_keys_side_by_side() -> None:
    async def story() -> None:
        ended: list[float] = []

        async def reconcile(_: str) -> None:
            await asyncio.sleep(3)
            ended.append(now())

        queue = queue_of(reconcile, workers=2)
        for uid in "abcd":
            queue.enqueue(uid)
        await run_for(queue, 30)
        assert ended == [3.0, 3.0, 6.0, 6.0]

    in_virtual_time(story())


def test_the_answer_says_when_to_look_again_and_an_event_comes_first() -> None:
    async def story() -> None:
        looks: list[float] = []

        async def reconcile(_: str) -> float | None:
            looks.append(now())
            return 10.0 if len(looks) < 3 else None

        queue = queue_of(reconcile)
        queue.enqueue("a")
        asyncio.get_running_loop().call_later(4, queue.enqueue, "a")
        await run_for(queue, 100)
        assert looks == [0.0, 4.0, 14.0]

    in_virtual_time(story())


@pytest.mark.parametrize("error", [VaultSealed("sealed"), KeyError("unforeseen")])
def test_failures_back_off_up_to_a_minute_and_success_forgets_them(error: Exception) -> None:
    async def story() -> None:
        looks: list[float] = []

        async def reconcile(_: str) -> None:
            looks.append(now())
            if len(looks) != 9:
                raise error

        queue = queue_of(reconcile)
        queue.enqueue("a")
        await run_for(queue, 300)
        gaps = [b - a for a, b in itertools.pairwise(looks)]
        assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]
        queue.enqueue("a")
        await run_for(queue, 2.5)
        assert looks[10] - looks[9] == 1

    in_virtual_time(story())


def test_the_jitter_spreads_retries_over_half_the_delay() -> None:
    async def story() -> None:
        looks: list[float] = []

        async def reconcile(_: str) -> None:
            looks.append(now())
            raise VaultSealed("sealed")

        queue = WorkQueue(reconcile, workers=1, jitter=lambda: 0.0)
        queue.enqueue("a")
        await run_for(queue, 4)
        assert looks == [0.0, 0.5, 1.5, 3.5]

    in_virtual_time(story())


def test_what_will_fail_again_waits_for_the_next_event() -> None:
    async def story() -> None:
        looks: list[float] = []

        async def reconcile(_: str) -> None:
            looks.append(now())
            raise VaultDenied("no")

        queue = queue_of(reconcile)
        queue.enqueue("a")
        await run_for(queue, 1000)
        assert looks == [0.0]

    in_virtual_time(story())


def test_a_reconcile_that_hangs_is_cut_off_and_tried_again() -> None:
    async def story() -> None:
        looks: list[float] = []

        async def reconcile(_: str) -> None:
            looks.append(now())
            await asyncio.Event().wait()

        queue = queue_of(reconcile, deadline=50.0)
        queue.enqueue("a")
        asyncio.get_running_loop().call_later(30, lambda: ages.append(queue.oldest_age()))
        ages: list[float] = []
        await run_for(queue, 60)
        assert looks == [0.0, 51.0]
        assert ages == [30.0]

    in_virtual_time(story())


def test_the_log_names_place_and_type_of_an_unforeseen_error_but_no_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        async def reconcile(_: str) -> None:
            raise RuntimeError("hvs.a-token-that-must-not-be-logged")

        queue = queue_of(reconcile)
        queue.enqueue("a")
        await run_for(queue, 0.5)

    with caplog.at_level(logging.DEBUG, logger="securetrain_operator"):
        in_virtual_time(story())
    assert "RuntimeError at test_workqueue.py" in caplog.text
    assert "hvs." not in caplog.text


def test_stopping_cancels_what_runs_and_what_was_to_run() -> None:
    async def story() -> None:
        cancelled: list[str] = []

        async def reconcile(uid: str) -> float | None:
            if uid == "later":
                return 5.0
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(uid)
                raise
            return None

        queue = queue_of(reconcile)
        queue.enqueue("running")
        queue.enqueue("later")
        await run_for(queue, 1)
        assert cancelled == ["running"]
        await asyncio.sleep(10)
        assert queue.oldest_age() == 0.0

    in_virtual_time(story())


def test_describe_needs_no_traceback() -> None:
    assert describe(ValueError("x")) == "ValueError"
