"""What the figures of early exits draw: the data behind them, not their looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from course_lib import decision, measure, plots
from course_lib.instance.msdnet import MSDNet
from course_lib.plots.early_exit import mosaic
from course_lib.plots.exit_grid import grid_nodes

COSTS = [1e6, 2e6, 4e6]


@pytest.fixture(scope="module")
def tiny() -> MSDNet:
    return MSDNet.tiny().eval()


def stored(n: int, seed: int) -> list[torch.Tensor]:
    """Logits of three exits, the later the surer."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 5, generator=generator) * (k + 1) for k in range(3)]


@pytest.fixture
def study() -> decision.ExitStudy:
    validation, test = stored(200, 0), stored(300, 1)
    return decision.ExitStudy(
        tuple(COSTS), tuple(validation), validation[-1].argmax(1), tuple(test), test[-1].argmax(1)
    )


# The grid ------------------------------------------------------------------------------------------------------------


def test_grid_has_every_node_of_the_model_and_marks_what_an_exit_needs(tiny: MSDNet):
    nodes = grid_nodes(tiny, 16, 1)
    run_by_the_model = {node for k in range(4) for node in tiny.nodes(k)}
    assert {(n.layer, n.scale) for n in nodes if n.layer} == run_by_the_model
    assert {(n.layer, n.scale) for n in nodes if n.layer and n.needed} == set(tiny.nodes(0)) | set(tiny.nodes(1))
    assert all(n.needed for n in nodes if n.layer == 0)


@pytest.mark.parametrize("exit_index", [0, 1, 2, 3])
def test_channels_and_sides_are_those_of_the_feature_maps(tiny: MSDNet, exit_index: int):
    state = tiny.start(torch.zeros(1, 3, 16, 16))
    at = {(n.layer, n.scale): n for n in grid_nodes(tiny, 16, exit_index)}
    for k in range(exit_index + 1):
        tiny.advance(state, k)
    depth = sum(tiny.config.blocks[: exit_index + 1])
    assert state[-1].shape[1:] == (at[depth, 1].channels, at[depth, 1].side, at[depth, 1].side)


def test_grid_of_a_network_with_a_large_stem_starts_at_a_quarter_of_the_side():
    with torch.device("meta"):
        model = MSDNet.imagenet(step=4)
    assert [n.side for n in grid_nodes(model, 224, 0) if n.layer == 0] == [56, 28, 14, 7]


@pytest.mark.parametrize("exit_index", [-1, 4])
def test_an_exit_that_is_not_there_is_refused(tiny: MSDNet, exit_index: int):
    with pytest.raises(ValueError, match=f"exit_index: got {exit_index}, expected 0 to 3"):
        grid_nodes(tiny, 16, exit_index)


def test_drawn_grid_hatches_exactly_what_is_not_needed(tiny: MSDNet, hatched):
    grid, ruler = plots.exit_grid(tiny, 16, exit_index=1).axes
    unneeded = [n for n in grid_nodes(tiny, 16, 1) if not n.needed]
    assert len(hatched(grid)) == len(unneeded)
    assert len(hatched(ruler)) == 2
    lengths = [bar.get_width() for bar in ruler.patches]
    assert np.allclose(np.cumsum(lengths), np.array(tiny.exit_costs(16, convention="lazy")) / 1e6)


def test_pictures_stand_left_of_the_grid_with_the_exit_they_took(tiny: MSDNet, hatched):
    pictures = [(torch.rand(3, 16, 16), k) for k in (0, 2)]
    figure = plots.exit_grid(tiny, 16, exit_index=3, pictures=pictures)
    assert [ax.get_title() for ax in figure.axes[2:]] == ["left at exit 1", "left at exit 3"]
    assert hatched(figure.axes[0]) == []


# Curves, shares, histograms, gallery ---------------------------------------------------------------------------------


def test_staircase_never_falls_and_the_curve_is_sorted_by_cost(study: decision.ExitStudy):
    second_worse = study.test_logits[0] * 0 + torch.arange(5.0)  # always the last class
    study = dataclasses.replace(study, test_logits=(study.test_logits[0], second_worse, study.test_logits[2]))
    ax = plots.accuracy_cost_curve(study).axes[0]
    stair, exits, curve = ax.lines
    first, second, last = (100 * accuracy for accuracy in study.accuracies)
    assert second < first < last
    assert np.allclose(stair.get_ydata(), [first, first, last])
    assert np.allclose(exits.get_ydata(), [first, second, last])
    assert np.allclose(curve.get_xdata(), sorted(p.cost / 1e6 for p in study.sweep()))


def test_networks_share_a_panel_and_keep_their_colour():
    one, other = measure.CostCurve([1, 2], [0.5, 0.75]), measure.CostCurve([2, 3], [0.6, 0.8])
    figure = plots.accuracy_curves({"M": {"a": one, "b": other}, "ms": {"a": one}}, exits={"M": {"b": one}})
    left, right = figure.axes
    drawn = [line.get_xydata().tolist() for line in left.lines]
    assert drawn == [[[1, 50], [2, 75]], [[2, 60], [3, 80]], [[1, 50], [2, 75]]]
    assert left.lines[1].get_color() == left.lines[2].get_color() != left.lines[0].get_color()
    assert left.lines[0].get_marker() != left.lines[1].get_marker()
    assert (left.get_xlabel(), right.get_xlabel(), len(right.lines)) == ("M", "ms", 1)


def test_share_bars_have_the_heights_given():
    ax = plots.share_bars([0.5, 0.3, 0.2], {"seen": [0.4, 0.4, 0.2], "other": [0.1, 0.1, 0.8]}).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [0.5, 0.3, 0.2, 0.4, 0.4, 0.2, 0.1, 0.1, 0.8]


def test_histograms_count_those_still_there():
    confidence = torch.tensor([[0.9, 0.2], [0.3, 0.8], [0.2, 0.7], [0.1, 0.4]])
    first, last = plots.confidence_histograms(confidence, [0.5, float("-inf")]).axes
    leaving, staying = (stairs.get_data().values.sum() for stairs in first.patches)
    assert (leaving, staying) == (1, 3)
    leaving, staying = (stairs.get_data().values.sum() for stairs in last.patches)
    assert (leaving, staying) == (3, 0)
    assert [line.get_xdata()[0] for line in first.lines] == [0.5]
    assert list(last.lines) == []


def test_a_threshold_nobody_reaches_draws_no_line():
    confidence = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    axes = plots.confidence_histograms(confidence, [float("inf"), 0.5, float("-inf")]).axes
    assert [len(ax.lines) for ax in axes] == [0, 1, 0]


def test_mosaic_puts_each_picture_in_the_row_of_its_exit():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2) / 10
    canvas = mosaic(images, torch.tensor([1, 0, 1, 1]), 3, columns=2)
    assert canvas.shape == (12, 8, 3)
    corners = canvas[::4, ::4, 0]
    expected = torch.tensor([[0.1, 1.0], [0.0, 0.2], [1.0, 1.0]])  # a third picture of exit 2 finds no room; 1 is white
    assert torch.allclose(corners, expected)


def test_gallery_notes_shares_and_difficulty_even_of_an_empty_exit():
    images, taken = torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 0, 2])
    ax = plots.who_left_where(images, taken, 3, torch.tensor([0.1, 0.2, 0.3, 0.9])).axes[0]
    notes = [text.get_text() for text in ax.texts]
    assert notes == ["75 %, mean difficulty 0.20", "0 %, mean difficulty -", "25 %, mean difficulty 0.90"]


def test_dashboard_shows_the_point_of_its_rho_and_one_row_a_rho(study: decision.ExitStudy):
    images = torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    stored_points = {"study": study, "points": study.sweep([0.3, 1.5]), "images": images}
    figure = plots.early_exit_dashboard(0.6, **stored_points)
    point = study.at_rho(0.6)
    curve, shares = figure.axes[:2]
    assert np.allclose(curve.lines[-1].get_xydata(), [[point.cost / 1e6, 100 * point.accuracy]])
    assert [bar.get_height() for bar in shares.patches] == [*point.planned, *point.realised]
    assert len(plots.early_exit_dashboard([0.3, 1.0, 1.7], **stored_points).axes) == 3 * len(figure.axes)


# What was really run -------------------------------------------------------------------------------------------------


def test_rows_computed_and_skipped_fill_the_batch(hatched):
    figure = plots.rows_per_block({"static": [8, 8], "infer": [8, 3]}, 8)
    assert [bar.get_width() for bar in figure.axes[1].patches] == [8, 0, 3, 5]
    assert [bar.get_width() for bar in hatched(figure.axes[1])] == [0, 5]


def test_calls_are_drawn_one_bar_each_even_where_there_are_none():
    figure = plots.block_calls({"infer": [[4, 4], [2, 1]], "queue": [[4, 4], []]}, 4)
    bars = [[bar.get_height() for bar in ax.patches] for ax in figure.axes]
    assert bars == [[4, 4], [4, 4], [2, 1], []]
    assert figure.axes[2].texts[0].get_text() == "2 calls, 2 rows each"
