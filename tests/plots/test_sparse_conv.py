"""The figures of sparse convolution: what they compute, and what they show."""

import pytest
import torch
from matplotlib.figure import Figure

from course_lib import plots


def texts(figure: Figure) -> str:
    """Every text that stands in a figure, titles included."""
    found = [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title, ax._left_title]]
    return "\n".join(found + [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()])


def square(*rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "#" for mark in row] for row in rows])


def test_touched_positions_are_the_nine_around():
    mask = square("....", ".#..", "....", "...#")
    assert torch.equal(plots.touched_positions(mask), square("###.", "###.", "####", "..##"))
    assert not plots.touched_positions(torch.zeros(3, 4, dtype=torch.bool)).any()


def test_the_picture_counts_what_it_draws():
    together, apart = torch.zeros(2, 8, 8, dtype=torch.bool)
    together[3:5, 3:5] = True
    apart[1:6:4, 1:6:4] = True
    seconds = {"index": 1e-5, "gather": 2e-5, "product": 4e-4, "scatter": 3e-5}
    figure = plots.gather_product_scatter({"side by side": together, "apart": apart}, seconds)
    shown = texts(figure)
    assert "side by side: L = 64, A = 4, touched 16" in shown
    assert "apart: L = 64, A = 4, touched 36" in shown
    assert shown.count("4 x 9C") == 2
    bar = figure.axes[-1].patches
    assert [patch.get_width() for patch in bar[:4]] == pytest.approx([0.01, 0.02, 0.4, 0.03])


def test_values_and_outlines_of_small_maps():
    mask = square("#.", "..")
    figure = plots.cell_maps({"dense": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "exact": mask.float()}, mask)
    assert [len(ax.patches) for ax in figure.axes] == [1, 1]
    assert [len(ax.texts) for ax in figure.axes] == [0, 3]  # exact zeros are written out


def test_accesses_are_drawn_program_by_program():
    mask = square("##.", "..#")
    number = torch.arange(6.0).view(1, 1, 2, 3) + 1
    reads = torch.nn.functional.unfold(number, 3, padding=1)[0, :, mask.flatten()].long() - 1
    figure = plots.kernel_accesses(mask, reads, tile=2)
    lines = [line for line in figure.axes[1].lines if line.get_marker() in ("o", "s")]
    inside = [len(line.get_xdata()) for line in lines if line.get_fillstyle() == "full"]
    assert sum(inside) == int((reads >= 0).sum()) and len(inside) == 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]


def test_the_dashboard_shows_shares_and_times():
    mask = square("#...", "....", "....", "....")
    setting = {"title": "one", "mask": mask, "shares": (0.0625, 0.25), "macs": 3e6, "dense_macs": 12e6}
    figure = plots.mask_dashboard([{**setting, "seconds": {"dense": 2e-3, "skip": 1e-3}}, {**setting, "seconds": None}])
    shown = texts(figure)
    assert "0.06" in shown and "0.25" in shown and "0.25 of dense" in shown
    assert " 2.00" in shown and "not measured" in shown


@pytest.mark.parametrize(
    ("density", "tiles", "rounds"), [(0.25, 98, 1), (0.33, 130, 1), (0.34, 134, 2), (1, 392, 3), (0, 0, 0)]
)
def test_waves_by_hand(density, tiles, rounds):
    """128 images of 14x14 positions, 256 channels, tiles of 128 by 128, 132 processors."""
    assert plots.waves(density, 128 * 14 * 14, 256) == (tiles, rounds)


def test_staircase_marks_and_lies_above_the_work():
    figure = plots.wave_staircase(25088, 256, marks=(0.25, 0.34))
    steps, work = figure.axes[0].lines[:2]
    assert (steps.get_ydata() >= work.get_ydata()).all()
    assert "d = 0.25: 98 tiles" in texts(figure)


def test_two_timings_draw_the_break_even():
    figure = plots.break_even_lines([(0.5, 3e-3)], dense_s=4e-3, fixed_s=1e-3, full_s=5e-3)
    assert "predicted 0.75" in texts(figure)
    always = plots.break_even_lines([(0.5, 1e-3)], dense_s=4e-3, fixed_s=1e-3, full_s=2e-3)
    assert "predicted" not in texts(always)


def test_curves_keep_their_names():
    figure = plots.halo_shares({"pixels": [(0.1, 0.6), (1, 1)], "disc": [(0.1, 0.13), (1, 1)]})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["pixels", "disc"]
    figure = plots.speedup_over_density({"cells": [(0.1, 4), (1, 0.9)]}, break_evens={"cells": 0.85})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["1/d, the promise", "cells", "break-even"]


def test_recorded_runs_or_none():
    name = "block 512-128 at 28, N=1"
    rows = [
        {"name": f"{name}: cells, d {d:g}: skip", "median": speed,
         "details": {"kind": "cells", "way": "skip", "density": d, "floor": 2 / d}}
        for d, speed in ((0.1, 4.0), (1.0, 0.9))
    ]  # fmt: skip
    rows.append(
        {"name": f"{name}: cells, break-even", "median": 0.9, "details": {"kind": "cells", "way": "break-even"}}
    )
    rows.append({"name": f"{name}: dense, channels last", "median": 1.0, "details": {}})
    figure = plots.recorded_skipping({"rows": rows}, [name, "block of which nothing is known"])
    assert [ax.get_title() for ax in figure.axes] == [name, "block of which nothing is known"]
    assert "no recorded run yet" in texts(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "cells" in labels and "floor: multiply-adds and bytes" in labels
    assert texts(plots.recorded_skipping(None, [name])).count("no recorded run yet") == 1
