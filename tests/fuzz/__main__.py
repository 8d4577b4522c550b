"""`python -m fuzz [--seconds N] [TARGET …]` (`make fuzz FUZZ=policy SECONDS=1200`).

Fuzzes the targets one after the other, each from the corpus in the repository and from what
earlier runs on this machine found. A crash is written to build/fuzz, and the exit code is 1: copy
the file into the target's corpus, where it is a test from then on, and mend the parser.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz import target

BUILD = target.FOLDER.parents[1] / "build" / "fuzz"
STATUS = re.compile(r"^#\d+\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
UNIT_SECONDS = 20
RSS_MIB = 3072


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a target came to."""

    name: str
    seconds: float
    executions: int
    before: int
    after: int
    """Branches and counts of them that inputs reached: at the start and at the end."""
    crashes: tuple[Path, ...]
    exit_code: int

    def __str__(self) -> str:
        found = f"{len(self.crashes)} crashes" if self.crashes else "no crash"
        failed = "" if not self.exit_code or self.crashes else f", ended with {self.exit_code}"
        return (
            f"{self.name:<10} {self.seconds:6.0f} s {self.executions:>10} executions"
            f"  features {self.before} → {self.after}  {found}{failed}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen targets; 1 if any crashed."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all by default: " + ", ".join(target.names()))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(target.names()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    outcomes = []
    for name in options.targets or target.names():
        outcomes.append(run(name, options.seconds))
        print(outcomes[-1], flush=True)
    for crash in (crash for outcome in outcomes for crash in outcome.crashes):
        print(f"  {crash} (the log beside it says why)")
    return int(any(outcome.exit_code for outcome in outcomes))


def run(name: str, seconds: int, *, build: Path = BUILD) -> Outcome:
    """Fuzz one target; its log and crashes lie in a folder of its own below `build`."""
    folder = build / name
    found = folder / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    flags = (
        f"-max_total_time={seconds}",
        f"-timeout={UNIT_SECONDS}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    )
    seeds = [path for path in (target.CORPUS / name,) if path.is_dir()]
    command = [sys.executable, "-m", "fuzz.engine", name, *flags, found, *seeds]
    began, earlier = time.monotonic(), set(_crashes(folder))
    with log.open("w") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
    text = log.read_text(errors="replace")
    features = [int(match[2]) for match in STATUS.findall(text)] or [0]
    return Outcome(
        name=name,
        seconds=time.monotonic() - began,
        executions=sum(int(number) for number in EXECUTIONS.findall(text)),
        before=features[0],
        after=features[-1],
        crashes=tuple(sorted(set(_crashes(folder)) - earlier)),
        exit_code=code,
    )


def _crashes(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.name != "log"]


if __name__ == "__main__":
    sys.exit(main())
