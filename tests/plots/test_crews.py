"""Figures of crew plans: as many strokes, bars and lines as there are trips, duties and rounds, where they belong."""

import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from course_lib import plots
from course_lib.beyond.cg_p import CrewRules, DutyGraph, ShortGaps, Step, Timetable, solve
from course_lib.beyond.cg_p.orlib import draw_csp
from course_lib.beyond.cg_p.reduction import best_arcs
from course_lib.beyond.cg_p.timeline import plan_timelines
from course_lib.plots.crews import BARS, _in_line

HOURS = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "B", 640, 700), ("B", "A", 720, 780)]
FOUR = Timetable.of(HOURS, depots=["A"])


def words(figure):
    found = [t.get_text() for ax in figure.axes for t in [*ax.texts, ax.title, *ax.get_yticklabels()]]
    for ax in figure.axes:
        found += [ax.get_title(loc="left"), *([] if ax.get_legend() is None else legend(ax))]
    return [word for word in found if word]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def strokes(ax, label):
    (found,) = [collection for collection in ax.collections if collection.get_label() == label]
    return found


def clipped(figure):
    """Texts that stick out of the picture, or are too small to read."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    axes = figure.axes
    texts = [text for ax in axes for text in ax.findobj(Text) if text.get_text() and text.get_visible()]
    ticks = [label for ax in axes for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
    wrong = []
    for text in texts:
        box = text.get_window_extent()
        outside = box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
        if text.get_fontsize() < 8 or (outside and text not in ticks):
            wrong.append(text.get_text())
    return wrong


# Space and time


def test_a_stroke_for_every_trip_from_its_departure_to_its_arrival():
    figure = plots.plot_space_time(FOUR)
    (ax,) = figure.axes
    drawn = [segment.tolist() for segment in strokes(ax, "trip").get_segments()]
    assert drawn == [[[a, 0], [b, 1]] if k % 2 == 0 else [[a, 1], [b, 0]] for k, (*_, a, b) in enumerate(HOURS)]
    assert {"A", "B", "trip 1", "trip 4"} <= set(words(figure))
    assert not clipped(figure)


def test_the_illegal_duty_and_its_stretch():
    mark = (465, 780, "315 minutes without a break; 270 are allowed")
    figure = plots.plot_space_time(FOUR, graph=DutyGraph.of(FOUR), duties=[(0, 1, 2, 3)], mark=mark)
    (ax,) = figure.axes
    assert mark[2] in words(figure)
    assert legend(ax) == ["connection", "trip", "duty 1", "sign-on", "sign-off"]
    signs = {line.get_marker(): line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() in (">", "s")}
    assert signs == {">": 465, "s": 795}
    assert not clipped(figure)


def test_kept_connections_are_solid_and_dropped_ones_dotted():
    table = Timetable.generate(60, seed=1)
    graph = DutyGraph.of(table)
    kept = best_arcs(graph, ShortGaps().scores(table, graph.rules, graph), per_trip=2)
    plan = solve(table, mode="fast")
    figure = plots.plot_space_time(table, graph=graph, kept=kept, duties=plan.duties[:2])
    (ax,) = figure.axes
    solid, dotted = strokes(ax, "connection, kept"), strokes(ax, "connection, dropped")
    assert (len(solid.get_segments()), len(dotted.get_segments())) == (kept.sum(), (~kept).sum())
    assert solid.get_linestyle()[0][1] is None
    assert dotted.get_linestyle()[0][1] is not None
    assert len(strokes(ax, "trip").get_segments()) == 60
    arc = int(np.flatnonzero(kept)[0])
    curve = solid.get_segments()[0]
    assert (curve[0, 0], curve[-1, 0]) == (table.arrival[graph.tail[arc]], table.departure[graph.head[arc]])
    assert not clipped(figure)
    assert "trip 1" not in words(figure)  # sixty names would hide everything


def test_all_dropped_or_all_kept_and_no_trips_at_all():
    graph = DutyGraph.of(FOUR)
    for kept in (np.zeros(len(graph), dtype=bool), np.ones(len(graph), dtype=bool)):
        (ax,) = plots.plot_space_time(FOUR, graph=graph, kept=kept).axes
        assert len([name for name in legend(ax) if name.startswith("connection")]) == 1
    plots.plot_space_time(Timetable.of([], depots=["A"]))
    plots.plot_space_time(Timetable.of([("A", "A", 480, 540)], depots=["A"]), legend=False)


def test_stations_in_the_order_of_the_line():
    table = Timetable.generate(120, seed=2)
    assert _in_line(table, range(8)) == list(range(8))
    shuffled = np.random.default_rng(0).permutation(8)
    moved = dataclasses.replace(
        table,
        origin=shuffled[table.origin], destination=shuffled[table.destination], depots=(0,),
        deadhead=table.deadhead[np.ix_(np.argsort(shuffled), np.argsort(shuffled))],
    )  # fmt: skip
    assert _in_line(moved, range(8)) in (shuffled.tolist(), shuffled[::-1].tolist())
    ring = Timetable.generate(120, family="ring", stations=7, seed=2)
    order = _in_line(ring, range(7))
    assert all((a - b) % 7 in (1, 6) for a, b in itertools.pairwise(order))


def test_stations_in_line_by_trips_where_nobody_can_ride():
    table = Timetable.of(
        [("C", "B", 500, 520), ("A", "D", 400, 430), ("D", "C", 450, 470), ("X", "Y", 480, 490)], depots=["A"]
    )
    order = [table.stations[k] for k in _in_line(table, range(len(table.stations)))]
    assert "".join(order) in ("ADCBXY", "ADCBYX", "BCDAXY", "BCDAYX", "XYADCB", "YXADCB", "XYBCDA", "YXBCDA")


def test_space_time_refuses_what_it_cannot_draw():
    graph = DutyGraph.of(FOUR)
    with pytest.raises(ValueError, match="got shape \\(5,\\) and 3 arcs"):
        plots.plot_space_time(FOUR, graph=graph, kept=np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="no graph"):
        plots.plot_space_time(FOUR, kept=np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="has no stations"):
        plots.plot_space_time(Timetable.from_orlib_csp(draw_csp(10)))
    with pytest.raises(ValueError, match="a ride from A to B, expected one with a way"):
        plots.plot_space_time(FOUR, duties=[(1, 0)])


# Duties as rows


def bars(ax):
    """(row, start, end) of everything drawn."""
    return [
        (round(box.ymin + box.height / 2), box.xmin, box.xmax)
        for collection in ax.collections
        for box in (path.get_extents() for path in collection.get_paths())
    ]


def test_a_row_for_every_duty_and_bars_that_fill_it():
    plan = solve(Timetable.generate(60, seed=1), mode="fast")
    figure = plots.plot_gantt(plan)
    (ax,) = figure.axes
    days = sorted(plan_timelines(plan), key=lambda day: (day[0].start, day[-1].end))
    drawn = bars(ax)
    for row, day in enumerate(days):
        mine = sorted((start, end) for where, start, end in drawn if where == row)
        assert mine == sorted((activity.start, activity.end) for activity in day)
        assert sum(end - start for start, end in mine) == day[-1].end - day[0].start
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == len(plan.duties)
    depot, number = names[0].rsplit(" ", 1)
    first = plan.duties[int(number) - 1]
    assert plan.timetable.stations[first.depot] == depot
    assert plan_timelines(plan)[int(number) - 1] == days[0]
    assert "driving" in legend(ax)
    assert not clipped(figure)


def test_of_many_duties_some_and_it_says_so():
    plan = solve(Timetable.generate(80, seed=4), mode="fast")
    figure = plots.plot_gantt(plan, most=5)
    assert len({row for row, *_ in bars(figure.axes[0])}) == 5
    assert f"{len(plan.duties)} duties" in words(figure)[0] or any("5 of them drawn" in word for word in words(figure))
    assert any("5 of them drawn, spread over the day" in word for word in words(figure))
    with pytest.raises(ValueError, match="most: got 0"):
        plots.plot_gantt(plan, most=0)


def test_or_library_plans_have_rows_without_depots():
    plan = solve(Timetable.from_orlib_csp(draw_csp(30)), crews=20)
    figure = plots.plot_gantt(plan)
    assert sorted(int(label.get_text()) for label in figure.axes[0].get_yticklabels()) == list(range(1, 21))
    assert set(legend(figure.axes[0])) <= {"task", "waiting"}
    nobody = solve(Timetable.from_orlib_csp(draw_csp(30)), crews=1)
    assert not nobody.duties
    assert "infeasible: no duties" in words(plots.plot_gantt(nobody))


def test_what_nobody_covers_is_said():
    table = Timetable.of([*HOURS, ("X", "Y", 600, 640)], depots=["A"])
    assert any("1 trip uncovered" in word for word in words(plots.plot_gantt(solve(table))))


def test_no_two_activities_look_alike_without_colour():
    looks = [(height, look.get("hatch"), look["facecolor"] == "white") for _, height, look in BARS.values()]
    assert len({(height, hatch) for height, hatch, _ in looks}) >= len(BARS) - 1  # driving and signing differ in face


# Bounds


def test_value_falls_bound_rises_and_the_gap_is_shaded():
    plan = solve(Timetable.generate(60, seed=1))
    figure = plots.plot_bounds(plan)
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    value, bound = (lines[name].get_ydata() for name in ("value of the restricted master", "best proven lower bound"))
    assert (np.diff(value) <= 1e-6).all()
    assert (np.diff(bound[np.isfinite(bound)]) >= 0).all()
    assert bound[-1] == pytest.approx(value[-1])
    assert "what is not proven yet" in legend(ax)
    assert list(lines["cost of the plan"].get_ydata()) == [plan.cost, plan.cost]
    assert "full" in words(figure)
    assert not clipped(figure)
    low, high = plots.plot_bounds(plan, within=0.1).axes[0].get_ylim()
    assert (low, high) == pytest.approx((0.9 * plan.cost, 1.1 * plan.cost))


def test_estimates_of_the_volume_algorithm_are_no_values_of_the_master():
    plan = solve(Timetable.generate(60, seed=1), mode="fast")
    (ax,) = plots.plot_bounds(plan).axes
    assert "volume algorithm: an estimate, no bound" in legend(ax)
    assert "value of the restricted master" not in legend(ax)
    both = plots.plot_bounds(solve(Timetable.generate(60, seed=1), mode="optimal"), seconds=True)
    assert {"volume", "full"} <= set(words(both))
    assert both.axes[0].get_xlabel() == "seconds"


def test_bounds_of_a_bare_history_of_one_round_and_of_none():
    step = Step(0.1, "full", 1300.0, 1300.0, 4, exact=True)
    figure = plots.plot_bounds([step])
    assert "cost of the plan" not in legend(figure.axes[0])
    assert not clipped(figure)
    plots.plot_bounds([])
    plots.plot_bounds(solve(Timetable.of([], depots=["A"])))


# Pruning


def test_a_line_for_each_scorer_told_apart_by_its_marker():
    rows = [
        {"scorer": scorer, "kept": kept, "gap": gap / kept, "seconds": 0.4 * kept}
        for scorer, gap in (("network", 0.01), ("short gaps", 0.02), ("chance", 0.1))
        for kept in (4, 1, 2)
    ]
    figure = plots.plot_kept_share(rows, chosen=("network", 2))
    (ax,) = figure.axes
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["network", "short gaps", "chance"]
    assert len({line.get_marker() for line in lines}) == 3
    assert lines[0].get_xdata().tolist() == pytest.approx([0.4, 0.8, 1.6])
    assert lines[0].get_ydata().tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert len(ax.get_lines()) == 4
    assert sorted(text.get_text() for text in ax.texts) == sorted(["1", "2", "4"] * 3)
    (ax,) = plots.plot_kept_share(rows, over="kept").axes
    assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 4]
    assert ax.get_xlabel() == "arcs kept a trip"
    assert not clipped(figure)
    with pytest.raises(ValueError, match="over: got 'money'"):
        plots.plot_kept_share(rows, over="money")
    plots.plot_kept_share([])


def test_figures_are_drawn_on_the_axes_given():
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 8))
    plan = solve(FOUR, CrewRules())
    drawn = [
        plots.plot_space_time(FOUR, ax=axes[0, 0]), plots.plot_gantt(plan, ax=axes[0, 1]),
        plots.plot_bounds(plan, ax=axes[1, 0]), plots.plot_kept_share([], ax=axes[1, 1]),
    ]  # fmt: skip
    assert all(one is figure for one in drawn)
    assert not clipped(figure)
