"""Figures of networks that choose patches: what they compute before they draw, and that they draw."""

import pytest
import torch

from course_lib import plots
from course_lib.plots.granularity import last_below_one
from course_lib.spatial.lasnet import LASNet, block_kernels, break_even, predict_block, stage_blocks
from course_lib.spatial.lasnet.hardware import HardwareSpec

V100 = HardwareSpec.v100()


def texts(figure):
    """All words in a figure."""
    return [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title, *ax.get_yticklabels()]]


def test_last_below_one():
    assert last_below_one([0.1, 0.2, 0.3], [0.5, 0.9, 1.1]) == 0.2
    assert last_below_one([0.1, 0.2], [1.0, 1.1]) == 0
    assert last_below_one([0.1, 1.0], [0.1, 0.9]) == 1.0


def test_ratios_by_rate_are_the_predictors():
    curves = plots.ratios_by_rate(V100, 1, (1, 4))
    assert list(curves) == ["S = 1", "S = 4"]
    block = stage_blocks(1, 2)[-1]
    for name, s in (("S = 1", 1), ("S = 4", 4)):
        rates, ratios = curves[name]
        assert ratios[-1] == predict_block(V100, granularity=s, rate=1.0, **block) / predict_block(V100, **block)
        assert ratios == sorted(ratios)
        assert last_below_one(rates, ratios) == pytest.approx(break_even(V100, granularity=s, **block), abs=0.03)


def test_patch_decision_counts_what_it_draws():
    logits = torch.tensor([[1.0, -1.0], [0.0, -2.0]])
    halo = torch.zeros(4, 4, dtype=torch.bool)
    halo[:, :3] = True
    figure = plots.patch_decision(torch.zeros(1, 8, 8), logits, halo, 2)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[1:] == ["2. mask: 2 of 4 cells", "3. conv 2 and 3: 8 positions", "4. conv 1, with halo: 12"]
    assert {"+1.00", "-1.00", "+0.00", "-2.00"} <= set(texts(figure))


def test_masked_block_shows_the_shares():
    figure = plots.masked_block(LASNet.tiny().block_macs(32)[0], 0.8, 0.25, 0.4)
    assert {"$a_D$ = 0.40", "$a$ = 0.25"} <= set(texts(figure))
    assert any("always dense" in text for text in texts(figure))


def test_timelines_name_every_kernel():
    kernels = block_kernels(V100, granularity=4, rate=0.5, schedule="unfused", **stage_blocks(0, 2)[-1])
    figure = plots.kernel_timelines({"unfused": kernels}, V100.launch_s)
    assert {*kernels, "unfused", f"{1e3 * sum(kernels.values()):.3g} ms"} <= set(texts(figure))


def test_gallery_hatches_what_is_skipped():
    masks = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 0]]])
    figure = plots.mask_gallery(torch.zeros(2, 1, 8, 8), {"block 1": masks})
    assert [len(ax.patches) for ax in figure.axes] == [3, 1]
    assert figure.axes[0].get_ylabel() == "block 1\n50% on"


def test_the_others_draw():
    rates = torch.rand(20, 2)
    assert len(plots.block_rates({"a": (rates, 0.5), "b": (rates, 0.3)}, [(0.6, 0.4)] * 20).axes) == 2
    assert len(plots.granularity_dashboard([("V100", V100, 0, 0.5), ("V100", V100, 3, 1.0)]).axes) == 6
    curve = ([0.1, 1.0], [0.5, 1.2])
    assert len(plots.predicted_and_measured({"a": {"S = 1": (curve, curve)}}).axes) == 1
    assert len(plots.ratio_curves({"a": {"S = 1": curve}, "b": {"S = 2": curve}}).axes) == 2


def recorded(device):
    rows = [
        {
            "name": f"network 4-4-2-1, rate {rate}",
            "median": 1 / rate,
            "q25": 0.9 / rate,
            "q75": 1.1 / rate,
            "details": {"rate": rate, "cells": [4, 4, 2, 1], "predicted": 1.2 / rate},
        }
        for rate in (0.75, 0.25)
    ]
    return {"machine": {"device": device}, "rows": [*rows, {"name": "probe", "details": {}}]}


def test_recorded_networks_say_when_there_are_none():
    figure = plots.recorded_granularity({"CPU": recorded("cpu"), "GPU": recorded("cuda"), "later": None})
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [
        [],
        ["published for a V100"],
        ["no recorded run yet"],
    ]
    assert figure.axes[0].lines[1].get_xdata().tolist() == [0.25, 0.75]  # in order of the rate
    assert plots.recorded_granularity({"CPU": None}).axes[0].get_legend() is None
