"""The latency predictor: the published tables to three digits, its properties, and a device measured here."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.spatial.lasnet import (
    DEVICES,
    STAGE_MAPS,
    HardwareSpec,
    block_kernels,
    break_even,
    choose_granularity,
    efficiency,
    predict_block,
    predict_network,
    predict_skipping,
    sector_efficiency,
    tile_sizes,
)
from course_lib.spatial.lasnet.predictor import _patches

V100, TX2, RTX3060 = HardwareSpec.v100(), HardwareSpec.jetson_tx2(), HardwareSpec.rtx3060()

# (device, channels, map): static microseconds, and for each S the ratios at rate 0.25, 0.5, 0.75
BLOCKS = {
    ("V100", 256, 56): (7863.3, {
        1: (1.045, 1.674, 2.303), 2: (0.766, 1.116, 1.466), 4: (0.627, 0.846, 1.063), 8: (0.603, 0.795, 0.984),
    }),
    ("V100", 512, 28): (6210.4, {
        1: (0.914, 1.452, 1.991), 2: (0.644, 0.974, 1.274), 4: (0.518, 0.753, 0.964), 7: (0.572, 0.770, 0.939),
    }),
    ("V100", 1024, 14): (5790.9, {1: (0.719, 1.123, 1.526), 2: (0.513, 0.799, 1.030), 7: (0.410, 0.623, 0.823)}),
    ("V100", 2048, 7): (6599.6, {1: (0.527, 0.804, 1.052), 7: (0.846, 0.846, 0.846)}),
    ("Jetson TX2", 256, 56): (1061.0, {
        1: (0.504, 0.730, 0.917), 2: (0.491, 0.704, 0.887), 4: (0.489, 0.699, 0.880), 8: (0.501, 0.706, 0.881),
    }),
    ("Jetson TX2", 512, 28): (902.8, {
        1: (0.436, 0.657, 0.878), 2: (0.430, 0.645, 0.864), 4: (0.439, 0.651, 0.861), 7: (0.525, 0.700, 0.866),
    }),
    ("Jetson TX2", 1024, 14): (883.3, {1: (0.440, 0.644, 0.849), 2: (0.441, 0.642, 0.843), 7: (0.715, 0.776, 0.838)}),
    ("Jetson TX2", 2048, 7): (1120.4, {1: (0.575, 0.727, 0.879), 7: (1.005, 1.005, 1.005)}),
    ("RTX 3060", 256, 56): (12180.7, {
        1: (0.866, 1.281, 1.695), 2: (0.701, 0.950, 1.199), 4: (0.649, 0.845, 1.042), 8: (0.643, 0.820, 0.997),
    }),
    ("RTX 3060", 1024, 14): (7019.6, {1: (0.682, 1.029, 1.377), 2: (0.540, 0.750, 0.979), 7: (0.455, 0.674, 0.842)}),
}  # fmt: skip

# (device, depth): static milliseconds, and the ratios at rate 0.4, 0.5, 0.6 for three published granularities
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
SETTINGS = ((1, 1, 1, 1), (4, 4, 2, 1), (8, 4, 7, 1))
NETWORKS = {
    ("V100", 50): (116.21, (1.143, 1.324, 1.509), (0.757, 0.858, 0.953), (0.715, 0.779, 0.901)),
    ("V100", 101): (214.66, (1.062, 1.232, 1.407), (0.726, 0.831, 0.926), (0.673, 0.707, 0.865)),
    ("RTX 3060", 101): (265.50, (0.974, 1.115, 1.261), (0.726, 0.814, 0.898), (0.725, 0.758, 0.894)),
    ("Jetson TX2", 50): (17.23, (0.631, 0.708, 0.782), (0.621, 0.697, 0.770), (0.689, 0.738, 0.806)),
    ("Jetson TX2", 101): (32.24, (0.598, 0.678, 0.757), (0.592, 0.671, 0.749), (0.729, 0.756, 0.821)),
}


def block(channels, size):
    return {"channels": channels, "width": channels // 4, "size": size}


@pytest.mark.parametrize("key", BLOCKS, ids=str)
def test_published_block_table(key):
    device, channels, size = key
    microseconds, ratios = BLOCKS[key]
    spec = DEVICES[device]
    static = predict_block(spec, **block(channels, size))
    assert 1e6 * static == pytest.approx(microseconds, abs=0.05)
    for s, expected in ratios.items():
        found = [
            predict_block(spec, granularity=s, rate=r, **block(channels, size)) / static for r in (0.25, 0.5, 0.75)
        ]
        assert found == pytest.approx(expected, abs=5.1e-4), s


@pytest.mark.parametrize("key", NETWORKS, ids=str)
def test_published_network_table(key):
    device, layers = key
    milliseconds, *ratios = NETWORKS[key]
    spec, depth = DEVICES[device], DEPTHS[layers]
    static = predict_network(spec, depth=depth)
    assert 1e3 * static == pytest.approx(milliseconds, abs=0.005)
    for granularity, expected in zip(SETTINGS, ratios, strict=True):
        found = [predict_network(spec, depth=depth, granularity=granularity, rate=r) / static for r in (0.4, 0.5, 0.6)]
        assert found == pytest.approx(expected, abs=5.1e-4), granularity


def test_devices_are_the_published_five():
    table = {
        "V100": (80, 64, 1500e6, 700e9, 4, 128),
        "RTX 3090": (82, 128, 1250e6, 936e9, 1, 128),
        "RTX 3060": (28, 128, 1777e6, 360e9, 4, 128),
        "Jetson TX2": (2, 128, 1300e6, 59.7e9, 4, 1),
        "Jetson Nano": (1, 128, 921e6, 25.6e9, 4, 1),
    }
    found = {k: (d.engines, d.lanes, d.clock_hz, d.bandwidth, d.l2_ratio, d.batch) for k, d in DEVICES.items()}
    assert found == table
    assert all(d.launch_s == 8e-6 and d.mode == "add" for d in DEVICES.values())


def test_granularity_chosen_for_a_device():
    for layers in DEPTHS.values():
        chosen, seconds, table = choose_granularity(V100, depth=layers, rate=0.5)
        assert chosen == (8, 4, 7, 1)
        assert seconds == predict_network(V100, depth=layers, granularity=chosen, rate=0.5)
        assert [min(ratios, key=ratios.get) for ratios in table] == list(chosen)
        assert all(size % s == 0 for size, ratios in zip(STAGE_MAPS, table, strict=True) for s in ratios)
    chosen, seconds, _ = choose_granularity(TX2, depth=DEPTHS[101], rate=0.5)
    assert chosen == (4, 2, 2, 1)
    published = predict_network(TX2, depth=DEPTHS[101], granularity=(4, 4, 2, 1), rate=0.5)
    assert published == pytest.approx(seconds, rel=0.01)


def test_layer_skipping_is_the_limit_that_the_formula_misses():
    whole = {**block(256, 56)}
    static = predict_block(V100, **whole)
    by_formula = predict_block(V100, granularity=56, rate=0.5, **whole)
    mixture = predict_skipping(V100, channels=256, width=64, size=56, rate=0.5)
    assert by_formula == predict_block(V100, granularity=56, rate=1.0, **whole)  # one patch out of one
    assert by_formula / mixture > 1.2
    assert mixture - predict_skipping(V100, channels=256, width=64, size=56, rate=0.0) == pytest.approx(static / 2)


def test_break_even_rates():
    assert break_even(V100, granularity=1, **block(256, 56)) < 0.25
    assert break_even(V100, granularity=8, **block(256, 56)) > 0.7
    assert break_even(TX2, granularity=1, **block(256, 56)) > 0.75
    assert break_even(HardwareSpec.rtx3090(), granularity=7, **block(2048, 7)) in (0.0, 1.0)


def test_break_even_is_the_last_share_that_wins():
    static = predict_block(V100, **block(512, 28))
    rate = break_even(V100, granularity=4, **block(512, 28))
    assert predict_block(V100, granularity=4, rate=rate, **block(512, 28)) < static
    assert predict_block(V100, granularity=4, rate=rate + 1 / 49, **block(512, 28)) >= static


@given(
    device=st.sampled_from(sorted(DEVICES)),
    stage=st.integers(0, 3),
    s=st.sampled_from([1, 2, 7, 8]),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_more_cells_never_take_less_time(device, stage, s, rates):
    size = STAGE_MAPS[stage]
    if size % s:
        return
    low, high = sorted(rates)
    times = [predict_block(DEVICES[device], granularity=s, rate=r, **block(256 << stage, size)) for r in (low, high)]
    assert times[0] <= times[1]


@pytest.mark.parametrize(("size", "cell"), [(56, 14), (56, 8), (28, 2), (28, 1), (56, 1)])
def test_a_share_of_m_cells_is_m_cells(size, cell):
    n = (size // cell) ** 2
    assert [_patches(size, cell, m / n) for m in range(n + 1)] == list(range(n + 1))
    assert _patches(size, cell, 1e-4 / n) == 1  # a part of a cell is a cell


def test_schedules():
    fused = block_kernels(V100, granularity=4, rate=0.5, schedule="fused", **block(256, 56))
    unfused = block_kernels(V100, granularity=4, rate=0.5, schedule="unfused", **block(256, 56))
    best = block_kernels(V100, granularity=4, rate=0.5, **block(256, 56))
    assert list(fused) == ["masker + conv1", "conv2", "conv3", "scatter-add"]
    assert list(unfused) == ["masker", "gather 1", "conv1", "gather 2", "conv2", "conv3", "scatter", "add"]
    assert sum(best.values()) <= min(sum(fused.values()), sum(unfused.values()))
    assert all(t > V100.launch_s for t in (*fused.values(), *unfused.values()))
    strided = block_kernels(V100, stride=2, **block(512, 28))
    assert list(strided) == ["conv1", "conv2", "conv3", "add", "shortcut"]


def test_overlap_and_batch():
    both = replace(V100, mode="max")
    assert predict_block(both, **block(256, 56)) < predict_block(V100, **block(256, 56))
    assert predict_block(V100, batch=1, **block(256, 56)) < predict_block(V100, **block(256, 56)) / 50
    assert predict_block(V100, batch=1, **block(256, 56)) == predict_block(V100.with_batch(1), **block(256, 56))


@given(st.integers(1, 300))
def test_tiles(extent):
    sizes = tile_sizes(extent)
    assert sizes[0] == 1
    assert sizes == sorted(set(sizes))
    assert max(sizes) <= max(2 * extent, 2)
    assert {-(-extent // parts) for parts in range(1, min(extent, 8))} <= set(sizes)


@given(st.integers(1, 100), st.integers(-5, 100))
def test_sectors_are_shares(run, gap):
    share = float(sector_efficiency(run, gap))
    assert 0 < share <= 1
    if gap <= 0 and run <= 8:
        assert share == 1


def test_efficiency_of_whole_units():
    assert np.all(efficiency(np.array([4.0, 8.0]), 4) == 1)
    assert efficiency(5, 4) == pytest.approx(5 / 8)


def test_probe_describes_this_machine():
    spec = HardwareSpec.probe(seconds=0.3, device="cpu")
    assert spec.engines >= 1
    assert 1e8 < spec.engines * spec.lane_rate < 1e15
    assert spec.l2_ratio >= 1
    assert 0 < spec.launch_s < 1e-2
    assert predict_block(spec, **block(256, 56)) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"engines": 0}, "engines: got 0"), ({"launch_s": -1.0}, "launch_s: got -1.0"), ({"mode": "both"}, "mode: got")],
)
def test_bad_devices(change, message):
    with pytest.raises(ValueError, match=message):
        replace(V100, **change)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_block(V100, granularity=8, **block(512, 28)), "granularity: got 8, expected a divisor"),
        (lambda: predict_block(V100, granularity=4, rate=1.1, **block(512, 28)), "rate: got 1.1"),
        (lambda: predict_network(V100, depth=(3, 4, 6)), "depth: got 3 numbers"),
        (lambda: predict_network(V100, depth=(3, 4, 6, 3), granularity=(1, 1)), "granularity: got 2 numbers"),
        (lambda: choose_granularity(V100, depth=(3, 4, 6, 3), rate=0.5, candidates=(5,)), "candidates: got"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_published_setting_divides_its_maps():
    for granularity, (s, size) in itertools.product(SETTINGS, enumerate(STAGE_MAPS)):
        assert size % granularity[s] == 0
