"""`make bench`: what encryption costs, as ratios that were taken in one run."""

from __future__ import annotations

import argparse
import json
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
RESULTS: Final = Path("build/bench/results.json")
PICTURE: Final = Path("docs/images/benchmarks.svg")


def main() -> int:
    """Run all contests, or draw those that were run; 1 if a median misses its target."""
    options = argparse.ArgumentParser(prog="bench", description=__doc__)
    options.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds only")
    options.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    options.add_argument(
        "--plot", action="store_true", help=f"run nothing, draw the results as {PICTURE}"
    )
    chosen = options.parse_args()
    if chosen.plot:
        from bench import plot

        plot.draw(json.loads(chosen.output.read_text()), PICTURE)
        return 0
    return _run(QUICK_ROUNDS if chosen.quick else ROUNDS, chosen.output)


def _run(rounds: int, output: Path) -> int:
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
    results.write(output, results.document(figures, about))
    print(results.table(figures))
    print(f"Ratios are ours / reference: above 1 ours is faster. All rounds: {output}")
    missed = [figure.contest.name for figure in figures if not figure.passed]
    if missed:
        print(f"below their targets: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _contests() -> Iterator[tuple[compare.Contest, int]]:
    """The contests, and how many times the rounds each has."""
    for contest in encryption.contests(ENCRYPTED_BYTES):
        yield contest, 5  # a round takes a tenth of a second, which anything can disturb
    prepare_tensorflow()
    from bench import training  # after TensorFlow's settings, as in the training pod

    with tempfile.TemporaryDirectory(prefix="securetrain-bench-") as folder:
        yield from training.contests(Path(folder), training.Sizes())


if __name__ == "__main__":
    sys.exit(main())
