"""The tables of docs/reference.md."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = REFERENCE.read_text().split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
