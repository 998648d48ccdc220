"""What the figures of recorded benches draw: the numbers of the record, and that they say so where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from course_lib import plots


def test_without_a_record_the_prediction_says_so(hatched):
    figure = plots.recorded_speed({"shapes": None}, 3.0)
    assert "no recorded run yet" in figure.axes[0].texts[0].get_text()
    assert [bar.get_width() for bar in hatched(figure.axes[0])] == [3.0]


def test_a_record_is_drawn_by_batch_and_contender():
    def row(name: str, unit: str, median: float) -> dict:
        return {"name": name, "unit": unit, "median": median, "q25": median - 0.1, "q75": median + 0.1}

    rows = [
        row("shapes, batch 1: adaptive / static", "x", 2.0),
        row("shapes, batch 32: queue / static", "x", 3.0),
        row("shapes, batch 32: queue", "images/s", 5000.0),
        row("shapes: multiply-adds, static / adaptive", "x", 4.0),
        row("digits, batch 1: adaptive / static", "x", 9.0),
    ]
    left, right = plots.recorded_speed({"shapes": {"rows": rows}, "other": None}, 2.5).axes
    assert [text.get_text() for text in left.texts] == ["2.00", "3.00"]
    assert "4.0" in left.get_title() and "2.5" in right.get_title()
    assert "no recorded run yet" in right.texts[0].get_text()


def row(name: str, unit: str, values: list[float], **details: Any) -> dict[str, Any]:
    return {"name": name, "unit": unit, "median": float(np.median(values)), "details": {"values": values, **details}}


def at_rho(network: str, rho: float, values: list[float], macs: list[float]) -> dict[str, Any]:
    return row(f"shapes: {network} at rho {rho:g}", "%", values, network=network, rho=rho, macs=macs)


BUDGETED = {
    "rows": [
        at_rho("MSDNet", 0.4, [80.0, 82.0, 81.0], [1e6, 2e6, 3e6]),
        at_rho("MSDNet", 1.0, [90.0, 90.0, 90.0], [4e6, 4e6, 4e6]),
        at_rho("L2W-DEN", 0.4, [81.0, 82.0, 83.0], [1e6, 2e6, 3e6]),
        at_rho("L2W-DEN", 1.0, [89.0, 91.0, 90.5], [4e6, 4e6, 4e6]),
        row("shapes, batch 32: MSDNet / RANet at equal accuracy", "x", [1.1, 1.3, 1.2]),
        row("shapes, batch 32: MSDNet / RANet at equal accuracy, queue", "x", [1.5, 1.6, 1.7]),
        row("shapes, batch 256, curve: MSDNet", "images/s", [4000.0], network="MSDNet", rho=0.4, accuracy=81.0),
        row("shapes: MSDNet, exit 1", "%", [70.0], macs=5e5),
    ]
}  # fmt: skip


def test_networks_are_compared_seed_by_seed_with_and_without_queue():
    drawn, empty = plots.recorded_networks({"shapes": BUDGETED, "other": None}).axes
    marks = [line.get_xdata() for line in drawn.lines if len(np.atleast_1d(line.get_ydata())) in (1, 3)]
    assert [np.atleast_1d(x).tolist() for x in marks] == [[1.1, 1.3, 1.2], [1.2], [1.5, 1.6, 1.7], [1.6]]
    assert "no recorded run yet" in empty.get_title()


def test_curves_show_the_median_and_the_range_of_the_seeds():
    work, clock = plots.recorded_curves(BUDGETED, ["MSDNet"]).axes
    assert work.lines[0].get_xydata().tolist() == [[2.0, 81.0], [4.0, 90.0]]
    band = work.collections[0].get_paths()[0].vertices
    assert {80.0, 82.0} <= set(band[:, 1])
    assert clock.lines[0].get_xydata().tolist() == [[0.25, 81.0]]


def test_training_is_compared_seed_by_seed():
    ax = plots.recorded_training({"shapes": BUDGETED}).axes[0]
    drawn = [np.atleast_1d(line.get_ydata()).tolist() for line in ax.lines[1:]]
    assert drawn == [[1.0, 0.0, 2.0], [1.0], [-1.0, 1.0, 0.5], [0.5]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.4", "1"]


@pytest.mark.parametrize("draw", [plots.recorded_networks, plots.recorded_training])
def test_nothing_recorded_is_said(draw):
    assert "no recorded run yet" in draw({"shapes": None}).axes[0].get_title()


def test_no_curve_without_a_record():
    work, clock = plots.recorded_curves(None).axes
    assert "no recorded run yet" in work.get_title()
    assert sum(len(line.get_xdata()) for line in clock.lines) == 0


def test_readers_stand_where_they_were_measured():
    def about(name: str, median: float) -> dict:
        return {"name": name, "unit": "%", "median": median, "q25": median - 1, "q75": median + 1, "details": {}}

    rows = [about("read all: right", 73.0), about("read all: read", 100.0)]
    rows += [about("Skim-RNN: right", 71.0), about("Skim-RNN: read", 20.0), about("Skim-RNN: work", 30.0)]
    ax = plots.recorded_readers({"rows": rows}).axes[0]
    assert [bars.get_label() for bars in ax.containers] == ["read all", "Skim-RNN"]
    spots = [(float(bars[0].get_xdata()[0]), float(bars[0].get_ydata()[0])) for bars in ax.containers]
    assert spots == [(100.0, 73.0), (20.0, 71.0)]
    assert "nothing recorded" in plots.recorded_readers(None).axes[0].texts[0].get_text()
