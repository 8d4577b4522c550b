"""`make bench`: what encryption costs, as ratios that were taken in one run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import compare, encryption, machine, results
from securetrain_trainer.runtime import prepare_tensorflow

ROUNDS: Final = 7
QUICK_ROUNDS: Final = 3
ENCRYPTED_BYTES: Final = 64 << 20
READ_RECORDS: Final = 40_000
TRAINED_RECORDS: Final = 5_000
RESULTS: Final = Path("build/bench/results.json")


def main() -> None:
    """Run all contests, write the results, print the table."""
    options = argparse.ArgumentParser(prog="bench", description=__doc__)
    options.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds only")
    options.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    chosen = options.parse_args()
    rounds = QUICK_ROUNDS if chosen.quick else ROUNDS
    about = {
        "format": "securetrain/bench/v1",
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rounds": rounds,
        "code": machine.commit(),
        "machine": machine.facts(),
    }
    figures = []
    for contest, times in _contests():
        figures.append(compare.run(contest, times * rounds))
        print(f"{contest.name}: {figures[-1].median:.2f}", file=sys.stderr, flush=True)
    about["loadAfter"] = machine.load()
    results.write(chosen.output, results.document(figures, about))
    print(results.table(figures))
    print(f"Ratios are ours / reference: above 1 ours is faster. All rounds: {chosen.output}")


def _contests() -> Iterator[tuple[compare.Contest, int]]:
    """The contests, and how many times the rounds each has."""
    for contest in encryption.contests(ENCRYPTED_BYTES):
        yield contest, 5  # a round takes a tenth of a second, which anything can disturb
    prepare_tensorflow()
    from bench import training  # after TensorFlow's settings, as in the training pod

    with tempfile.TemporaryDirectory(prefix="securetrain-bench-") as folder:
        for contest in training.contests(Path(folder), READ_RECORDS, TRAINED_RECORDS):
            yield contest, 1


if __name__ == "__main__":
    main()
