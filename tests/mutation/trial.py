"""A copy of the tree in which a guard is taken out and the tests are asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mutation.catalogue import Mutation

TESTS_FAILED = 1
"""pytest's exit status when tests ran and some failed; a test that cannot run is another one."""
SECONDS = 600.0


class Verdict(StrEnum):
    """What the tests said."""

    RED = "red"
    GREEN = "GREEN"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one mutation."""

    mutation: Mutation
    verdict: Verdict
    seconds: float
    output: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A private copy of the tracked files."""

    folder: Path

    @classmethod
    def of(cls, root: Path, folder: Path) -> Copy:
        """Copies what git tracks, as it is in the working tree."""
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        return cls(folder)

    def require_green(self, tests: Iterable[str]) -> None:
        """Stops the run unless all tests pass on the unchanged copy."""
        result = self._pytest(sorted(tests))
        if result.returncode:
            raise SystemExit(f"these tests must pass before a guard goes:\n{_tail(result)}")

    def attempt(self, mutation: Mutation) -> Outcome:
        """Take the guard out, ask the tests, put it back."""
        path = self.folder / mutation.file
        original = path.read_text()
        started = time.monotonic()
        path.write_text(mutation.applied(original))
        try:
            result = self._pytest([*mutation.tests, "--exitfirst"])
        finally:
            path.write_text(original)
        verdict = {0: Verdict.GREEN, TESTS_FAILED: Verdict.RED}.get(
            result.returncode, Verdict.NOT_RUN
        )
        output = "" if verdict is Verdict.RED else _tail(result)
        return Outcome(mutation, verdict, time.monotonic() - started, output)

    def _pytest(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Byte code is not kept: a file that changes twice a second would look unchanged."""
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        flags = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *flags, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def write_results(path: Path, outcomes: Sequence[Outcome]) -> None:
    """What was seen, for the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "topic": outcome.mutation.topic,
            "guard": outcome.mutation.guard,
            "file": outcome.mutation.file,
            "verdict": outcome.verdict,
            "seconds": round(outcome.seconds, 1),
        }
        for outcome in outcomes
    ]
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def _tail(result: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((result.stdout + result.stderr).splitlines()[-30:])
