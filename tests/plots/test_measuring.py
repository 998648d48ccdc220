"""The measuring figures draw the numbers they are given, in the units their axes name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib import plots
from course_lib.decision import reliability
from course_lib.measure import Roofline

ROOF = Roofline(bandwidth_bytes_per_s=1e9, macs_per_s=8e9, device="cpu")
WIDE = plots.Measured("wide", macs=16e6, bytes=1e6, seconds=0.004)  # bound by arithmetic: 2 ms
FLAT = plots.Measured("flat", macs=4e6, bytes=2e6, seconds=0.01)  # bound by memory: 2 ms


def test_a_measured_layer_knows_intensity_and_rate():
    assert WIDE.intensity == 16
    assert WIDE.rate == pytest.approx(4e9)


def test_roofline_has_a_point_a_layer_a_line_at_the_ridge_and_a_key():
    figure = plots.roofline(ROOF, {"batch 1": [WIDE, FLAT], "batch 8": [FLAT, WIDE]})
    *panels, key = figure.axes
    points = [next(line for line in ax.lines if line.get_linestyle() == "None") for ax in panels]
    assert [ax.get_title() for ax in panels] == ["batch 1", "batch 8"]
    assert points[0].get_xydata().tolist() == [[16, 4], [2, 0.4]]
    assert points[0].get_marker() != points[1].get_marker()
    assert panels[0].get_xlim() == panels[1].get_xlim()
    roof = panels[0].lines[0].get_xydata()
    assert roof[:, 1].max() == pytest.approx(8)
    assert np.interp(2, *roof.T) == pytest.approx(2, rel=0.05)
    assert [text.get_text() for text in key.texts] == ["1  wide", "2  flat"]


def test_no_point_lies_outside_the_axes():
    figure = plots.roofline(ROOF, {"batch 1": [WIDE, FLAT]})
    ax = figure.axes[0]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for layer in (WIDE, FLAT):
        assert left < layer.intensity < right
        assert low < layer.rate / 1e9 < high


def test_bars_show_both_bounds_and_the_time_in_milliseconds():
    figure = plots.roofline_and_bars(ROOF, [WIDE, FLAT])
    right = figure.axes[1]
    widths = [[bar.get_width() for bar in group] for group in right.containers if len(group) == 2]
    assert np.allclose(widths, [[1, 2], [2, 0.5], [4, 10]])
    assert [text.get_text() for text in right.get_yticklabels()] == ["1  wide", "2  flat"]


def test_each_ledger_is_one_bar_of_full_length():
    figure = plots.ledger_shares([WIDE, FLAT])
    macs, time = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(2, 2)
    assert np.allclose(macs, [0.8, 0.2])
    assert np.allclose(time, [4 / 14, 10 / 14])


def test_the_trace_marks_the_first_call_of_each_batch_size():
    figure = plots.warmup_trace([9.0, 1.0, 1.0, 7.0, 1.0, 8.0], [4, 4, 4, 3, 3, 4])
    later, first = figure.axes[0].lines[:2]
    assert first.get_xydata().tolist() == [[1, 9], [4, 7], [6, 8]]
    assert later.get_xydata().tolist() == [[2, 1], [3, 1], [5, 1]]


def test_queued_calls_end_after_the_last_was_submitted():
    ax = plots.queued_work(calls=3, submit=0.1, work=1.0).axes[0]
    ends = sorted({round(line.get_xdata()[0], 6) for line in ax.lines})
    assert ends == [0.3, 3.1]


def test_time_by_batch_size_per_call_and_per_image():
    figure = plots.latency_by_batch([1, 4], {"net": [10e-6, 16e-6]}, {"net": (8e-6, 2e-6)})
    call, image = figure.axes
    assert np.allclose(call.lines[0].get_ydata(), [10, 16])
    assert np.allclose(call.lines[1].get_ydata(), [10, 16])
    assert np.allclose(image.lines[0].get_ydata(), [10, 4])


def test_reliability_shows_accuracy_the_gap_and_the_counts():
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.2])
    figure = plots.reliability_diagram({"before": reliability(confidence, torch.tensor([1, 0, 0, 0]), bins=2)})
    top, bottom = figure.axes
    right, gap = ([bar.get_height() for bar in group] for group in top.containers)
    assert np.allclose(right, [0, 1 / 3])
    assert np.allclose(gap, [0.2, 0.9 - 1 / 3], atol=1e-6)
    assert [bar.get_height() for bar in bottom.patches] == [1, 3]
    assert "0.475" in top.get_title()


def test_an_empty_bin_leaves_a_hole_and_no_warning():
    found = reliability(torch.tensor([0.9]), torch.tensor([1]), bins=4)
    figure = plots.reliability_diagram({"few": found, "same": found})
    figure.canvas.draw()
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    assert np.isnan(heights).tolist() == [True, True, True, False]
