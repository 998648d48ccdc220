"""What the figures of the skimming chapter draw: the data behind them, not their looks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from course_lib import data, plots
from course_lib.plots import skimming as drawn
from course_lib.temporal.skimming import PADDING, PLANS, READ, SKIMMED, UNREAD, SkipRNN

SMALL = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()


def filled(ax) -> list[float]:
    """Heights of the bars and boxes that stand for work done."""
    return [patch.get_height() for patch in ax.patches if not patch.get_hatch()]


def test_sawtooth_fires_as_the_formula_says():
    figure = plots.sawtooth([0.5, 0.25, 0.2], steps=13)
    assert [len(filled(ax)) for ax in figure.axes] == [13, 7, 5]
    assert all(len(ax.patches) == 13 for ax in figure.axes)


def test_strip_outlines_the_markers_and_fills_the_updates():
    torch.manual_seed(0)
    sequences, reader = data.adding(3, length=12, seed=1), SkipRNN(2, 4)
    torch.nn.init.constant_(reader.gate.bias, -1.5)
    trace = reader(sequences.inputs)
    figure = plots.skip_strip(sequences.inputs, trace, row=2)
    top, gate, ticks, change = figure.axes
    outlined = [i for i, patch in enumerate(top.patches) if patch.get_linewidth() > 2]
    assert outlined == sequences.markers[2].tolist()
    assert [text.get_weight() for text in top.texts].count("bold") == 2
    updates = int(trace.updates[2].sum())
    assert len(filled(gate)) == len(filled(ticks)) == updates < 12
    assert np.allclose([bar.get_height() for bar in change.patches], trace.change[2].numpy())


def test_read_by_step_shows_shares_and_the_floor():
    markers = torch.tensor([[0, 2], [1, 3]])
    updates = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    figure = plots.read_by_step(updates, markers)
    (ax,) = figure.axes
    assert filled(ax) == [1.0, 0.5, 0.5, 0.0]
    (line,) = ax.get_lines()
    assert line.get_ydata().tolist() == [1.0, 0.5, 1.0, 0.5]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "updates, 50%"
    assert labels[2] == "needed to find them, 75%"


def test_training_curves_are_means_over_a_window():
    figure = plots.skip_training([4.0, 2.0, 0.5, 0.5], [1.0, 1.0, 0.5, 0.0], solved=0.1, window=2)
    errors, used = (ax.get_lines()[0].get_ydata().tolist() for ax in figure.axes)
    assert errors == [3.0, 1.25, 0.5]
    assert used == [1.0, 0.75, 0.25]


def test_highlighted_words_differ_in_more_than_colour():
    words = ["read", "skim", "jump", "behind"]
    figure = plots.highlighted_text({"a title": (words, torch.tensor([READ, SKIMMED, UNREAD, PADDING]))})
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert texts["a title"].get_weight() == "bold"
    assert texts["skim"].get_style() == "italic"
    assert texts["jump"].get_fontsize() == texts["behind"].get_fontsize() < texts["read"].get_fontsize()
    # one line under what was read, one through what was not; the key has one of each, too
    assert len(figure.axes[0].get_lines()) == 3 + 2
    level = {round(line.get_ydata()[0] - texts["read"].get_position()[1], 2) for line in figure.axes[0].get_lines()[:3]}
    assert len(level) == 2


def test_words_are_laid_out_without_overlap_and_within_the_width():
    words = ["word" * (1 + i % 5) for i in range(60)]
    placed = drawn._lay_out(words, torch.full((60,), READ), 5.0)
    assert len(placed) == 60
    for (word, mark, at, line), (*_, following, line_after) in itertools.pairwise(placed):
        end = at + drawn._extent(word, mark)
        assert end <= 5.0
        assert (line_after == line and following > end) or (line_after == line + 1 and following == 0)


def test_an_empty_text_is_no_accident():
    figure = plots.highlighted_text({"nothing": ([], torch.zeros(0))})
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing"]


def test_dashboard_marks_the_price():
    setting = (["a", "b"], torch.tensor([READ, UNREAD]), torch.tensor([1.0, 0.2]), 0.1)
    figure = plots.reading_dashboard([setting, setting], {0.0: (1.0, 1.0), 0.1: (0.5, 0.9)})
    assert len(figure.axes) == 6
    gate, points, _ = figure.axes[:3]
    assert len(filled(gate)) == 1
    diamond = points.get_lines()[1]
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == (0.5, 0.9)


@pytest.mark.parametrize(("plan", "computed"), [("one_by_one", 6), ("masked", 12), ("compacted", 6), ("own_pace", 6)])
def test_plans_compute_what_they_cost(plan, computed):
    cells, useful = drawn._grid(SMALL.numpy(), plan)
    assert int(cells.sum()) == computed
    assert int(useful.sum()) == 6
    assert not (useful & ~cells).any()


def test_plans_are_drawn_with_their_bill():
    figure = plots.batch_plans(SMALL)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        *("one by one: 6 rows, 6 calls", "masked: 12 rows, 4 calls"),
        *("compacted: 6 rows, 4 calls", "own pace: 6 rows, 2 calls"),
    ]
    assert len(titles) == len(PLANS)
    assert [len(filled(ax)) for ax in figure.axes] == [6, 6, 6, 6]


def test_times_are_relative_to_the_first_plan():
    figure = plots.plan_times({"all": (2.0, 100, 10), "half": (1.0, 20, 5)})
    values = [[bar.get_width() for bar in ax.patches] for ax in figure.axes]
    assert values == [[1.0, 0.5], [1.0, 0.2], [1.0, 0.5]]


def test_shares_and_times_and_the_fused_line():
    figure = plots.share_and_time([1.0, 0.5], [1.0, 0.6], fused=0.2)
    _, measured, fused = figure.axes[0].get_lines()
    assert measured.get_xydata().tolist() == [[1.0, 1.0], [0.5, 0.6]]
    assert fused.get_ydata()[0] == 0.2


def test_work_is_drawn_from_little_to_much():
    figure = plots.accuracy_by_work({"one": [(3000.0, 1.0), (1000.0, 0.9)], "two": [(2000.0, 0.8)]})
    first, second = figure.axes[0].get_lines()
    assert first.get_xydata().tolist() == [[1.0, 0.9], [3.0, 1.0]]
    assert second.get_marker() != first.get_marker()
