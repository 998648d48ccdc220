"""What the pictures of lanes draw: the data behind them, not their looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Polygon
from scipy.stats import spearmanr

from course_lib import plots
from course_lib.plots.lanes import lane_blocks
from course_lib.spatial.ranet import RANet


def test_blocks_of_the_default_cifar_network_as_the_card_lists_them():
    blocks = lane_blocks(RANet.cifar(10), 32)
    assert [(block.channels, block.side_out) for block in blocks if block.lane == 1] == [
        *[(100, 16), (92, 8), (140, 8), (188, 8)]
    ]
    assert [block.side for block in blocks] == [8, 8, 16, 16, 8, 8, 32, 32, 16, 16, 8, 8]
    assert [block.exit_index for block in blocks] == [0, 1, None, None, 2, 3, *[None] * 4, 4, 5]
    assert all(block.fusion == (block.exit_index is None) for block in blocks)


@pytest.mark.parametrize(("size", "build"), [(12, RANet.tiny), (32, lambda: RANet.cifar(10, scales=(1, 2, 3, 3)))])
def test_blocks_agree_with_what_really_runs(size, build):
    model = build().eval()
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[2], *out[0].shape[1:3])))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    assert [(block.side, block.channels, block.side_out) for block in lane_blocks(model, size)] == seen


def hatched(figure, axes=0):
    patches = [patch for patch in figure.axes[axes].patches if isinstance(patch, Polygon)]
    return [patch.get_hatch() == plots.SKIPPED["hatch"] for patch in patches]


def test_what_the_exit_does_not_need_is_hatched_and_the_stem_never():
    model = RANet.cifar(10)
    figure = plots.lanes(model, 32, exit_index=2)
    assert hatched(figure) == [False] * 5 + [True] * 7 + [False]
    assert hatched(plots.lanes(model, 32, exit_index=5)) == [False] * 13


def test_bars_end_at_the_costs():
    model = RANet.tiny()
    figure = plots.lanes(model, 16, exit_index=3, picture=torch.rand(3, 16, 16))
    bars = figure.axes[1].patches
    ends = [max(bar.get_x() + bar.get_width() for bar in bars[3 * k : 3 * k + 3]) for k in range(4)]
    assert ends == pytest.approx([cost / 1e6 for cost in model.exit_costs(16)])


def test_without_the_bars():
    figure = plots.lanes(RANet.tiny(), 16, exit_index=0, costs=False)
    assert len(figure.axes) == 1
    assert hatched(figure) == [False] + [True] * 4 + [False]


def test_no_such_exit():
    with pytest.raises(ValueError, match="exit_index: got 4, expected 0 to 3"):
        plots.lanes(RANet.tiny(), 16, exit_index=4)


def test_dashboard_lights_the_lanes_up_to_the_exit_taken():
    model = RANet.tiny()
    sure, unsure = torch.tensor([9.0, 0.0]), torch.tensor([0.1, 0.0])
    logits = [
        torch.stack([sure, unsure, unsure]),
        torch.stack([unsure, sure, unsure]),
        *[torch.stack([unsure] * 3)] * 2,
    ]
    figure = plots.lanes_dashboard(
        model, torch.rand(3, 3, 16, 16), logits, [0.9, 0.9, 0.9, 0.0], titles=["a", "b", "c"]
    )
    titles = [ax.get_title() for ax in figure.axes]
    assert [title for title in titles if "leaves" in title] == [f"leaves at exit {k}" for k in (1, 2, 4)]
    assert [title for title in titles if " M of " in title] == [
        *["0.57 M of 6.25 M", "1.91 M of 6.25 M", "6.25 M of 6.25 M"]
    ]
    lit = [sum(not skipped for skipped in hatched(figure, i)) for i, title in enumerate(titles) if "lanes" in title]
    assert lit == [2, 4, 6]  # the stem counts


def test_size_and_noise_tells_which_of_the_two_it_was():
    generator = torch.Generator().manual_seed(0)
    radius, noise = torch.rand(800, generator=generator) + 1, torch.rand(800, generator=generator)
    exit_index = (4 * (2 - radius)).long()
    figure = plots.size_and_noise(radius, noise, exit_index, 4)
    left, middle, table = figure.axes
    assert left.get_title() == f"rank correlation {spearmanr(radius, exit_index).statistic:.2f}"
    assert float(left.get_title().split()[-1]) < -0.9
    assert abs(float(middle.get_title().split()[-1])) < 0.1
    means = np.array([float(text.get_text()) for text in table.texts]).reshape(4, 4)
    assert np.allclose(means, [[4], [3], [2], [1]], atol=0.11)


def test_an_exit_nobody_took_leaves_a_gap():
    radius = torch.linspace(1, 2, 20)
    exit_index = torch.tensor([0, 3]).repeat(10)
    assert len(plots.size_and_noise(radius, radius.flip(0), exit_index, 4).axes) == 3
