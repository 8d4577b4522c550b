"""The results as a picture: each figure's median, its rounds and its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

MET, MISSED, SHOWN = "#2a7f62", "#b3261e", "#6b7280"
ROW_INCHES: Final = 0.36


def draw(results: dict[str, Any], path: Path) -> None:
    """Write an SVG of the results; the same bytes for the same results."""
    figures = results["figures"][::-1]
    picture = Figure(figsize=(8, 1.2 + ROW_INCHES * len(figures)), layout="constrained")
    axes = picture.subplots()
    for row, each in enumerate(figures):
        target = each["target"]
        colour = SHOWN if target is None else MET if each["passed"] else MISSED
        axes.barh(row, each["median"], color=colour, height=0.6)
        axes.plot([each["least"], each["greatest"]], [row, row], color="black", linewidth=0.8)
        if target is not None:
            axes.plot([target, target], [row - 0.42, row + 0.42], color="black", linewidth=2)
        axes.annotate(f"{each['median']:.2f}", (0.02, row), va="center", color="white", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(figures)), [each["name"] for each in figures], fontsize=8)
    axes.set_xlabel("speed in multiples of the reference's: median, range of rounds, target (tick)")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "securetrain", "svg.fonttype": "none"}):
        picture.savefig(path, format="svg", metadata={"Date": None})
