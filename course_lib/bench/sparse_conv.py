"""Sparse convolution against the clock: single convolutions and residual blocks over the share of active positions.

On the CPU: one thread, thread CPU time (a busy machine does not count), the faster of both memory layouts of the dense
block as the mark to beat. On a GPU: `course_lib.bench.sparse_conv_gpu`. In both cases BatchNorm is folded for everyone,
the lists of active positions and of their halo are built within the time, masks hold an exact number of active cells,
and no number is printed before the masked result has been compared with the dense one.

Contenders of a block:
- dense: torchvision's Bottleneck, its layers if torchvision is not there; channels first and channels last;
- skip: `MaskedBottleneck` that always computes active positions only, in place as inside a network; - auto: that
  decides by the density; - everything: that never skips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib import kernels, measure
from course_lib.bench import sparse_conv_gpu
from course_lib.bench.blocks import (
    DENSITIES,
    KINDS,
    LAST,
    Contender,
    Setting,
    close,
    crossing,
    folded_dense,
    gate,
    make_block,
    make_input,
    thread_times,
)
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.exits import one_thread
from course_lib.kernels import ActiveSet
from course_lib.spatial.sparse_conv import MaskedBottleneck, SpatialMasker, random_mask

SETTINGS = (
    Setting(1, 256, 64, (56, 56), 4),
    Setting(1, 512, 128, (28, 28), 4),
    Setting(1, 1024, 256, (14, 14), 2),
    Setting(8, 512, 128, (28, 28), 4),
)
TARGET = SETTINGS[1]  # of T10
CONVOLUTIONS = ((1, 64, 56), (1, 256, 28), (3, 64, 56), (3, 128, 28), (3, 256, 28))  # kernel, channels, side


def run(options: Options) -> Report:
    """All settings on one device; `options.quick`: one block, few rounds, no goals."""
    if torch.device(options.device).type == "cuda":
        return sparse_conv_gpu.run(options)
    rows: list[Row] = []
    goals: list[Goal] = []
    with one_thread(), torch.inference_mode():
        roof = measure.Roofline.probe(seconds=0.1 if options.quick else 2.0, device="cpu")
        rates = {"macs_per_s": roof.macs_per_s, "bytes_per_s": roof.bandwidth_bytes_per_s}
        rows.append(Row.of("roofline of one thread", "MAC/s", [roof.macs_per_s], **rates))
        if options.quick:
            _block(Setting(1, 64, 16, (28, 28), 4), (0.25, 1.0), 3, roof, rows)
            return Report("sparse-conv", rows)
        for setting in SETTINGS:
            rounds = 9 if setting.batch > 1 else 25
            worst = _block(setting, DENSITIES, rounds, roof, rows)
            goals.append(Goal(f"T7 on the CPU: {setting.name}, auto at density 1 / dense", worst, 0.95))
        for kernel, channels, side in CONVOLUTIONS:
            _convolution(kernel, channels, side, 15, rows)
    found = {row.name: row for row in rows}[f"{TARGET.name}: cells, d 0.25: skip"]
    return Report("sparse-conv", rows, [Goal(f"T10: {found.name}, times as fast as dense", found.median, 2.0), *goals])


# One block -----------------------------------------------------------------------------------------------------------


def _block(setting: Setting, densities: Sequence[float], rounds: int, roof: measure.Roofline, rows: list[Row]) -> float:
    """Rows of one block; how many times as fast as the fastest dense one `auto` is where everything is active."""
    block, x = make_block(setting), make_input(setting)
    last, xl = MaskedBottleneck.from_dense(block, backend="dense").fold_bn_(), x.contiguous(memory_format=LAST)
    folded = folded_dense(block)
    first, given = folded.to(memory_format=torch.contiguous_format), xl.clone(memory_format=LAST)
    again = partial(given.copy_, xl)
    contenders = {
        "dense, channels first": Contender(lambda: first(x)),
        "dense, channels last": Contender(partial(folded_dense(block).to(memory_format=LAST), xl)),
    }
    plans: dict[str, dict[str, Any]] = {name: {} for name in contenders}
    skip, auto = (MaskedBottleneck.from_dense(block, backend=way).fold_bn_() for way in ("gather", "auto"))
    for kind, density, mask, cell in _plan(setting, densities):
        gate(skip, block, x, mask, cell)
        d, halo = setting.shares(mask, cell)
        floor = setting.floor_s(1, 1, roof, 4) / setting.floor_s(d, halo, roof, 4) if density else 0.0
        ways = {"skip": skip} if density else {"nothing active": skip}
        ways |= {"auto": auto} if kind == "cells" and density else {}
        ways |= {"everything": last} if kind == "cells" and density == 1 else {}
        for way, masked in ways.items():
            name = f"{kind}, d {density:g}: {way}"
            contenders[name] = Contender(partial(masked, given, mask, granularity=cell, inplace=True), again)
            plans[name] = {"kind": kind, "density": d, "halo": halo, "cell": cell, "way": way, "floor": floor}
    times = thread_times(contenders, rounds)
    dense = min(("dense, channels first", "dense, channels last"), key=lambda name: np.median(times[name]))
    for name, samples in times.items():
        details = {**plans[name], "batch": setting.batch, "threads": 1, "ms": 1e3 * float(np.median(samples))}
        faster = [a / b for a, b in zip(times[dense], samples, strict=True)]
        rows.append(Row.of(f"{setting.name}: {name}", "x", faster, **details))
    rows += _break_evens(setting, times, dense, densities)
    rows += _overheads(setting, block, xl, rounds, float(np.median(times[dense])))
    auto_times = [samples for name, samples in times.items() if plans[name].get("way") == "auto" and ", d 1:" in name]
    marks = [dense] + [name for name in times if plans[name].get("way") == "everything"]
    return min(
        float(np.median([a / b for a, b in zip(times[mark], samples, strict=True)]))
        for mark in marks
        for samples in auto_times
    )


def _plan(setting: Setting, densities: Sequence[float]) -> Iterator[tuple[str, float, Tensor, int]]:
    """Kind, density, mask and its cells; density 0 once, for the price of skipping everything."""
    yield ("cells", 0.0, *setting.mask("cells", 0.0))
    for kind in KINDS:
        for density in densities:
            yield (kind, density, *setting.mask(kind, density))


def _break_evens(
    setting: Setting, times: Mapping[str, Sequence[float]], dense: str, densities: Sequence[float]
) -> list[Row]:
    """Where skipping stops paying: read off the measured curve, and predicted from the two ends of it."""
    rows = []
    bar, everything = (float(np.median(times[name])) for name in (dense, "cells, d 1: everything"))
    fixed = float(np.median(times["cells, d 0: nothing active"]))
    for kind in KINDS:
        taken = [float(np.median(times[f"{kind}, d {density:g}: skip"])) for density in densities]
        measured = crossing((0.0, *densities), (fixed, *taken), bar)
        predicted = min(1.0, max(0.0, (bar - fixed) / max(taken[-1] - fixed, 1e-12)))
        own = crossing((0.0, *densities), (fixed, *taken), everything)
        details = {
            "kind": kind,
            "way": "break-even",
            "predicted": predicted,
            "fixed_ms": 1e3 * fixed,
            "everything": own,
        }
        rows.append(Row.of(f"{setting.name}: {kind}, break-even", "share", [measured], **details))
    return rows


def _overheads(setting: Setting, block: nn.Module, x: Tensor, rounds: int, dense_s: float) -> list[Row]:
    """Lists and decisions, as shares of the dense block."""
    masker = SpatialMasker(setting.channels, granularity=setting.cell).eval()
    mask, cell = setting.mask("cells", 0.25)

    def lists() -> ActiveSet:
        return ActiveSet.from_mask(mask, granularity=cell, size=setting.size).dilate(3, 1, 1)

    calls = {"lists of mask and halo": Contender(lists), "masker": Contender(partial(masker, x))}
    times = thread_times(calls, rounds)
    return [
        Row.of(
            f"{setting.name}: {name}", "ms", [1e3 * s for s in samples], of_dense=float(np.median(samples)) / dense_s
        )
        for name, samples in times.items()
    ]


# One convolution -----------------------------------------------------------------------------------------------------


def _convolution(kernel: int, channels: int, side: int, rounds: int, rows: list[Row]) -> None:
    """Rows of a single masked convolution, its list of positions and its zero-filled result within the time."""
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    xl, weight = x.contiguous(memory_format=LAST), conv.weight.contiguous(memory_format=LAST)
    pad = kernel // 2
    contenders = {
        "dense, channels first": Contender(partial(functional.conv2d, x, conv.weight, padding=pad)),
        "dense, channels last": Contender(partial(functional.conv2d, xl, weight, padding=pad)),
    }
    plans: dict[str, dict[str, Any]] = {name: {} for name in contenders}
    for density in (0.1, 0.25, 0.5, 0.75, 1.0):
        mask = random_mask(1, (side, side), density, cell=4, generator=torch.Generator().manual_seed(1))
        call = partial(kernels.masked_conv2d, xl, weight, None, mask, padding=pad, granularity=4, backend="gather")
        want = functional.conv2d(x, conv.weight, padding=pad) * mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
        close(call(), want)
        contenders[f"cells, d {density:g}"] = Contender(call)
        plans[f"cells, d {density:g}"] = {"density": density, "way": "skip", "kind": "cells"}
    times = thread_times(contenders, rounds)
    dense = min(list(times)[:2], key=lambda name: np.median(times[name]))
    for name, samples in times.items():
        faster = [a / b for a, b in zip(times[dense], samples, strict=True)]
        details = {**plans[name], "batch": 1, "threads": 1, "ms": 1e3 * float(np.median(samples))}
        rows.append(Row.of(f"{kernel}x{kernel}, {channels} channels at {side}, N=1: {name}", "x", faster, **details))
