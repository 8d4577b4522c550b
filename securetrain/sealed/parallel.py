"""Work on all cores, results in order, and never more of it under way than fits into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MEMORY: Final = 256 << 20
"""Most bytes of records that are under way."""
COPIES: Final = 4
"""Copies of a record at the worst moment: read, encoded, framed, and joined."""
MAX_WORKERS: Final = 32


def workers_for(largest: int) -> int:
    """Threads that may each hold a record of `largest` bytes."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, MAX_WORKERS, MEMORY // (COPIES * max(1, largest))))


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` of each item by several threads, in the items' order; the first failure is raised.

    At most two items a thread are under way or wait for the reader. A reader that stops early, or a
    failure, waits for what is under way and starts nothing more.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="seal") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
