"""The results as a file for programs and as a table for people."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import Figure


def document(figures: Sequence[Figure], about: dict[str, Any]) -> dict[str, Any]:
    """The results as JSON: what they are about, then each figure with all of its rounds."""
    return {**about, "figures": [_entry(figure) for figure in figures]}


def _entry(figure: Figure) -> dict[str, Any]:
    contest, (least, greatest) = figure.contest, figure.spread
    return {
        "name": contest.name,
        "described": contest.described,
        "target": contest.target,
        "passed": figure.passed,
        "median": round(figure.median, 4),
        "least": round(least, 4),
        "greatest": round(greatest, 4),
        "amount": contest.amount,
        "unit": contest.unit,
        "rounds": [
            {
                "ratio": round(each.ratio, 4),
                "oursSeconds": round(each.ours, 6),
                "referenceSeconds": round(each.reference, 6),
            }
            for each in figure.rounds
        ],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def table(figures: Sequence[Figure]) -> str:
    """Median ratios, their spread, and the speeds behind them, a line each."""
    lines = [
        f"{'figure':24} {'ratio':>5} {'target':>6}  {'rounds':^13} {'ours':>9} {'reference':>9}"
    ]
    for figure in figures:
        least, greatest = figure.spread
        ours, reference = figure.speeds
        contest = figure.contest
        target = f"{contest.target:6.2f}" if contest.target else 6 * " "
        lines.append(
            f"{contest.name:24} {figure.median:5.2f} {target}  {least:5.2f} … {greatest:5.2f} "
            f"{ours:9,.0f} {reference:9,.0f} {contest.unit}/s: {contest.described}"
            + ("" if figure.passed else "  MISSED")
        )
    return "\n".join(lines)
