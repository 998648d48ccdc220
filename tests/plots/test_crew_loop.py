"""The figures of the chapter on crews: what is tabled, hatched and cut out, and what is drawn of a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from course_lib import plots
from course_lib.beyond.cg_p import DutyGraph, Step, Timetable, duty_cost
from course_lib.beyond.cg_p.pricing import Pricer
from course_lib.plots.crew_loop import LabelRow, PruningRun

GRAPH = DutyGraph.of(Timetable.generate(30, stations=5, depots=2, seed=4))
PRICES = np.random.default_rng(0).uniform(100, 500, 30).round()


def paths(graph: DutyGraph, end: int, depot: int) -> list[tuple[int, ...]]:
    """Every beginning of a duty that ends with a trip, legal as it stands."""
    found, home = [], graph.timetable.depots[depot]

    def back(path: tuple[int, ...]) -> None:
        if duty_cost(path, graph.timetable, depot=home) is not None:
            found.append(path)
        for arc in range(graph.in_start[path[0]], graph.in_start[path[0] + 1]):
            back((int(graph.tail[arc]), *path))

    back((end,))
    return found


@pytest.mark.parametrize("depot", [0, 1])
def test_the_table_lists_every_beginning_and_what_dominates(depot: int):
    for trip in range(15, 30):
        rows = plots.label_rows(GRAPH, PRICES, trip, depot=depot)
        assert [row.cost for row in rows] == sorted(row.cost for row in rows)
        home = GRAPH.timetable.depots[depot]
        costs = [
            duty_cost(path, GRAPH.timetable, depot=home) - PRICES[list(path)].sum()
            for path in paths(GRAPH, trip, depot)
        ]
        at_home = [row.cost for row in rows if np.isfinite(row.cost)]
        assert sorted(at_home) == pytest.approx(sorted(costs))
        kept = [row for row in rows if row.kept]
        for row in rows:
            better = [a for a in kept if a.cost <= row.cost and a.start >= row.start and a.driving <= row.driving]
            assert any(a.worked <= row.worked for a in better)


def test_one_turn_shows_the_prices_the_labels_and_the_column(hatched: Callable[[Any], list[Any]]):
    found = Pricer(GRAPH).price(PRICES)
    column = found.columns.row(0).tolist()
    rows = plots.label_rows(GRAPH, PRICES, column[-1], depot=int(found.columns.depot[0]))
    figure = plots.plot_loop(GRAPH.timetable, PRICES, rows, column, float(found.columns.cost[0]))
    bars, table, boxes = figure.axes
    assert sorted(bar.get_height() for bar in bars.patches) == sorted(PRICES)
    assert len([bar for bar in bars.patches if bar.get_hatch()]) == len(column)
    assert len(hatched(table)) == sum(not row.kept for row in rows[:9])
    assert len(boxes.patches) == len(column)
    words = " ".join(text.get_text() for text in boxes.texts)
    assert f"{found.least:+,.0f}" in words
    few = [LabelRow(float("inf"), 480, 60, 75, True)]
    table = plots.plot_loop(GRAPH.timetable, PRICES, few, column, 600.0).axes[1]
    assert "not yet" in [text.get_text() for text in table.texts]


def test_prices_rise_above_the_tag_only_where_a_duty_is_worth_more():
    duties = {"1": ((0,), 570.0), "1+2": ((0, 1), 650.0)}
    left, right = plots.plot_prices({"first": [570, 570], "last": [325, 325]}, duties).axes
    above = [[bar for bar in ax.patches if bar.get_hatch()] for ax in (left, right)]
    assert [len(bars) for bars in above] == [1, 0]
    assert (above[0][0].get_y(), above[0][0].get_height()) == (650, 490)


def test_a_part_of_the_day_has_the_arcs_within_it():
    kept = np.random.default_rng(1).random(len(GRAPH)) < 0.5
    part, mask = plots.part_of_day(GRAPH, kept, 420, 900)
    trips = np.flatnonzero((GRAPH.timetable.departure >= 420) & (GRAPH.timetable.departure <= 900))
    assert len(part.timetable) == len(trips)
    inside = np.isin(GRAPH.tail, trips) & np.isin(GRAPH.head, trips)
    np.testing.assert_array_equal(trips[part.tail], GRAPH.tail[inside])
    np.testing.assert_array_equal(trips[part.head], GRAPH.head[inside])
    np.testing.assert_array_equal(mask, kept[inside])


def test_the_dashboard_has_a_row_for_each_position():
    kept = np.ones(len(GRAPH), dtype=bool)
    steps = (Step(0.0, "reduced", 1200.0, -np.inf, 30), Step(0.0, "full", 1000.0, 900.0, 40))
    runs = {
        (scorer, arcs, mode): PruningRun(scorer, arcs, mode, 0.3, 0.02 * arcs, 0.5 * arcs, steps, kept)
        for scorer in ("a", "b")
        for arcs in (1.0, 2.0)
        for mode in ("fast", "optimal")
    }
    positions = [("a", 1.0, "fast"), ("b", 2.0, "optimal")]
    figure = plots.plot_pruning(positions, runs, GRAPH, plain=2.0, least=1000.0)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "a: 30% of the arcs"
    assert [title.split(":")[0] for title in titles[1::3]] == ["fast", "optimal"]
    optimal = figure.axes[4]
    assert optimal.lines[0].get_ydata().tolist() == [25.0, 50.0]
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"a", "b", "value of the restricted master", "best proven lower bound"} <= names


def test_duels_are_drawn_in_percent():
    figure = plots.plot_duels({"few": {"line": [(0.02, 0.01)], "two_hubs": [(0.03, 0.05)]}}, names=("x", "y"))
    points = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert points == [[[2.0, 1.0]], [[3.0, 5.0]]]
    assert figure.axes[0].get_legend().get_texts()[1].get_text() == "two hubs"


def row(name: str, median: float, **details: Any) -> dict[str, Any]:
    return {"name": name, "unit": "%", "median": median, "q25": median - 0.5, "q75": median + 0.5, "details": details}


def test_a_record_is_drawn_and_a_missing_one_says_so():
    rows = [
        row("500 trips: optimal, % of plain", 60.0),
        row("500 trips: optimal, gap", 0.8),
        row("500 trips: fast, network, % of plain", 6.0),
        row("500 trips: fast, network, gap", 2.0),
        row("1000 trips: fast, network, % of plain", 2.0),  # its gap is not recorded: no point
        *(  # two shares asked for, of which the arcs that every trip keeps are more
            row(f"500 trips, {share} % kept: network, gap", 100 / share, share=share, kept=[kept, kept + 1.0, 99.0])
            for share, kept in ((2, 7.0), (8, 9.5), (30, 30.0))
        ),
    ]
    left, right = plots.recorded_crews({"rows": rows}).axes
    assert [line.get_xydata().tolist() for line in left.lines[:2]] == [[[60.0, 0.8]], [[6.0, 2.0]]]
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["a  optimal", "c  fast, network", "500 trips"]
    assert [text.get_text() for text in left.texts] == ["a", "c"]
    assert right.lines[0].get_xydata().tolist() == [[8.0, 50.0], [10.5, 12.5], [31.0, 100 / 30]]
    for ax in plots.recorded_crews(None).axes:
        assert [text.get_text() for text in ax.texts] == ["nothing recorded yet"]
