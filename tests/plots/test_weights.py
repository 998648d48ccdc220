"""What the figures of sample weights draw: the data behind them, not their looks."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch

from course_lib import decision, plots
from course_lib.plots.weights import paired_gains, served


def study(seed: int) -> decision.ExitStudy:
    generator = torch.Generator().manual_seed(seed)
    logits = [tuple(torch.randn(80, 3, generator=generator) * (k + 1) for k in range(2)) for _ in range(2)]
    labels = torch.randint(0, 3, (80,), generator=generator)
    return decision.ExitStudy((1.0, 3.0), logits[0], labels, logits[1], labels)


HARD = torch.tensor([False, False, False, True, True])
LEFT = torch.tensor([0, 0, 1, 1, 1])


def test_served_counts_easy_and_hard_at_each_exit():
    assert served(HARD, LEFT, 3).tolist() == [[0.4, 0.0], [0.2, 0.4], [0.0, 0.0]]
    assert served(HARD[:0], LEFT[:0], 2).tolist() == [[0, 0], [0, 0]]


def test_bars_of_practice_are_full_and_those_of_the_examination_hatched_beyond_what_was_asked():
    practised = torch.tensor([True, False, False, False])
    trained, answered = plots.practice_and_exam(practised, HARD, LEFT, 3).axes
    widths = [round(patch.get_width()) for patch in answered.patches]
    assert widths == [40, 0, 60, 20, 40, 40, 0, 0, 100]
    assert [patch.get_hatch() for patch in answered.patches[2::3]] == ["////"] * 3
    assert [round(patch.get_width()) for patch in trained.patches[:3]] == [75, 25, 0]  # of the training samples
    assert {text.get_text() for text in trained.texts} == {"25 % hard"}
    assert {text.get_text() for text in answered.texts} == {"0 % hard", "67 % hard", "nobody"}
    assert all(text.get_position()[0] > 100 for text in answered.texts)  # beside the bars, not on the pale part


def test_weight_map_is_sorted_by_loss_and_hatches_negative_cells():
    weights = torch.tensor([[1.5, 0.5], [-0.2, 2.2], [1.0, 1.0]])
    figure = plots.weight_loop(weights, torch.tensor([2.0, 3.0, 1.0]), [3, 2], {"a": 0.5, "b": -1.0})
    map_, loop, arrows = figure.axes
    assert np.allclose(map_.images[0].get_array(), [[1.0, 1.0], [1.5, 0.5], [-0.2, 2.2]])
    low, high = map_.images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(1)
    assert [patch.get_xy() for patch in map_.patches] == [(-0.5, 1.5)]  # the one negative cell, last row
    words = [text.get_text() for text in loop.texts]
    assert {"1", "2", "3"} <= set(words)
    assert any("5 judges" in word for word in words)
    words = [text.get_text() for text in arrows.texts]
    assert "a: 60°, weight rises" in words
    assert "b: 180°, weight falls" in words


def test_bins_of_the_loop_are_as_long_as_their_counts():
    loop = plots.weight_loop(torch.ones(4, 2), torch.arange(4.0), [167, 125, 94, 70, 56], {"a": 1.0}).axes[1]
    widths = [p.get_width() for p in loop.patches if isinstance(p, mpl.patches.Rectangle)]
    assert np.allclose(np.array(widths) / sum(widths), np.array([167, 125, 94, 70, 56]) / 512)


def test_agreement_beyond_rounding_is_drawn():
    ax = plots.gradient_agreement({"a": 1.0000001, "b": -1.0000001}).axes[0]
    assert any(text.get_text() == "a: 0°, weight rises" for text in ax.texts)


def test_pairs_of_gradients_start_from_points_of_their_own():
    beside = plots.gradient_agreement({"a": 0.5, "b": -0.5}).axes[0]
    below = plots.weight_loop(torch.ones(3, 2), torch.arange(3.0), [2, 1], {"a": 0.5, "b": -0.5}).axes[2]
    for ax, moving in ((beside, 0), (below, 1)):
        starts = [text.xyann for text in ax.texts if getattr(text, "arrow_patch", None)]
        assert len(starts) == 4
        assert len({start[moving] for start in starts}) == 2
        assert len({start[1 - moving] for start in starts}) == 1


def test_weights_by_group_marks_the_means_of_every_run():
    weights = [torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.ones(3, 2)]
    rows = [torch.tensor([True, True, False]), torch.tensor([False, True, True])]
    ax = plots.weights_by_group(weights, {"easy": rows, "hard": [~mask for mask in rows]}).axes[0]
    marks = [line.get_ydata().tolist() for line in ax.lines if line.get_marker() not in ("", "None")]
    assert marks == [[2.0, 3.0], [1.0, 1.0], [5.0, 6.0], [1.0, 1.0]]
    places = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() not in ("", "None")])
    assert len(np.unique(places.round(6))) == 8  # nobody hides behind another
    assert np.abs(places - places.round()).max() < 0.5


def test_bars_by_exit_draws_each_number():
    ax = plots.bars_by_exit({"easy": torch.tensor([1.0, -1.0]), "hard": torch.tensor([-2.0, 2.0])}, "gain").axes[0]
    assert [bar.get_height() for bar in ax.patches] == [1, -1, -2, 2]


def test_hard_samples_have_one_colour_in_every_figure():
    rows = {"easy": [torch.tensor([True, False])], "hard": [torch.tensor([False, True])]}
    marks = plots.weights_by_group([torch.ones(2, 2)], rows).axes[0].lines[:2]
    bars = plots.bars_by_exit({"easy": torch.ones(2), "hard": torch.ones(2)}, "gain").axes[0].containers
    shares = plots.practice_and_exam(HARD, HARD, LEFT, 3).axes[1].patches
    for i, mark in enumerate(marks):
        colour = mpl.colors.to_rgba(mark.get_color())
        assert colour == bars[i][0].get_facecolor() == shares[i].get_facecolor()


def test_paired_gains_are_differences_run_by_run():
    base, other = [study(0), study(1)], [study(2), study(3)]
    gains = paired_gains(base, other, [0.5, 1.0])
    assert gains.shape == (2, 2)
    expected = 100 * (other[1].at_rho(0.5).accuracy - base[1].at_rho(0.5).accuracy)
    assert gains[1, 0] == pytest.approx(expected)
    assert np.allclose(paired_gains(base, base, [0.5]), 0)


def test_accuracy_spread_draws_means_and_every_difference():
    base, other = [study(0), study(1), study(4)], [study(2), study(3), study(5)]
    curve, gain = plots.accuracy_spread({"equal": base, "learned": other}, [0.5, 1.0]).axes
    mean = np.mean([100 * run.at_rho(1.0).accuracy for run in base])
    assert curve.lines[0].get_ydata()[1] == pytest.approx(mean)
    assert len(curve.collections) == 2
    drawn = sorted(y for line in gain.lines if line.get_marker() == "." for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(paired_gains(base, other, [0.5, 1.0]).flatten()))


def test_dashboard_counts_negative_weights_and_shows_the_limits():
    weights = torch.tensor([[-0.5, 2.5], [1.0, 1.0]])
    wide = ("ε = 1.5", weights, torch.tensor([1.0, 2.0]), [3, 1], (-0.5, 2.5))
    safe = ("ε = 0.5", torch.ones(2, 2), torch.tensor([1.0, 2.0]), [2, 2], (0.5, 1.5))
    axes = [ax for ax in plots.weight_dashboard([wide, safe]).axes if ax.get_label() != "<colorbar>"]
    assert [bar.get_width() for bar in axes[0].patches] == [3, 1]
    assert axes[2].get_title() == "-0.50 to 2.50 possible; 1 of 4 negative"
    assert axes[5].get_title() == "0.50 to 1.50 possible; cannot be negative"
    assert [line.get_xdata()[0] for line in axes[2].lines] == [-0.5, 2.5, 1]


def test_dashboard_has_the_same_scales_at_every_setting():
    def scales(weights, limits):
        _, middle, right, bar = plots.weight_dashboard([("", weights, torch.tensor([1.0, 2.0]), [3, 1], limits)]).axes
        assert bar.get_ylabel() == "weight"
        return middle.images[0].get_clim(), right.get_xlim()

    weak, strong = scales(torch.full((2, 2), 0.9), (0.2, 1.8)), scales(torch.tensor([[-0.5, 2.5]] * 2), (-0.5, 2.5))
    assert weak == strong == ((-0.5, 2.5), (-3.05, 5.05))
    assert scales(torch.ones(2, 2), (-4.0, 6.0))[1] == (-4.05, 6.05)  # nothing lies beyond the axis
