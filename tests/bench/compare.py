"""Two ways of doing the same work, timed against each other in turns.

The time of either depends on the machine and on who else uses it; the ratio of two that ran right
after each other depends on both far less. So every figure is a ratio, the median over rounds, and
the order within a round alternates so that neither side always runs on a warmer machine.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Contest:
    """Our way and another way to do the same work."""

    name: str
    ours: Work
    reference: Work
    described: str
    """What the two sides are, for the reader of a table."""
    amount: float
    """Work of one run, in `unit`."""
    unit: str
    target: float | None = None
    """Least median ratio that is good enough; None for what is only shown."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds that both sides took, one right after the other."""

    ours: float
    reference: float

    @property
    def ratio(self) -> float:
        """Our speed in multiples of the reference's; above 1 we are faster."""
        return self.reference / self.ours


@dataclass(frozen=True, slots=True)
class Figure:
    """What a contest came to."""

    contest: Contest
    rounds: tuple[Round, ...]

    @property
    def median(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(each.ratio for each in self.rounds)

    @property
    def passed(self) -> bool:
        """True unless the median misses its target."""
        return self.contest.target is None or self.median >= self.contest.target

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest ratio of a round."""
        ratios = [each.ratio for each in self.rounds]
        return min(ratios), max(ratios)

    @property
    def speeds(self) -> tuple[float, float]:
        """Median speeds of ours and of the reference, in the contest's unit per second."""
        ours = statistics.median(each.ours for each in self.rounds)
        reference = statistics.median(each.reference for each in self.rounds)
        return self.contest.amount / ours, self.contest.amount / reference


def run(contest: Contest, rounds: int, clock: Callable[[], float] = time.perf_counter) -> Figure:
    """Run both sides once unmeasured, then `rounds` times in turns."""
    contest.ours()
    contest.reference()
    return Figure(contest, tuple(_round(contest, number, clock) for number in range(rounds)))


def _round(contest: Contest, number: int, clock: Callable[[], float]) -> Round:
    if number % 2 == 0:
        ours = _seconds(contest.ours, clock)
        return Round(ours, _seconds(contest.reference, clock))
    reference = _seconds(contest.reference, clock)
    return Round(_seconds(contest.ours, clock), reference)


def _seconds(work: Work, clock: Callable[[], float]) -> float:
    gc.collect()  # the garbage of the side before is not this side's to pay for
    start = clock()
    work()
    return clock() - start
