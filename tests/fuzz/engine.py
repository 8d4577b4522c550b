"""One target under atheris, in a process of its own: `python -m fuzz.engine NAME [FLAG …]`.

Whatever is neither a sound value nor a refusal ends it, and so do more than `MEMORY` bytes beyond
what is mapped at the start; libFuzzer, whose flags these are, writes the input down.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from random import Random

import atheris

LEADING = ("securetrain", "securetrain_trainer", "yaml", "zipfile", "numpy.lib._format_impl")
"""Packages whose branches lead the way."""
MEMORY = 512 << 20


def main(name: str, *flags: str) -> None:
    """Fuzz until libFuzzer's flags say that it is enough."""
    with atheris.instrument_imports(include=list(LEADING)):
        from fuzz import structured, target

        chosen = target.load(name)
        chosen.check(b"")  # loads what is loaded late

    def alter(data: bytes, limit: int, seed: int) -> bytes:
        return structured.alter(data, limit, Random(seed), atheris.Mutate)

    limit_memory()
    command = [sys.argv[0], f"-max_len={chosen.max_len}", *flags]
    more = {"custom_mutator": alter} if chosen.json else {}
    atheris.Setup(command, chosen.check, **more)
    atheris.Fuzz()


def limit_memory() -> None:
    """No more address space than `MEMORY` beyond what is mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))


if __name__ == "__main__":
    main(*sys.argv[1:])
