"""What `course bench cg-p` recorded: gap against time, and what fewer arcs cost with three ways to score them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from course_lib.plots.style import INK, LINES, MARKERS, PALETTE

__all__ = ["recorded_crews"]

SMALL = 8.5  #: points; the smallest type in these figures
PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none"}
#: Of the first panel; plain column generation is 100 % by definition.
CONTENDERS = ("optimal", "optimal, all arcs", "fast, network", "fast, short gaps", "fast, chance")
GROUPS = ("500 trips", "500 short trips", "1000 trips")
SCORERS = ("network", "short gaps", "chance")
SHARES = (2, 4, 8, 15, 30, 100)  #: asked for, %
PARTS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)
GAPS = (0, 0.5, 1, 2, 5, 10, 20, 50)
TICKS = (5, 7, 10, 15, 20, 30, 50, 100)


def recorded_crews(record: Mapping[str, Any] | None) -> Figure:
    """Left: the median gap of each contender against its time. Right: the gap over the share of arcs kept, 500 trips.

    The share is the one that was really kept (the median over the instances), since every trip keeps some arcs anyway.

    Args:
        record: of the bench (`bench.latest("cg-p")`); None, or without some rows, where these are not recorded yet.
    """
    rows = {row["name"]: row for row in record["rows"]} if record else {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.6), width_ratios=[1.15, 1])
    shown = _modes(left, rows)
    left.axvline(100, color=INK, lw=1, ls="--", marker="")
    left.set(xscale="log", xlabel="CPU seconds, % of plain", ylabel="gap of the plan, %", title="modes")
    left.set_xticks(PARTS, [str(part) for part in PARTS])
    left.minorticks_off()
    for k, scorer in enumerate(SCORERS):
        found = [rows.get(f"500 trips, {share} % kept: {scorer}, gap") for share in SHARES]
        line = [(_kept(row), row["median"], row["q25"], row["q75"]) for row in found if row]
        if line:
            x, y, low, high = zip(*line, strict=True)
            right.plot(x, y, color=PALETTE[k], marker=MARKERS[k], ls=LINES[k], label=scorer)
            right.fill_between(x, low, high, color=PALETTE[k], alpha=0.15, lw=0)
    right.set(xscale="log", xlabel="arcs kept, %", ylabel="gap of the plan, %", title="fast mode, 500 trips")
    right.set_xticks(TICKS, [str(share) for share in TICKS])
    right.minorticks_off()
    for ax, handles in ((left, shown), (right, right.get_legend_handles_labels()[0])):
        if handles:
            ax.set_yscale("symlog", linthresh=1)  # chance is off by tens of percent, and most others by less than one
            ax.set_yticks(GAPS, [str(gap) for gap in GAPS])
            ax.set_ylim(0, max(ax.get_ylim()[1], 5))
            ax.minorticks_off()
            ax.legend(handles=handles, fontsize=SMALL, frameon=True, edgecolor="none", framealpha=0.9)
        else:
            ax.text(0.5, 0.5, "nothing recorded yet", transform=ax.transAxes, ha="center", va="center", bbox=PAPER)
    return figure


def _kept(row: Mapping[str, Any]) -> float:
    """The share of the arcs that was really kept, %."""
    return float(np.median(row["details"]["kept"]))


def _modes(ax: Axes, rows: Mapping[str, Any]) -> list[Line2D]:
    """A point for each contender, by letter and colour, and group, by marker; what the legend explains."""
    colors, markers = {}, {}
    for k, group in enumerate(GROUPS):
        for j, name in enumerate(CONTENDERS):
            share, gap = (rows.get(f"{group}: {name}, {what}") for what in ("% of plain", "gap"))
            if share and gap:
                spot = (share["median"], gap["median"])
                ax.plot(*spot, ls="", marker=MARKERS[k], color=PALETTE[j], ms=8, mec=INK, mew=0.5)
                ax.annotate("abcde"[j], spot, (6, 4), textcoords="offset points", fontsize=SMALL)
                colors[f"{'abcde'[j]}  {name}"], markers[group] = PALETTE[j], MARKERS[k]
    lines = [Line2D([], [], color=color, lw=5, ls="-", marker="", label=name) for name, color in colors.items()]
    return lines + [
        Line2D([], [], ls="", marker=marker, color=INK, mfc="white", label=group) for group, marker in markers.items()
    ]
