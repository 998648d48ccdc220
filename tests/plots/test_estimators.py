"""What the figures of the gradients chapter draw: the data behind them, not their looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib import plots
from course_lib.plots.estimators import root_mean_square
from course_lib.training import gradients
from course_lib.training.gradients import ESTIMATORS, EstimatorError

P = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


def made_up(mean: float, spread: float) -> EstimatorError:
    ones = torch.ones(3, dtype=torch.float64)
    return EstimatorError(P, 0.1 * ones, mean * ones, spread * ones, samples=100)


def test_root_mean_square():
    assert root_mean_square(torch.tensor([3.0, -3.0])) == 3.0


def test_curves_show_mean_exact_and_a_band_of_one_deviation():
    figure = plots.estimator_curves({"a": made_up(0.3, 0.2), "b": made_up(0.1, 0.0)})
    first, second = figure.axes
    assert [ax.get_title() for ax in (first, second)] == ["a", "b"]
    mean, exact = first.get_lines()
    assert np.allclose(mean.get_ydata(), 0.3)
    assert np.allclose(exact.get_ydata(), 0.1)
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.1), pytest.approx(0.5))


def test_curves_leave_no_empty_panel():
    figure = plots.estimator_curves({name: made_up(0.1, 0.1) for name in "abcd"}, columns=3)
    assert len(figure.axes) == 4


def test_bars_are_bias_and_spread_and_the_tick_is_the_noise():
    figure = plots.bias_and_spread({"a": made_up(0.3, 0.2), "b": made_up(0.0, 0.4)})
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.2, 0.1])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.2, 0.4])
    noise, size = left.get_lines()
    assert list(noise.get_xdata()) == pytest.approx([0.02, 0.04])
    assert list(size.get_xdata()) == pytest.approx([0.1, 0.1])
    assert "dotted: the gradient itself, 0.100" in [text.get_text() for text in left.texts]


def test_noise_leaves_out_what_has_none():
    figure = plots.noise_by_gates({"a": [0.0, 0.1, 0.2]}, [1, 2, 4], signal=0.05)
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [2, 4]
    assert list(line.get_ydata()) == [0.1, 0.2]


@pytest.mark.parametrize("hard", [False, True])
def test_the_dashboard_counts_gates_and_names_the_mean(hard: bool):
    figure = plots.gate_dashboard([(0.3, 1.0, hard)], samples=2000)
    left, right = figure.axes
    heights = [bar.get_height() for bar in left.patches]
    assert sum(heights) == pytest.approx(1)
    if hard:
        assert heights[0] == pytest.approx(0.7, abs=0.05)
        assert heights[0] + heights[-1] == pytest.approx(1)
    exact, mean = right.get_lines()
    assert exact.get_xdata()[0] == pytest.approx(0.021)
    estimator = gradients.through(lambda a, g: gradients.gumbel(a, g, tau=1.0, hard=hard))
    samples = gradients.gradient_samples(estimator, 0.3, gradients.GateProblem(), samples=2000)
    assert mean.get_xdata()[0] == pytest.approx(float(samples.mean()))


def test_paths_and_levels_are_drawn_and_named():
    path = gradients.settle(ESTIMATORS["exact"], steps=20)
    figure = plots.settling({"exact": path}, levels={"here": 0.45})
    ax = figure.axes[0]
    drawn, level = ax.get_lines()
    assert np.allclose(drawn.get_ydata(), path)
    assert set(level.get_ydata()) == {0.45}
    assert [text.get_text() for text in ax.texts] == ["here"]


def test_maps_and_accuracies_are_those_of_the_runs():
    runs = {name: gradients.train_gated(name, steps=3) for name in ("sigmoid", "REINFORCE")}
    figure = plots.gate_maps(runs)
    assert len(figure.axes) == 2
    run = runs["sigmoid"]
    assert figure.axes[0].get_title() == f"sigmoid\nopen: easy {run.open_easy:.0%}, hard {run.open_hard:.0%}"
    soft, hard = plots.soft_and_hard(runs).axes[0].get_lines()
    assert list(soft.get_xdata()) == [one.soft_accuracy for one in runs.values()]
    assert list(hard.get_xdata()) == [one.accuracy for one in runs.values()]


def test_the_step_has_no_slope():
    left, right = plots.forward_and_backward().axes
    assert set(left.get_lines()[0].get_ydata()) == {0, 1}
    assert not np.any(right.get_lines()[0].get_ydata())
    assert max(right.get_lines()[1].get_ydata()) == pytest.approx(0.25)
