"""Figures of the chapter on crews: prices against costs, one turn of column generation, pruning as a dashboard.

Every function returns a `Figure`. Labels that another one dominates, and what a trip is overpaid, are pale or hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.labelling import Flat, dominates, homes, label
from course_lib.beyond.cg_p.plan import Step
from course_lib.beyond.cg_p.timetable import Timetable, clock
from course_lib.plots.crews import plot_bounds, plot_kept_share, plot_space_time
from course_lib.plots.style import INK, LINES, MARKERS, PALE, PALETTE, SKIPPED, SKY, VERMILION

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LabelRow",
    "PruningRun",
    "label_rows",
    "part_of_day",
    "plot_duels",
    "plot_loop",
    "plot_prices",
    "plot_pruning",
]

SMALL = 8.5  #: points; the smallest type in these figures
PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}


# Prices --------------------------------------------------------------------------------------------------------------


def plot_prices(stages: Mapping[str, Sequence[float]], duties: Mapping[str, tuple[Sequence[int], float]]) -> Figure:
    """For each duty the prices of its trips, one on top of the other, against a tag that says what it costs.

    Args:
        stages: the prices (n,) by title, a panel each.
        duties: trips and cost by name. What rises above the tag is hatched: the duty is worth having.
    """
    top = 1.12 * max(sum(prices[i] for i in trips) for prices in stages.values() for trips, _ in duties.values())
    figure, axes = plt.subplots(1, len(stages), figsize=(4.4 * len(stages), 3.6), sharey=True, squeeze=False)
    for ax, (title, prices) in zip(axes[0], stages.items(), strict=True):
        for k, (trips, cost) in enumerate(duties.values()):
            base = 0.0
            for i in trips:
                ax.bar(k, prices[i], bottom=base, width=0.62, color=PALETTE[i], edgecolor="white", alpha=0.75)
                spot = (k, base + prices[i] / 2)
                ax.annotate(f"{prices[i]:g}", spot, ha="center", va="center", fontsize=SMALL, bbox=PAPER)
                base += prices[i]
            if base > cost + 1e-9:
                ax.bar(k, base - cost, bottom=cost, width=0.62, facecolor="none", edgecolor="black", hatch="////", lw=0)
            ax.plot([k - 0.42, k + 0.42], [cost, cost], color="black", lw=2.4, ls="-", marker="")
        ax.set(title=title, ylim=(0, top), xlabel="duty: trips, and cost")
        ax.set_xticks(range(len(duties)), [f"{name}\n{cost:g}" for name, (_, cost) in duties.items()])
        ax.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("prices of its trips")
    count = 1 + max(i for trips, _ in duties.values() for i in trips)
    shown: list[Any] = [Patch(color=PALETTE[i], alpha=0.75, label=f"trip {i + 1}") for i in range(count)]
    shown.append(plt.Line2D([], [], color="black", lw=2.4, ls="-", marker="", label="what the duty costs"))
    shown.append(Patch(facecolor="none", edgecolor="black", hatch="////", lw=0, label="worth more than that"))
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), fontsize=SMALL)
    return figure


# One turn of the loop ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelRow:
    """One label of a trip, in the four columns of the table."""

    cost: float  #: reduced cost if the crew went home now; inf where it may not
    start: int  #: minute of signing on
    driving: int  #: minutes
    worked: int  #: minutes since signing on or the last break
    kept: bool  #: no other label dominates it


def label_rows(graph: DutyGraph, duals: NDArray[np.float64], trip: int, *, depot: int = 0) -> list[LabelRow]:
    """All beginnings of duties that end with a trip, the cheapest first, and whether another dominates them.

    Args:
        graph: a small one: nothing is dropped while they are listed.
        duals: (n,) prices.
        trip: the node of the table.
        depot: number of the depot whose duties are meant.
    """
    flat = Flat.of(graph, depot)
    every = label(flat, duals, better=lambda a, b: False)
    stays = {_key(row) for row in _rows(flat, label(flat, duals, better=dominates), trip, kept=True)}
    rows = [
        LabelRow(row.cost, row.start, row.driving, row.worked, _key(row) in stays)
        for row in _rows(flat, every, trip, kept=False)
    ]
    return sorted(rows, key=lambda row: (row.cost, row.start))


def _key(row: LabelRow) -> tuple[float, int, int, int]:
    return round(row.cost, 6), row.start, row.driving, row.worked


def _rows(flat: Flat, labels: Any, trip: int, *, kept: bool) -> list[LabelRow]:
    _, reduced = homes(flat, labels)
    here = range(int(labels.first[trip]), int(labels.first[trip + 1]))
    return [
        LabelRow(
            float(reduced[k]),
            int(labels.start[k]),
            int(labels.driving[k]),
            int(flat.arrival[trip] - labels.stretch[k]),
            kept,
        )
        for k in here
    ]


def plot_loop(
    timetable: Timetable, duals: NDArray[np.float64], rows: Sequence[LabelRow], column: Sequence[int], cost: float
) -> Figure:
    """One turn: the master's price of every trip, the labels at the last trip of a duty, and this duty going back.

    Args:
        timetable: of n trips.
        duals: (n,) prices.
        rows: the labels at the column's last trip; see `label_rows`. The first nine are shown.
        column: trips of the new duty.
        cost: of it.
    """
    figure, axes = plt.subplot_mosaic(
        [["master", "labels"], ["column", "column"]], figsize=(9, 4.8), height_ratios=[4.6, 1], width_ratios=[1, 1.02]
    )
    _price_bars(axes["master"], timetable, duals, column)
    _label_table(axes["labels"], timetable, rows, column[-1])
    worth = float(duals[list(column)].sum())
    _new_column(axes["column"], timetable, column, f"costs {cost:,.0f}, worth {worth:,.0f}: {cost - worth:+,.0f}")
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 16, "color": VERMILION, "lw": 1.8}
    for here, spot, there, target in (
        ("master", (0.87, 1.045), "labels", (0.06, 1.045)),
        ("labels", (0.5, 0.0), "column", (0.72, 0.98)),
        ("column", (0.07, 0.78), "master", (0.14, -0.11)),
    ):
        ends: dict[str, Any] = {"coordsA": "axes fraction", "axesA": axes[here], "axesB": axes[there]}
        figure.add_artist(ConnectionPatch(spot, target, coordsB="axes fraction", **ends, **arrow))
    return figure


def _price_bars(ax: Axes, timetable: Timetable, duals: NDArray[np.float64], column: Sequence[int]) -> None:
    chosen = np.isin(np.arange(len(duals)), column)
    x = np.arange(1, len(duals) + 1)
    ax.bar(x[~chosen], duals[~chosen], color=SKY, width=0.8)
    ax.bar(x[chosen], duals[chosen], color=VERMILION, width=0.8, hatch="\\\\\\\\", edgecolor="white")
    ax.set(title="1 master: a price on every trip", xlabel="trip", ylabel="price", ylim=(0, 1.12 * duals.max()))
    ax.grid(visible=False, axis="x")


def _label_table(ax: Axes, timetable: Timetable, rows: Sequence[LabelRow], trip: int) -> None:
    ax.set_axis_off()
    ax.set_title(f"2 pricing: labels at {timetable.names[trip]}, arriving {clock(timetable.arrival[trip])}")
    heads = ("reduced cost", "signed on", "driven", "since break")
    shown = list(rows[:9])
    height = 1 / (len(shown) + 2.2)
    for k, head in enumerate(heads):
        ax.text(0.15 + 0.24 * k, 1 - 0.7 * height, head, ha="center", va="center", fontsize=9, weight="bold")
    for r, row in enumerate(shown):
        y = 1 - (r + 2) * height
        if not row.kept:
            ax.add_patch(Rectangle((0.02, y), 0.96, height, **SKIPPED))
        cost = f"{row.cost:+,.0f}" if np.isfinite(row.cost) else "not yet"
        for k, text in enumerate((cost, clock(row.start), f"{row.driving} min", f"{row.worked} min")):
            paper = {} if row.kept else {"bbox": {"facecolor": PALE, "edgecolor": "none", "pad": 1}}
            color = INK if row.kept else "#6A6A6A"
            ax.text(0.15 + 0.24 * k, y + height / 2, text, ha="center", va="center", fontsize=9, color=color, **paper)
    left = len(rows) - len(shown)
    more = f"{left} more; " if left else ""
    text = f"{more}hatched: dominated by another, dropped"
    ax.text(0.5, 0.35 * height, text, ha="center", va="center", fontsize=SMALL)
    ax.set(xlim=(0, 1), ylim=(0, 1))


def _new_column(ax: Axes, timetable: Timetable, column: Sequence[int], text: str) -> None:
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    wide = min(0.16, 0.62 / len(column))
    for k, trip in enumerate(column):
        box = (0.02 + k * wide, 0.15)
        look: dict[str, Any] = {
            "facecolor": "#FBE3D2",
            "edgecolor": VERMILION,
            "boxstyle": "round,pad=0,rounding_size=0.02",
        }
        ax.add_patch(FancyBboxPatch(box, 0.9 * wide, 0.55, mutation_aspect=4, **look))
        words = f"{timetable.names[trip]}\n{clock(timetable.departure[trip])}"
        ax.text(box[0] + 0.45 * wide, 0.42, words, ha="center", va="center", fontsize=SMALL)
    ax.text(0.04 + len(column) * wide, 0.42, f"3 a new column:\n{text}", va="center", fontsize=9)


# Pruning -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PruningRun:
    """One solution that began on a pruned graph."""

    scorer: str
    kept: float  #: arcs kept a trip
    mode: str  #: "fast" or "optimal"
    share: float  #: of all arcs that were kept
    gap: float  #: (cost of the plan - least value of the linear program) / cost
    seconds: float
    steps: tuple[Step, ...]
    mask: NDArray[np.bool_]  #: (m,) the arcs kept


def plot_pruning(
    positions: Sequence[tuple[str, float, str]],
    runs: Mapping[tuple[str, float, str], PruningRun],
    graph: DutyGraph,
    *,
    plain: float,
    least: float,
    hours: tuple[int, int] = (420, 570),
) -> Figure:
    """A row for each position of three hands: arcs kept, gap against time (optimal mode: time), value and bound.

    Args:
        positions: (scorer, arcs kept a trip, mode).
        runs: by position.
        graph: with all arcs.
        plain: seconds of plain column generation and dive; times are shown as shares of it.
        least: value of the full graph's linear program.
        hours: (from, to) in minutes; the trips that depart between them are drawn.
    """
    figure, axes = plt.subplots(
        len(positions), 3, figsize=(9.6, 3.1 * len(positions) + 0.6), squeeze=False, width_ratios=[1.25, 1, 1.1]
    )
    shown: dict[str, Any] = {}
    for row, position in zip(axes, positions, strict=True):
        run = runs[position]
        part, mask = part_of_day(graph, run.mask, *hours)
        plot_space_time(part.timetable, graph=part, kept=mask, names=False, legend=False, ax=row[0])
        row[0].set_title(f"{run.scorer}: {run.share:.0%} of the arcs", fontsize=10)
        mine = [one for one in runs.values() if one.mode == run.mode]
        if run.mode == "fast":
            _gap_over_time(row[1], mine, run, plain)
        else:
            _time_over_kept(row[1], mine, run, plain)
        plot_bounds(run.steps, ax=row[2])
        row[2].set(ylim=(0.3 * least, 1.4 * least), ylabel="")
        row[2].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for ax in row:
            ax.tick_params(labelsize=SMALL)
            shown |= {name: handle for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
            if (legend := ax.get_legend()) is not None:
                legend.remove()
    for name in ("connection, dropped", "connection, kept", "trip"):
        shown.pop(name, None)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, fontsize=SMALL)
    return figure


def _gap_over_time(ax: Axes, mine: Sequence[PruningRun], run: PruningRun, plain: float) -> None:
    rows = [
        {"scorer": one.scorer, "kept": one.kept, "gap": one.gap, "seconds": 100 * one.seconds / plain} for one in mine
    ]
    plot_kept_share(rows, chosen=(run.scorer, run.kept), label="time, % of plain", ax=ax)
    ax.set_title("fast: the plan's gap, %", fontsize=10)
    ax.set_ylabel("")


def _time_over_kept(ax: Axes, mine: Sequence[PruningRun], run: PruningRun, plain: float) -> None:
    """In optimal mode all values are equal; what differs is the time."""
    for k, scorer in enumerate(dict.fromkeys(one.scorer for one in mine)):
        points = np.array([(one.kept, 100 * one.seconds / plain) for one in mine if one.scorer == scorer])
        ax.plot(*points.T, color=PALETTE[k], marker=MARKERS[k], ls=LINES[k], label=scorer)
    ax.plot(run.kept, 100 * run.seconds / plain, marker="o", ms=17, mfc="none", mec=INK, mew=1.6, ls="", zorder=6)
    ax.axhline(100, color=INK, lw=1, ls="--", marker="")
    ax.set_title("optimal: time, % of plain", fontsize=10)
    ax.set(xlabel="arcs kept a trip")
    ax.set_ylim(0, 110 * max(one.seconds for one in mine) / plain)


def part_of_day(
    graph: DutyGraph, kept: NDArray[np.bool_], first: int, last: int
) -> tuple[DutyGraph, NDArray[np.bool_]]:
    """The trips that depart from minute `first` to `last`, with the arcs among them and which of these are kept."""
    table = graph.timetable
    inside = (table.departure >= first) & (table.departure <= last)
    trips = np.flatnonzero(inside)
    part = Timetable(
        table.origin[trips], table.destination[trips], table.departure[trips], table.arrival[trips],
        stations=table.stations, depots=table.depots, deadhead=table.deadhead,
        names=tuple(table.names[k] for k in trips), follows=np.full(len(trips), -1),
    )  # fmt: skip
    among = inside[graph.tail] & inside[graph.head]
    return DutyGraph.of(part, graph.rules), kept[among]


def plot_duels(gaps: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, names: tuple[str, str]) -> Figure:
    """Two ways to score arcs, one point an instance; below the diagonal the second loses less.

    Args:
        gaps: by panel (such as the arcs kept), then by kind of railway: (first's gap, second's gap), shares.
        names: of the two.
    """
    figure, axes = plt.subplots(1, len(gaps), figsize=(3.15 * len(gaps), 3.5), squeeze=False)
    for ax, (title, kinds) in zip(axes[0], gaps.items(), strict=True):
        top = 100 * max(max(pair) for pairs in kinds.values() for pair in pairs)
        ends = (-0.06 * top, 1.1 * top)
        ax.fill_between(ends, ends, ends[0], facecolor=PALE, zorder=0)
        ax.plot(ends, ends, color=INK, lw=1, ls="--", marker="")
        for k, (kind, pairs) in enumerate(kinds.items()):
            x, y = 100 * np.array(pairs).T
            ax.plot(x, y, ls="", marker=MARKERS[k], color=PALETTE[k], ms=7, label=kind.replace("_", " "))
        ax.set(title=title, xlim=ends, ylim=ends, xlabel=f"{names[0]}: gap, %", ylabel=f"{names[1]}: gap, %")
        ax.set_aspect("equal")
        ax.text(ends[1], ends[0], f"{names[1]} is better  ", ha="right", va="bottom", fontsize=SMALL)
    axes[0, 0].legend(loc="upper left")
    return figure
