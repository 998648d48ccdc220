"""The sparse-conv bench: its report, its arithmetic, its gate; the GPU half runs here on small blocks."""

import dataclasses

import pytest
import torch

from course_lib.bench import blocks, core, sparse_conv, sparse_conv_gpu
from course_lib.bench.blocks import Setting, crossing, folded_dense, gate, make_block, make_input
from course_lib.bench.core import Options, Row
from course_lib.spatial.sparse_conv import MaskedBottleneck

SMALL = Setting(1, 64, 16, (8, 8), 4)


def test_a_quick_run_gives_a_valid_report():
    report = sparse_conv.run(Options(quick=True))
    core.validate(core.recorded(report, command="course bench sparse-conv --quick", device="cpu"))
    ways = {row.details.get("way") for row in report.rows}
    assert {"skip", "auto", "everything", "nothing active", "break-even"} <= ways
    for row in report.rows:
        if row.details.get("way") == "skip":
            assert row.details["halo"] >= row.details["density"]
    halos = {row.details["kind"]: row.details["halo"] for row in report.rows if "d 0.25: skip" in row.name}
    assert halos["pixels"] > 0.85 > 0.5 > halos["cells"]
    assert not report.goals


def test_break_even_is_where_the_curve_crosses():
    assert crossing((0.0, 0.5, 1.0), (1.0, 2.0, 4.0), 3.0) == 0.75
    assert crossing((0.0, 1.0), (1.0, 2.0), 5.0) == 1.0
    assert crossing((0.0, 1.0), (1.0, 2.0), 0.5) == 0.0


def test_the_shortest_of_several_turns_counts():
    calls = {0.5: lambda: sum(range(20_000)), 1.0: lambda: sum(range(2_000_000))}
    found = blocks.least_seconds(calls, rounds=3, device="cpu")
    assert list(found) == [0.5, 1.0]
    assert all(seconds >= 0 for seconds in found.values())


def test_the_floor_is_that_of_the_multiply_adds_and_bytes():
    from course_lib.measure import Roofline

    arithmetic = Roofline(1e30, 1.0, "cpu")
    c1, c2, c3 = SMALL.macs
    assert SMALL.floor_s(0.5, 0.75, arithmetic, 4) == 64 * (0.75 * c1 + 0.5 * (c2 + c3))
    memory = Roofline(1.0, 1e30, "cpu")
    weights = 64 * 16 + 9 * 16 * 16 + 16 * 64
    assert SMALL.floor_s(1, 1, memory, 4) == 4 * (weights + 64 * (64 + 16 + 16 + 16 + 16 + 64 + 64))


def test_the_gate_lets_no_wrong_block_pass():
    block, x = make_block(SMALL), make_input(SMALL)
    mask, cell = SMALL.mask("cells", 0.5)
    masked = MaskedBottleneck.from_dense(block, backend="gather")
    with torch.no_grad():
        gate(masked, block, x, mask, cell)
        assert torch.allclose(folded_dense(block)(x), block(x), atol=1e-5)
        masked.conv3.weight += 0.01
        with pytest.raises(RuntimeError, match="differ"):
            gate(masked, block, x, mask, cell)
        masked.conv3.weight.fill_(float("nan"))
        with pytest.raises(RuntimeError, match="differ"):
            gate(masked, block, x, mask, cell)


def test_the_gpu_half_runs_where_there_is_none(monkeypatch):
    """The same code on small blocks; only events and graphs are missing."""
    clock, rows = sparse_conv_gpu.Clock(torch.device("cpu"), 2), []
    with torch.inference_mode():
        roof = sparse_conv_gpu._probe(clock.device)
        sparse_conv_gpu.run_block(SMALL, (0.25, 1.0), clock, roof, rows)
        sparse_conv_gpu.run_kernel(3, (2, 16, 8), 16, clock, rows)
        sparse_conv_gpu.run_kernel(1, (2, 16, 14), 32, clock, rows)
        sparse_conv_gpu.run_lists(clock, rows)
    core.validate(core.recorded(core.Report("sparse-conv", rows), command="x", device="cpu"))
    assert {"skip", "auto", "with masker", "gather + cuBLAS"} <= {row.details.get("way") for row in rows}


def test_every_target_finds_its_rows():
    """The names in `goals` are those that a whole run would write."""
    rows = []
    for channels, width, side, cell in sparse_conv_gpu.STAGES:
        for batch in (1, 8, 64, 128):
            name = Setting(batch, channels, width, (side, side), cell).name
            rows += [Row.of(f"{name}: cells, d {d:g}: {way}", "x", [3.0]) for d in (0.25, 0.5, 1.0)
                     for way in ("skip", "auto", "with masker")]  # fmt: skip
    rows += [Row.of(f"{s.name}: disc, d 0.25: skip", "x", [3.0]) for s in sparse_conv_gpu.LARGE]
    for batch in (64, 128):
        for kernel, cin, cout, side in ((3, 64, 64, 56), (3, 128, 128, 28), (3, 256, 256, 14), (1, 64, 256, 56)):
            name = f"{kernel}x{kernel}, {cin} to {cout} channels at {side}, N={batch}"
            for d, us in ((0.25, 30.0), (1.0, 100.0)):
                rows.append(Row.of(f"{name}: d {d:g}", "x", [0.8], density=d, waves=5.0, us=us))
            rows.append(Row.of(f"{name}: break-even", "share", [0.8]))
    rows += [Row.of(f"lists of 401,408 positions in cells of {cell}", "us", [4.0]) for cell in (1, 4)]
    goals = {goal.name.partition(":")[0]: goal for goal in sparse_conv_gpu.goals(rows)}
    assert set(goals) == {f"T{k}" for k in range(1, 10)}
    assert goals["T1"].value == pytest.approx(100 / 30 * 0.25)
    assert all(goal.met for goal in goals.values() if not goal.name.startswith("T1"))
    missing = sparse_conv_gpu.goals([row for row in rows if "disc" not in row.name])
    assert not next(goal for goal in missing if goal.name.startswith("T8")).met


@pytest.mark.gpu
def test_a_quick_run_on_a_gpu():
    report = sparse_conv.run(Options(quick=True, device="cuda"))
    core.validate(core.recorded(report, command="course bench sparse-conv --quick", device="cuda"))
    assert any(row.details.get("graph") for row in report.rows)


def test_settings_are_values():
    assert dataclasses.replace(SMALL, batch=2) == Setting(2, 64, 16, (8, 8), 4)
    assert Setting(1, 8, 2, (4, 6), 1).name == "block 8-2 at 4x6, N=1"
