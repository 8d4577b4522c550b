"""Takes the guards out one by one and demands that a test goes red each time.

`python -m mutation [topic …]`, with `tests` on the path (`make mutants`). Every `<topic>.toml`
beside this file lists mutations: which guard, in which file, what text takes it out, and which
tests must notice. Each runs in a private copy of the tracked files; nothing here is touched. All
named tests must first pass on an unchanged copy, for a test that is red anyway notices nothing.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutation.catalogue import Mutation, load
from mutation.trial import Copy, Outcome, Verdict, write_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "mutation" / "results.json"
WORKERS = max(1, (os.cpu_count() or 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen topics; 1 if any guard could go unnoticed."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("topics", nargs="*", help="names of the TOML files; all by default")
    parser.add_argument("--guard", default="", help="only guards whose words contain this")
    options = parser.parse_args(arguments)
    chosen = [m for m in load(options.topics) if options.guard.lower() in m.guard.lower()]
    outcomes = _run(chosen)
    write_results(RESULTS, outcomes)
    unnoticed = [outcome for outcome in outcomes if outcome.verdict is not Verdict.RED]
    print(f"{len(outcomes) - len(unnoticed)} of {len(outcomes)} removals turned a test red")
    for outcome in unnoticed:
        print(f"  {outcome.verdict}: {outcome.mutation.label}\n{outcome.output}")
    return 1 if unnoticed or not outcomes else 0


def _run(mutations: Sequence[Mutation]) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="mutation.") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(WORKERS):
            copies.put(Copy.of(ROOT, Path(folder) / str(number)))
        lock = threading.Lock()

        def attempt(mutation: Mutation) -> Outcome:
            copy = copies.get()
            try:
                outcome = copy.attempt(mutation)
            finally:
                copies.put(copy)
            with lock:
                print(
                    f"{outcome.verdict:<9} {outcome.seconds:4.0f} s  {mutation.label}", flush=True
                )
            return outcome

        copy = copies.get()
        copy.require_green({test for mutation in mutations for test in mutation.tests})
        copies.put(copy)
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(attempt, mutations))


if __name__ == "__main__":
    sys.exit(main())
