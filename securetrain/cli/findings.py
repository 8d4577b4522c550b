"""What `doctor` finds: one line each, with a fix if it is not a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from securetrain.errors import ClusterDenied, SecuretrainError, VaultDenied


class Level(StrEnum):
    """How a finding is shown."""

    OK = "✓"
    WARNING = "!"
    FAULT = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    level: Level
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level} {self.text}" + (f". Fix: {self.fix}" if self.fix else "")


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def warning(text: str, fix: str = "") -> Finding:
    """Could not be looked at, or is a risk."""
    return Finding(Level.WARNING, text, fix)


def fault(text: str, fix: str) -> Finding:
    """Jobs will not run."""
    return Finding(Level.FAULT, text, fix)


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Run every check; one that fails is a finding itself, and the others go on.

    What the caller may not look at is a warning, since others may.
    """
    for name, check in checks:
        try:
            yield from check()
        except (ClusterDenied, VaultDenied) as error:
            yield warning(f"{name}: {error.message}", error.fix)
        except SecuretrainError as error:
            yield fault(f"{name}: {error.message}", error.fix)
