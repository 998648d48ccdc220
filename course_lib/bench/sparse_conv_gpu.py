"""The GPU half of `course bench sparse-conv`: float16, times by device events and under CUDA-graph replay.

Peers in the same run: cuDNN channels last with folded BatchNorm, `torch.compile` of that block, gather + cuBLAS +
scatter, spconv where it is installed, and the sparse kernel itself with everything active. Inputs rotate through more
memory than the second-level cache holds. Lists of active positions are built within the time of a block; the times of
single kernels exclude them, and they are listed apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib import kernels, measure
from course_lib.bench.blocks import (
    DENSITIES,
    KINDS,
    LAST,
    Setting,
    close,
    crossing,
    folded_dense,
    gate,
    make_block,
    make_input,
)
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.kernels import ActiveSet
from course_lib.kernels.conv_triton import pick_config
from course_lib.spatial.sparse_conv import MaskedBottleneck, SpatialMasker, random_mask

DTYPE = torch.float16
L2_BYTES = 60e6
REPEATS = 50
STAGES = ((256, 64, 56, 4), (512, 128, 28, 4), (1024, 256, 14, 2), (2048, 512, 7, 1))  # channels, width, side, cell
LARGE = (Setting(1, 256, 64, (200, 336), 8), Setting(1, 512, 128, (100, 168), 4))
WAVES = 4


def run(options: Options) -> Report:
    """Blocks, kernels, lists and the targets T1 to T9; `options.quick`: one block, few repeats, no goals."""
    device = torch.device(options.device)
    rows: list[Row] = []
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        roof = _probe(device)
        rates = {"macs_per_s": roof.macs_per_s, "bytes_per_s": roof.bandwidth_bytes_per_s}
        rows.append(Row.of("roofline, float16", "MAC/s", [roof.macs_per_s], **rates))
        if options.quick:
            run_block(Setting(2, 64, 16, (28, 28), 4), (0.25, 1.0), Clock(device, 5), roof, rows)
            return Report("sparse-conv", rows)
        clock = Clock(device, REPEATS)
        for channels, width, side, cell in STAGES:
            for batch in (1, 8, 64, 128):
                densities = DENSITIES if batch == 64 else (0.25, 0.5, 1.0)
                run_block(Setting(batch, channels, width, (side, side), cell), densities, clock, roof, rows)
        for setting in LARGE:
            run_block(setting, (0.1, 0.25, 0.5, 1.0), clock, roof, rows, kinds=("disc",))
        for batch in (64, 128):
            for kernel, cin, cout, side in ((3, 64, 64, 56), (3, 128, 128, 28), (3, 256, 256, 14), (1, 64, 256, 56)):
                run_kernel(kernel, (batch, cin, side), cout, clock, rows)
        run_lists(clock, rows)
    return Report("sparse-conv", rows, goals(rows))


# Time ----------------------------------------------------------------------------------------------------------------


class Clock:
    """Times calls that take the number of an input set; on a GPU by events or by replaying a graph of all sets."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def sets(self, bytes_each: float) -> int:
        """How many inputs outgrow the cache together."""
        return int(min(64, max(2, -(-2 * L2_BYTES // bytes_each)))) if self.device.type == "cuda" else 2

    def events(self, call: Callable[[int], Any], sets: int) -> list[float]:
        """Seconds between device events around each call, launches included where they are what limits."""
        for k in range(3):
            call(k % sets)
        if self.device.type != "cuda":
            return list(measure.latency(partial(call, 0), warmup=0, repeats=self.repeats).samples_s)
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        torch.cuda.synchronize(self.device)
        for k, (start, end) in enumerate(marks):
            start.record()
            call(k % sets)
            end.record()
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) / 1e3 for start, end in marks]

    def graph(self, call: Callable[[int], Any], sets: int) -> list[float]:
        """Seconds a call when a captured graph of one call a set is replayed."""
        if self.device.type != "cuda":
            return self.events(call, sets)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for k in range(sets):
                call(k)
        torch.cuda.current_stream(self.device).wait_stream(side)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for k in range(sets):
                call(k)
        samples = self.events(lambda _: graph.replay(), 1)
        return [seconds / sets for seconds in samples]


def _probe(device: torch.device) -> measure.Roofline:
    """Bandwidth by a large copy, arithmetic by a large float16 product."""
    roof = measure.Roofline.probe(seconds=1.0, device=device)
    side = 8192 if device.type == "cuda" else 256
    a = torch.randn(side, side, device=device, dtype=DTYPE)
    best = min(Clock(device, 10).events(lambda _: a @ a, 1))
    return measure.Roofline(roof.bandwidth_bytes_per_s, side**3 / best, device.type)


# Blocks --------------------------------------------------------------------------------------------------------------


def run_block(
    setting: Setting,
    densities: Sequence[float],
    clock: Clock,
    roof: measure.Roofline,
    rows: list[Row],
    kinds: Sequence[str] = tuple(KINDS),
) -> None:
    """Every contender of one block under both clocks, correctness first."""
    block = make_block(setting).to(clock.device, DTYPE)
    x = make_input(setting).to(clock.device, DTYPE).contiguous(memory_format=LAST)
    number = clock.sets(x.numel() * x.element_size())
    inputs = [x.clone(memory_format=LAST) for _ in range(number)]
    dense = folded_dense(block).to(memory_format=LAST)
    add = partial(_row, rows, setting, clock)
    times = {"dense, cuDNN": add("dense, cuDNN", lambda k: dense(inputs[k]), number, {})}
    if clock.device.type == "cuda" and (setting.batch == 64 or setting in LARGE):  # a minute each
        compiled = torch.compile(dense, mode="max-autotune-no-cudagraphs", fullgraph=True)
        times["dense, compiled"] = add("dense, compiled", lambda k: compiled(inputs[k]), number, {})
    bar = min(times.values())
    sparse = "triton" if clock.device.type == "cuda" else "gather"
    skip, auto, copies = (
        MaskedBottleneck.from_dense(block, backend=way).fold_bn_()  # type: ignore[arg-type]
        for way in (sparse, "auto", "gather")
    )
    masker = SpatialMasker(setting.channels, granularity=setting.cell).to(clock.device, DTYPE).eval()
    for kind in kinds:
        for density in densities:
            cells, cell = setting.mask(kind, density)
            d, halo = setting.shares(cells, cell)
            mask = cells.to(clock.device)
            gate(skip, block, x, mask, cell)
            gate(auto, block, x, mask, cell)
            floor = setting.floor_s(1, 1, roof, 2) / setting.floor_s(d, halo, roof, 2)
            details = {"kind": kind, "density": d, "halo": halo, "cell": cell, "floor": floor}
            name = f"{kind}, d {density:g}"
            run_masked = partial(_masked, inputs, mask, cell)
            add(f"{name}: skip", run_masked(skip), number, {**details, "way": "skip"}, bar)
            for _ in range(8):  # until the estimate has settled: a graph keeps the choice it was captured with
                auto(x, mask, granularity=cell)
                if clock.device.type == "cuda":
                    torch.cuda.synchronize(clock.device)
            add(f"{name}: auto", run_masked(auto), number, {**details, "way": "auto"}, bar)
            if kind == "cells":
                with_masker = partial(_with_masker, inputs, mask, cell, skip, masker)
                add(f"{name}: with masker", with_masker, number, {**details, "way": "with masker"}, bar)
            if kind == "cells" and density in (0.25, 1.0):  # reads the count: cannot be captured
                details = {**details, "way": "gather + cuBLAS"}
                add(f"{name}: gather + cuBLAS", run_masked(copies), number, details, bar, captured=False)


def _masked(inputs: Sequence[Tensor], mask: Tensor, cell: int, block: MaskedBottleneck) -> Callable[[int], Any]:
    return lambda k: block(inputs[k], mask, granularity=cell, inplace=True)


def _with_masker(
    inputs: Sequence[Tensor], mask: Tensor, cell: int, block: MaskedBottleneck, masker: nn.Module, k: int
) -> Any:
    """The decision costs its pass over the input; what is then computed is the mask of this row."""
    masker(inputs[k])
    return block(inputs[k], mask, granularity=cell, inplace=True)


def _row(
    rows: list[Row],
    setting: Setting,
    clock: Clock,
    name: str,
    call: Callable[[int], Any],
    sets: int,
    details: dict[str, Any],
    bar: float | None = None,
    *,
    captured: bool = True,
) -> float:
    """Time one contender and write its row; returns the median seconds that count, of the graph where there is one."""
    eager = clock.events(call, sets)
    samples = clock.graph(call, sets) if captured else eager
    median = float(np.median(samples))
    more = {**details, "batch": setting.batch, "us": 1e6 * median, "eager_us": 1e6 * float(np.median(eager))}
    speedups = [(median if bar is None else bar) / s for s in samples]
    rows.append(Row.of(f"{setting.name}: {name}", "x", speedups, **more, graph=captured))
    return median


# Single kernels ------------------------------------------------------------------------------------------------------


def run_kernel(kernel: int, shape: tuple[int, int, int], cout: int, clock: Clock, rows: list[Row]) -> None:
    """One convolution over the densities; lists are made before the clock starts. shape: N, Cin, side."""
    batch, cin, side = shape
    generator = torch.Generator().manual_seed(0)
    make = partial(torch.randn, generator=generator)
    x = make(batch, cin, side, side).to(clock.device, DTYPE).contiguous(memory_format=LAST)
    weight = (0.1 * make(cout, cin, kernel, kernel)).to(clock.device, DTYPE).contiguous(memory_format=LAST)
    number = clock.sets(2 * x.numel() * max(1, cout // cin))
    inputs = [x.clone(memory_format=LAST) for _ in range(number)]
    outs = [
        torch.zeros(batch, cout, side, side, device=clock.device, dtype=DTYPE).to(memory_format=LAST) for _ in inputs
    ]
    pad = kernel // 2
    dense = clock.graph(partial(_dense, inputs, outs, weight, pad, kernel == 1), number)
    bar, name = float(np.median(dense)), f"{kernel}x{kernel}, {cin} to {cout} channels at {side}, N={batch}"
    rows.append(Row.of(f"{name}: dense, cuDNN", "x", [bar / s for s in dense], us=1e6 * bar))
    sparse = "triton" if clock.device.type == "cuda" else "gather"
    densities, taken, cell = (0.1, 0.25, 0.5, 0.75, 1.0), [], 7 if side % 4 else 4
    for density in densities:
        cells = random_mask(batch, (side, side), density, cell=cell, generator=torch.Generator().manual_seed(1))
        active = ActiveSet.from_mask(cells.to(clock.device), granularity=cell, size=(side, side))
        call = partial(_conv, inputs, outs, weight, active, pad, sparse, kernel == 1)
        want = torch.where(active.to_mask(), functional.conv2d(x, weight, padding=pad), 0)
        close(kernels.masked_conv2d(x, weight, None, active, padding=pad, backend=sparse), want)  # type: ignore[arg-type]
        samples = clock.graph(call, number)
        taken.append(float(np.median(samples)))
        positions = int(active.cnt) * cell**2
        config = pick_config(batch * side * side, cout, DTYPE, 9)
        tiles = -(-positions // config.rows) * -(-cout // config.columns)
        units = (
            torch.cuda.get_device_properties(clock.device).multi_processor_count if clock.device.type == "cuda" else 1
        )
        details = {
            "density": positions / (batch * side**2),
            "tiles": tiles,
            "waves": tiles / units,
            "us": 1e6 * taken[-1],
        }
        rows.append(Row.of(f"{name}: d {density:g}", "x", [bar / s for s in samples], **details))
    _spconv(name, x, weight, clock, bar, rows)
    found = crossing(densities, taken, bar)
    rows.append(Row.of(f"{name}: break-even", "share", [found], full_us=1e6 * taken[-1], dense_us=1e6 * bar))


def _dense(inputs: Sequence[Tensor], outs: Sequence[Tensor], weight: Tensor, pad: int, add: bool, k: int) -> Tensor:
    y = functional.conv2d(inputs[k], weight, padding=pad)
    return (y.add_(outs[k]) if add else y).relu_()


def _conv(
    inputs: Sequence[Tensor], outs: Sequence[Tensor], weight: Tensor, active: ActiveSet, pad: int, backend: Any,
    add: bool, k: int,
) -> Tensor:  # fmt: skip
    """Into `out`; a 1x1 convolution adds what is there, as the last one of a block does."""
    residual = outs[k] if add else None
    return kernels.masked_conv2d(
        inputs[k], weight, None, active, padding=pad, out=outs[k], residual=residual, activation="relu", backend=backend
    )


def _spconv(name: str, x: Tensor, weight: Tensor, clock: Clock, bar: float, rows: list[Row]) -> None:
    """The nearest operation of spconv, at a quarter active: submanifold, its index pairs built within the time."""
    try:
        import spconv.pytorch as spconv
    except ImportError:
        return
    if weight.shape[2] != 3 or clock.device.type != "cuda":
        return
    n, _, side, _ = x.shape
    mask = random_mask(n, (side, side), 0.25, cell=1, generator=torch.Generator().manual_seed(1)).to(clock.device)
    places = mask[:, 0].nonzero().int()
    features = x.permute(0, 2, 3, 1)[mask[:, 0]].contiguous()
    layer = spconv.SubMConv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False).to(clock.device, DTYPE)
    samples = clock.events(lambda _: layer(spconv.SparseConvTensor(features, places, [side, side], n)), 1)
    rows.append(Row.of(f"{name}: spconv, d 0.25", "x", [bar / s for s in samples], us=1e6 * float(np.median(samples))))


def run_lists(clock: Clock, rows: list[Row]) -> None:
    """Compaction of 401,408 positions, position by position and in cells of 4 x 4."""
    for cell in (1, 4):
        cells = random_mask(128, (56, 56), 0.25, cell=cell, generator=torch.Generator().manual_seed(0)).to(clock.device)
        samples = clock.graph(partial(_compact, cells), 1)
        rows.append(Row.of(f"lists of 401,408 positions in cells of {cell}", "us", [1e6 * s for s in samples]))


def _compact(mask: Tensor, _: int) -> Any:
    return torch.ops.course_lib.compact_mask(mask)


# Targets -------------------------------------------------------------------------------------------------------------


def goals(rows: Sequence[Row]) -> list[Goal]:
    """T1 to T9 of the design, from the rows; where a target is a bound from above, bound / value."""
    by = {row.name: row for row in rows}

    def least(*, prefixes: Sequence[str], suffix: str) -> float:
        found = [row.median for name, row in by.items() if name.startswith(tuple(prefixes)) and name.endswith(suffix)]
        return min(found, default=float("nan"))

    def block(channels: int, width: int, side: str, batches: Sequence[int]) -> list[str]:
        return [f"block {channels}-{width} at {side}, N={batch}: " for batch in batches]

    full = [*block(256, 64, "56", (64, 128)), *block(512, 128, "28", (64, 128))]
    wide = [f"3x3, {c} to {c} channels at {side}, N={n}: " for c, side in ((128, 28), (256, 14)) for n in (64, 128)]
    mid = [f"3x3, 256 to 256 channels at 14, N={n}: " for n in (64, 128)]
    thin = [f"1x1, 64 to 256 channels at 56, N={n}: " for n in (64, 128)]
    large = ["block 256-64 at 200x336, N=1: ", "block 512-128 at 100x168, N=1: "]
    found = [
        Goal("T1: self-efficiency of the 3x3, four waves or more", _self_efficiency(rows), 0.9),
        Goal("T2: 3x3 with everything active / cuDNN", least(prefixes=wide, suffix="d 1"), 0.75),
        Goal("T3: break-even density, 3x3, 256 channels", least(prefixes=mid, suffix="break-even"), 0.70),
        Goal("T4: break-even density, 1x1 added in place", least(prefixes=thin, suffix="break-even"), 0.60),
        Goal("T5: block, half active", least(prefixes=full, suffix="cells, d 0.5: skip"), 1.35),
        Goal("T5: block, a quarter active", least(prefixes=full, suffix="cells, d 0.25: skip"), 2.2),
        Goal("T6: block with masker, half active", least(prefixes=full, suffix="cells, d 0.5: with masker"), 1.2),
        Goal("T6: block with masker, a quarter active", least(prefixes=full, suffix="cells, d 0.25: with masker"), 1.7),
        Goal("T7: auto with everything active / dense", least(prefixes=["block "], suffix="d 1: auto"), 0.95),
        Goal(
            "T8: high resolution, one image, disc, a quarter active", least(prefixes=large, suffix="d 0.25: skip"), 1.8
        ),
    ]
    for cell, bound in ((1, 8.0), (4, 4.0)):
        row = by[f"lists of 401,408 positions in cells of {cell}"]
        found.append(Goal(f"T9: {bound:g} us / {row.name}", bound / row.median, 1.0))
    return found


def _self_efficiency(rows: Sequence[Row]) -> float:
    """The least T(1) / T(d) * d over 3x3 kernels at d >= 0.25 with enough tiles."""
    full = {row.name.removesuffix(": d 1"): row for row in rows if row.name.endswith(": d 1")}
    found = [float("nan")]
    for row in rows:
        base, _, _ = row.name.rpartition(": d ")
        if base in full and base.startswith("3x3") and row.details["waves"] >= WAVES and row.details["density"] >= 0.2:
            found.append(full[base].details["us"] / row.details["us"] * row.details["density"])
    return float(np.nanmin(found)) if len(found) > 1 else float("nan")
