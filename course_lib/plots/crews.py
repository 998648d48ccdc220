"""Figures of crew plans: trips in space and time, duties as rows, bounds that meet, what pruning costs and saves.

Every function returns a `Figure`. Connections that were dropped are dotted and pale, kept ones solid; what a crew is
paid for without driving is thin, pale or hatched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Step
from course_lib.beyond.cg_p.rules import CrewRules, rules_for
from course_lib.beyond.cg_p.timeline import Activity, duty_timeline, plan_timelines
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable, clock
from course_lib.plots.style import BLUE, GREEN, INK, LINES, MARKERS, ORANGE, PALE, PALETTE, SKY, VERMILION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

__all__ = ["plot_bounds", "plot_gantt", "plot_kept_share", "plot_space_time"]

SMALL = 8.5  #: points; the smallest type in these figures
PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.9}
GREY = "#8C8C8C"


# Space and time ------------------------------------------------------------------------------------------------------


def plot_space_time(
    timetable: Timetable,
    *,
    duties: Iterable[Duty | Sequence[int]] = (),
    graph: DutyGraph | None = None,
    kept: NDArray[np.bool_] | None = None,
    rules: CrewRules | None = None,
    mark: tuple[int, int, str] | None = None,
    names: bool | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Time to the right, stations as lines, trips as slanted strokes; connections bow from one trip to the next.

    Args:
        timetable: of n trips between stations; not one of the OR-Library, which has none.
        duties: drawn as thick paths from sign-on to sign-off; legal or not, plain sequences of trips too, which then
            begin at the nearest depot.
        graph: whose connections to draw, thin.
        kept: (arcs,) bool; those not kept are dotted. None draws all alike.
        rules: for the duties; None are the graph's, or the defaults.
        mark: (from, to, text), in minutes after midnight: a stretch marked above everything.
        names: write the trips' names along their strokes; None does so for up to 8 trips.
        legend: explain the strokes below the axes.
        ax: to draw on.

    Raises:
        ValueError: a timetable without stations, `kept` of another shape, or a duty for which there is no time.
    """
    if timetable.links is not None:
        raise ValueError("timetable: got one of the OR-Library, which has no stations, expected one that has")
    if kept is not None and (graph is None or np.shape(kept) != graph.tail.shape):
        arcs = "no graph" if graph is None else f"{len(graph)} arcs"
        raise ValueError(f"kept: got shape {np.shape(kept)} and {arcs}, expected one bool for each arc of `graph`")
    rules = rules or (graph.rules if graph is not None else rules_for(timetable))
    chosen = list(duties)
    days = [
        duty_timeline(tuple(duty), timetable, rules, depot=duty.depot if isinstance(duty, Duty) else None)
        for duty in chosen
    ]
    used = {int(s) for ends in (timetable.origin, timetable.destination) for s in ends}
    used |= {station for day in days for activity in day for station in (activity.origin, activity.destination)}
    row = {station: k for k, station in enumerate(_in_line(timetable, sorted(used)))}
    if ax is None:
        _, ax = plt.subplots(figsize=(9, max(2.6, 0.52 * len(row) + 1.4)))
    for k in row.values():
        ax.axhline(k, color="#C9C9C9", lw=0.9, ls="-", marker="", zorder=0)
    shown = []
    if graph is not None:
        shown += _connections(ax, graph, kept, row)
    shown += _trips(ax, timetable, row, dim=bool(days))
    shown += _paths(ax, days, row)
    if names or (names is None and len(timetable) <= 8):
        _trip_names(ax, timetable, row)
    top = -0.45
    if mark is not None:
        top = -1.2
        _mark(ax, *mark)
    ax.set_yticks(list(row.values()), [timetable.stations[station] for station in row])
    ax.set(ylim=(max(len(row), 1) - 0.45, top), xlabel="")
    ax.grid(visible=False, axis="y")
    moments = [*timetable.departure.tolist(), *timetable.arrival.tolist(), *(a.end for day in days for a in day)]
    moments += [a.start for day in days for a in day] + list(mark[:2] if mark else ())
    _clock_axis(ax, min(moments, default=0), max(moments, default=60))
    if legend:
        _legend_below(ax, shown)
    return _figure(ax)


def _in_line(timetable: Timetable, used: Sequence[int]) -> list[int]:
    """The stations in an order in which neighbours are near each other: on a line, that of the line."""
    if len(used) < 3:
        return list(used)
    near = timetable.deadhead[np.ix_(used, used)].astype(np.float64)
    near = np.minimum(near, near.T)
    near[near >= NO_WAY] = np.inf
    place = {station: k for k, station in enumerate(used)}
    for a, b, minutes in zip(timetable.origin, timetable.destination, timetable.duration, strict=True):
        i, j = place[int(a)], place[int(b)]
        near[i, j] = near[j, i] = min(near[i, j], minutes)
    for k in range(len(used)):
        near = np.minimum(near, near[:, k, None] + near[None, k])
    finite = near[np.isfinite(near)].max(initial=1.0)
    near[~np.isfinite(near)] = 10 * finite
    path = min((_nearest_first(near, start) for start in range(len(used))), key=lambda order: _length(near, order))
    return [used[k] for k in _untangled(near, path)]


def _nearest_first(near: NDArray[np.float64], start: int) -> list[int]:
    path, rest = [start], set(range(len(near))) - {start}
    while rest:
        path.append(min(rest, key=lambda k: (near[path[-1], k], k)))
        rest.remove(path[-1])
    return path


def _length(near: NDArray[np.float64], path: Sequence[int]) -> float:
    return float(near[list(path[:-1]), list(path[1:])].sum())


def _untangled(near: NDArray[np.float64], path: list[int]) -> list[int]:
    """Turn parts of the path round as long as that shortens it; the smaller end first."""
    shorter = True
    while shorter:
        shorter = False
        for i in range(len(path) - 1):
            for j in range(i + 1, len(path)):
                other = path[:i] + path[i : j + 1][::-1] + path[j + 1 :]
                if _length(near, other) < _length(near, path) - 1e-9:
                    path, shorter = other, True
    return path if path[0] < path[-1] else path[::-1]


def _connections(
    ax: Axes, graph: DutyGraph, kept: NDArray[np.bool_] | None, row: Mapping[int, int]
) -> list[tuple[Any, str]]:
    """Thin curves from each arrival to each departure that may follow it."""
    table = graph.timetable
    start, end = table.arrival[graph.tail], table.departure[graph.head]
    below = np.array([row[int(s)] for s in table.destination[graph.tail]], dtype=np.float64)
    then = np.array([row[int(s)] for s in table.origin[graph.head]], dtype=np.float64)
    done = np.linspace(0, 1, 13)[:, None]
    bow = 0.1 + 0.3 * (end - start) / max(int(np.max(end - start, initial=1)), 1)
    x = start + done * (end - start)
    y = below + done * (then - below) + np.where(below == then, 4 * done * (1 - done) * bow, 0.0)
    curves = np.stack([x, y], 2).transpose(1, 0, 2)
    crowd = float(np.clip((400 / max(len(graph), 1)) ** 0.5, 0.25, 1.0))
    which = np.ones(len(graph), dtype=bool) if kept is None else kept
    shown = []
    name = "connection" if kept is None else "connection, kept"
    looks: list[tuple[NDArray[np.bool_], dict[str, Any], str]] = [
        (~which, {"color": "#6E6E6E", "ls": (0, (1, 1.6)), "lw": 1.0, "alpha": 0.9 * crowd}, "connection, dropped"),
        (which, {"color": BLUE, "ls": "-", "lw": 0.9, "alpha": 0.75 * crowd}, name),
    ]
    for some, look, name in looks:
        if some.any():
            ax.add_collection(LineCollection(list(curves[some]), zorder=1, label=name, **look))
            shown.append((Line2D([], [], marker="", **{**look, "alpha": 1.0}), name))
    return shown


def _trips(ax: Axes, timetable: Timetable, row: Mapping[int, int], *, dim: bool) -> list[tuple[Any, str]]:
    strokes = [
        [(departure, row[int(a)]), (arrival, row[int(b)])]
        for a, b, departure, arrival in zip(
            timetable.origin, timetable.destination, timetable.departure, timetable.arrival, strict=True
        )
    ]
    if not strokes:
        return []
    width = 1.4 if dim or len(timetable) > 30 else 2.2
    ax.add_collection(LineCollection(strokes, color=INK, lw=width, zorder=3, label="trip"))
    ends = np.array(strokes).reshape(-1, 2)
    ax.plot(*ends.T, ls="", marker="o", ms=3 if len(timetable) <= 30 else 2, color=INK, zorder=3)
    return [(Line2D([], [], color=INK, lw=width, ls="-", marker="o", ms=3), "trip")]


def _paths(ax: Axes, days: Sequence[Sequence[Activity]], row: Mapping[int, int]) -> list[tuple[Any, str]]:
    """Each duty as a thick path, a little below the stations' lines where it waits, so that two do not hide another."""
    shown: list[tuple[Any, str]] = []
    wide = 7.0 if len(days) <= 4 else 5.0
    lanes = min(len(days), 5)
    lane = 3.0 / 72 * (len(row) + 0.5) / _inches(ax)[1]  # 3 points
    for k, day in enumerate(days):
        color, shift = PALETTE[k % len(PALETTE)], lane * (k % lanes - (lanes - 1) / 2)
        for activity in day:
            x, y = (activity.start, activity.end), (row[activity.origin] + shift, row[activity.destination] + shift)
            moves = activity.kind in ("drive", "passenger")
            look: dict[str, Any] = {"color": color, "marker": "", "zorder": 2, "solid_capstyle": "butt"}
            if activity.kind == "ride":
                look |= {"ls": (0, (2, 1)), "lw": 0.45 * wide, "dash_capstyle": "butt"}
            else:
                look |= {"ls": "-", "lw": wide if moves else 0.45 * wide, "alpha": 0.55 if moves else 0.8}
            ax.plot(x, y, **look)
        edge: dict[str, Any] = {"ls": "", "color": color, "mec": "white", "mew": 0.8, "zorder": 5}
        ax.plot(day[0].start, row[day[0].origin] + shift, marker=">", ms=10, **edge)
        ax.plot(day[-1].end, row[day[-1].destination] + shift, marker="s", ms=8, **edge)
        if len(days) > 1:
            spot = (day[0].start, row[day[0].origin] + shift)
            ax.annotate(str(k + 1), spot, (-7, 0), textcoords="offset points", fontsize=SMALL, ha="right", va="center")
        name = f"duty {k + 1}"
        thick: dict[str, Any] = {"color": color, "lw": wide, "ls": "-", "alpha": 0.55, "marker": ""}
        if len(days) <= 6:
            shown.append((Line2D([], [], **thick), name))
    if days:
        plain: dict[str, Any] = {"ls": "", "color": INK}
        signs = ((">", 8, "sign-on"), ("s", 7, "sign-off"))
        shown += [(Line2D([], [], marker=marker, ms=size, **plain), name) for marker, size, name in signs]
        if any(activity.kind == "ride" for day in days for activity in day):
            shown.append((Line2D([], [], color=INK, lw=0.45 * wide, ls=(0, (2, 1)), marker=""), "deadhead"))
    return shown


def _trip_names(ax: Axes, timetable: Timetable, row: Mapping[int, int]) -> None:
    for trip, name in enumerate(timetable.names):
        start, end = (row[int(ends[trip])] for ends in (timetable.origin, timetable.destination))
        middle = (timetable.departure[trip] + timetable.arrival[trip]) / 2
        ax.text(middle, (start + end) / 2, name, fontsize=SMALL, ha="center", va="center", bbox=PAPER, zorder=6)


def _mark(ax: Axes, start: int, end: int, text: str) -> None:
    arrow = {"arrowstyle": "|-|, widthA=0.35, widthB=0.35", "color": VERMILION, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (end, -0.5), (start, -0.5), arrowprops=arrow)
    ax.text((start + end) / 2, -0.6, text, color=VERMILION, fontsize=9, ha="center", va="bottom")
    for moment in (start, end):
        ax.axvline(moment, color=VERMILION, lw=0.9, ls=(0, (4, 3)), marker="", zorder=0.6)


# Duties as rows ------------------------------------------------------------------------------------------------------

#: How each activity is drawn: its height within the row, and its face, edge and hatch.
BARS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "drive": ("driving", 0.82, {"facecolor": BLUE, "edgecolor": "white"}),
    "passenger": ("riding along on a trip", 0.62, {"facecolor": SKY, "edgecolor": "white", "hatch": "\\\\\\\\"}),
    "ride": ("deadhead", 0.46, {"facecolor": "#F6D9A8", "edgecolor": ORANGE, "hatch": "////"}),
    "break": ("break", 0.3, {"facecolor": "white", "edgecolor": GREEN, "hatch": "....", "linewidth": 0.9}),
    "wait": ("waiting", 0.14, {"facecolor": "#C4C4C4", "edgecolor": "none"}),
    "sign on": ("signing on, signing off", 0.82, {"facecolor": PALE, "edgecolor": INK}),
}


def plot_gantt(plan: CrewPlan, *, ax: Axes | None = None, most: int = 40) -> Figure:
    """One row a duty, the earliest sign-on first; a row's number is the duty's in the plan and in its CSV file.

    Args:
        plan: of either form.
        ax: to draw on.
        most: rows; of more duties so many are shown, evenly spread over the day.
    """
    if most < 1:
        raise ValueError(f"most: got {most}, expected 1 or more")
    days = plan_timelines(plan)
    order = sorted(range(len(days)), key=lambda k: (days[k][0].start, days[k][-1].end, k))
    if len(order) > most:
        order = [order[round(k)] for k in np.linspace(0, len(order) - 1, most)]
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 1.5 + 0.2 * max(len(order), 3)))
    for row, number in enumerate(order):
        for kind, activities in groupby(sorted(days[number], key=lambda a: _bar(a.kind)), key=lambda a: _bar(a.kind)):
            _, height, look = BARS[kind]
            spans = [(activity.start, activity.minutes) for activity in activities]
            ax.broken_barh(spans, (row - height / 2, height), **{"linewidth": 0.6, **look})
    homes = (plan.timetable.stations[plan.duties[k].depot] if plan.duties[k].depot >= 0 else "" for k in order)
    ax.set_yticks(range(len(order)), [f"{home} {k + 1}".strip() for home, k in zip(homes, order, strict=True)])
    ax.tick_params(axis="y", labelsize=SMALL, length=0)
    ax.set(ylim=(max(len(order), 1) - 0.3, -0.7), xlabel="")
    ax.grid(visible=False, axis="y")
    ax.set_title(_headline(plan, len(order)), loc="left", fontsize=10)
    shown = [days[k] for k in order] or [[]]
    ends = [moment for day in shown for a in day for moment in (a.start, a.end)]
    _clock_axis(ax, min(ends, default=0), max(ends, default=60))
    present = {_bar(activity.kind) for day in shown for activity in day}
    named = {kind: name for kind, (name, *_) in BARS.items()} | ({"drive": "task"} if plan.rules.explicit else {})
    patches = [
        (Patch(**{"linewidth": 0.6, **look}), named[kind]) for kind, (*_, look) in BARS.items() if kind in present
    ]
    _legend_below(ax, patches)
    return _figure(ax)


def _bar(kind: str) -> str:
    return "sign on" if kind == "sign off" else kind


def _headline(plan: CrewPlan, rows: int) -> str:
    count = len(plan.duties)
    parts = [f"{count} {'duty' if count == 1 else 'duties'}", f"cost {plan.cost:,.0f}"]
    if not math.isnan(plan.gap):
        parts.append("proven optimal" if plan.status == "optimal" else f"gap {plan.gap:.1%}")
    if plan.uncovered:
        what = "task" if plan.rules.explicit else "trip"
        parts.append(f"{len(plan.uncovered)} {what}{'s' * (len(plan.uncovered) != 1)} uncovered")
    if rows < count:
        parts.append(f"{rows} of them drawn, spread over the day")
    return ", ".join(parts) if count else f"{plan.status}: no duties"


# Bounds --------------------------------------------------------------------------------------------------------------


def plot_bounds(
    plan: CrewPlan | Sequence[Step], *, seconds: bool = False, within: float | None = None, ax: Axes | None = None
) -> Figure:
    """The master's value falling, the best proven bound rising, and the gap between them shaded.

    Args:
        plan: or its history; a plan's cost is drawn too.
        seconds: to the right, instead of rounds.
        within: cut the axis off at this share above and below the last value, 0.1 for 10 %; None shows everything.
        ax: to draw on.
    """
    history = plan.history if isinstance(plan, CrewPlan) else tuple(plan)
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3.6))
    x = np.array([step.seconds for step in history]) if seconds else np.arange(1, len(history) + 1)
    value = np.array([step.value if _is_master(step) else np.nan for step in history])
    estimate = np.array([step.value if "volume" in step.phase else np.nan for step in history])
    bound = np.array([step.lower_bound if np.isfinite(step.lower_bound) else np.nan for step in history])
    best = np.fmin.accumulate(value) if len(value) else value
    known = np.isfinite(bound) & np.isfinite(best)
    if known.sum() > 1:
        shade: dict[str, Any] = {"facecolor": "#F6D9A8", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0}
        ax.fill_between(x, bound, best, where=known, label="what is not proven yet", zorder=1, **shade)
    every = max(1, len(history) // 12)
    looks: tuple[tuple[NDArray[Any], str, dict[str, Any]], ...] = (
        (estimate, "volume algorithm: an estimate, no bound", {"color": GREY, "ls": ":", "marker": "x", "ms": 4}),
        (value, "value of the restricted master", {"color": BLUE, "ls": "-", "marker": "o", "ms": 4}),
        (bound, "best proven lower bound", {"color": VERMILION, "ls": "--", "marker": "s", "ms": 4}),
    )
    for series, name, look in looks:
        if np.isfinite(series).any():
            ax.plot(x, series, label=name, markevery=every if np.isfinite(series).sum() > 3 else 1, **look)
    last = float(best[-1]) if len(best) else 0.0
    if isinstance(plan, CrewPlan) and plan.duties:
        last = plan.cost
        ax.axhline(last, color=INK, lw=1.1, ls=(0, (5, 1)), marker="", label="cost of the plan")
    if within is not None:
        ax.set_ylim(last * (1 - within), last * (1 + within))
    elif np.diff(ax.get_ylim())[0] < 0.02 * last:
        ax.set_ylim(0.99 * last, 1.01 * last)  # one round, or rounding
    _phases(ax, x, [step.phase for step in history])
    ax.set(xlabel="seconds" if seconds else "round", ylabel="cost")
    if not seconds:
        ax.set_xlim(0.5, max(len(history), 1) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    _legend_below(ax, list(zip(*ax.get_legend_handles_labels(), strict=True)), columns=2, drop=0.2)
    return _figure(ax)


def _is_master(step: Step) -> bool:
    """The volume algorithm's value is an estimate, and that of a last exact pricing the sum of its prices."""
    return "volume" not in step.phase and step.phase != "bound"


def _phases(ax: Axes, x: NDArray[Any], phases: Sequence[str]) -> None:
    """A line where a phase begins, and its name above."""
    runs = [(phase, list(group)) for phase, group in groupby(range(len(phases)), key=lambda k: phases[k])]
    for k, (phase, members) in enumerate(runs):
        left = x[members[0]] if k else x[0]
        if k:
            left = (x[members[0] - 1] + x[members[0]]) / 2
            ax.axvline(left, color=INK, lw=0.9, ls=(0, (1, 2)), marker="")
        spot = (left, 1.02 + 0.075 * (k % 2 if len(runs) > 2 else 0))
        ax.text(*spot, phase, transform=ax.get_xaxis_transform(), fontsize=SMALL, ha="left", va="bottom")


# Pruning -------------------------------------------------------------------------------------------------------------


def plot_kept_share(
    rows: Iterable[Mapping[str, Any]],
    *,
    over: str = "seconds",
    chosen: tuple[str, float] | None = None,
    label: str = "",
    ax: Axes | None = None,
) -> Figure:
    """The integer gap against the time (or the arcs kept), a line for each that scores the arcs.

    Args:
        rows: each with "scorer", "kept" (arcs a trip, or a share), "gap" (a share) and, for the time, "seconds".
        over: "seconds" or "kept": what is to the right. In time, each point has its "kept" beside it.
        chosen: (scorer, kept) of a point to ring.
        label: of the axis to the right, instead of "seconds" or "arcs kept a trip".
        ax: to draw on.
    """
    if over not in ("seconds", "kept"):
        raise ValueError(f"over: got {over!r}, expected 'seconds' or 'kept'")
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8))
    points = list(rows)
    scorers = list(dict.fromkeys(str(row["scorer"]) for row in points))
    for k, scorer in enumerate(scorers):
        mine = sorted((row for row in points if row["scorer"] == scorer), key=lambda row: float(row["kept"]))
        x, y = [float(row[over]) for row in mine], [100 * float(row["gap"]) for row in mine]
        ax.plot(x, y, color=PALETTE[k], marker=MARKERS[k], ls=LINES[k], ms=7, label=scorer)
        for row, spot in zip(mine, zip(x, y, strict=True), strict=True):
            if over == "seconds":
                offset = (4, -13) if not k else (5, 5)
                ax.annotate(f"{row['kept']:g}", spot, offset, textcoords="offset points", fontsize=SMALL)
            if chosen is not None and (scorer, float(row["kept"])) == (chosen[0], float(chosen[1])):
                ax.plot(*spot, marker="o", ms=17, mfc="none", mec=INK, mew=1.6, ls="", zorder=6)
    ax.set(xlabel=label or ("seconds" if over == "seconds" else "arcs kept a trip"), ylabel="integer gap, %")
    ax.set_ylim(bottom=-0.08 * ax.get_ylim()[1])  # room for the labels below 0
    ax.margins(x=0.08)
    if scorers:
        ax.legend(title="scores the arcs")
    return _figure(ax)


# In common -----------------------------------------------------------------------------------------------------------


def _clock_axis(ax: Axes, start: float, end: float) -> None:
    """Ticks on whole hours, or parts of them, written 08:00."""
    room = max(10.0, 0.03 * (end - start))
    width, _ = _inches(ax)
    steps = (10, 15, 30, 60, 120, 180, 240, 360, 720, 1440)
    step = next((s for s in steps if (end - start + 2 * room) / s <= 1.5 * width), steps[-1])
    ax.set_xlim(start - room, end + room)
    ax.xaxis.set_major_locator(MultipleLocator(step))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: clock(round(minutes))))
    ax.tick_params(axis="x", labelsize=9)


def _legend_below(
    ax: Axes, shown: Sequence[tuple[Any, str]], *, columns: int | None = None, drop: float | None = None
) -> None:
    if not shown:
        return
    _, height = _inches(ax)
    handles, names = zip(*shown, strict=True)
    ax.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0, -(drop or 0.36 / height)), borderaxespad=0,
        ncols=columns or (len(shown) if len(shown) <= 6 else 4), fontsize=SMALL, handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height."""
    extent, dpi = ax.get_window_extent(), _figure(ax).dpi
    return extent.width / dpi, extent.height / dpi


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
