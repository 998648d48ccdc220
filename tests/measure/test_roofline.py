import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib import measure

positive = st.floats(1e-3, 1e15)


@given(bandwidth=positive, rate=positive, intensity=positive)
def test_the_roof_is_the_lower_of_two_and_they_meet_at_the_ridge(bandwidth, rate, intensity):
    roof = measure.Roofline(bandwidth, rate, "cpu")
    reached = roof.attainable(intensity)
    assert reached <= rate
    assert reached <= intensity * bandwidth
    assert reached in (rate, intensity * bandwidth)
    assert math.isclose(roof.attainable(roof.ridge), rate)
    assert roof.attainable(0) == 0


@given(bandwidth=positive, rate=positive, macs=positive, size=positive)
def test_time_bound_and_attainable_rate_say_the_same(bandwidth, rate, macs, size):
    roof = measure.Roofline(bandwidth, rate, "cpu")
    assert math.isclose(macs / roof.bound_s(macs, size), roof.attainable(measure.intensity(macs, size)))


def test_arithmetic():
    roof = measure.Roofline(bandwidth_bytes_per_s=20e9, macs_per_s=100e9, device="cpu")
    assert roof.ridge == 5
    assert roof.attainable(1) == 20e9
    assert roof.attainable(50) == 100e9
    assert roof.bound_s(macs=1e9, bytes=1e6) == 0.01
    assert roof.bound_s(macs=0, bytes=2e9) == 0.1


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_rates_are_positive(value):
    with pytest.raises(ValueError, match="bandwidth_bytes_per_s"):
        measure.Roofline(value, 1, "cpu")
    with pytest.raises(ValueError, match="macs_per_s"):
        measure.Roofline(1, value, "cpu")
    with pytest.raises(ValueError, match="seconds"):
        measure.Roofline.probe(seconds=value)
    with pytest.raises(ValueError, match="bytes"):
        measure.intensity(1, value)


def test_negative_work():
    roof = measure.Roofline(1, 1, "cpu")
    with pytest.raises(ValueError, match="macs, bytes"):
        roof.bound_s(-1, 1)
    with pytest.raises(ValueError, match="intensity"):
        roof.attainable(-1)


def test_probe_measures_something_finite():
    roof = measure.Roofline.probe(seconds=0.01, device="cpu")
    assert roof.device == "cpu"
    assert 0 < roof.bandwidth_bytes_per_s < math.inf
    assert 0 < roof.macs_per_s < math.inf


def test_moved_bytes_of_one_layer():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert measure.moved_bytes(conv, torch.zeros(2, 3, 6, 6)) == 4 * (2 * 3 * 36 + 8 * 27 + 8 + 2 * 8 * 36)
    assert measure.moved_bytes(conv.half(), torch.zeros(2, 3, 6, 6).half()) == 2 * (216 + 224 + 576)


def test_moved_bytes_sums_the_layers_that_ran():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    x = torch.zeros(3, 4)
    net = nn.Sequential(first, nn.ReLU(), nn.Sequential(second))
    parts = measure.moved_bytes(first, x) + 2 * 4 * 24 + measure.moved_bytes(second, torch.zeros(3, 8))
    assert measure.moved_bytes(net, x) == parts


def test_moved_bytes_of_attention_counts_one_input_and_all_weights():
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.zeros(1, 3, 4)
    weights = sum(p.numel() for p in layer.parameters())
    assert measure.moved_bytes(layer, x, x, x) == 4 * (12 + weights + 12 + 9)  # output, and the attention map


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, wanted: bool) -> torch.Tensor:
        return self.block(x) if wanted else x


def test_a_skipped_layer_moves_nothing():
    net = Skipping()
    assert measure.moved_bytes(net, torch.zeros(2, 4), True) == 4 * (8 + 20 + 8)
    assert measure.moved_bytes(net, torch.zeros(2, 4), False) == 0
