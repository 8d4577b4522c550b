"""Commands in the user's pages, so that tests can run what people are told to type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of shell commands."""

    page: str
    number: int
    script: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(*pages: str) -> list[Block]:
    """All shell blocks of pages, in order."""
    return [
        Block(Path(page).stem, number, script)
        for page in pages
        for number, script in enumerate(BLOCK.findall((ROOT / page).read_text()), start=1)
    ]
