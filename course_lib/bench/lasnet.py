"""LASNet against the static network, and its latency predictor against the clock.

The network: a ResNet with random weights whose maskers are set so that a given share of the cells of every block is
active; the cells then follow the noise in the images, which is scattered, the hardest case for a halo. Timed is what a
user calls, maskers, lists and all. The static rival is the same network without maskers, BatchNorm folded for both.

- CPU: ResNet-50, one image, one thread, thread CPU time; the faster of both memory layouts is the mark to beat.
- GPU: ResNet-101, batches of 128, float16, channels last, device events and CUDA-graph replay; the static network also
  compiled. The paper reports 36 % less latency at equal accuracy on a V100: the goal at a rate of one half.

Granularities: pixels, the published ones, and the one that the predictor chooses for this machine. The blocks of each
stage are timed alone, too, at every S and three rates, beside what the predictor says for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import measure
from course_lib.bench.blocks import LAST, Contender, close, thread_times
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.exits import one_thread
from course_lib.bench.sparse_conv_gpu import DTYPE, REPEATS, Clock
from course_lib.spatial import lasnet
from course_lib.spatial.lasnet import STAGE_MAPS, HardwareSpec, LASNet, MaskedBlock
from course_lib.spatial.sparse_conv import random_mask

RATES = (0.25, 0.5, 0.75)
PUBLISHED = ((1, 1, 1, 1), (4, 4, 2, 1), (8, 4, 7, 1))
SAVED = 0.36  # of the latency of ResNet-101, published for a V100
ON_CPU = 1.1  # times as fast as the static network, at a rate of one half
SIZE = 224

Times = Mapping[str, Sequence[float]]


def run(options: Options) -> Report:
    """Network and blocks on one device; `options.quick`: a small network, few rounds, no goals."""
    cuda = torch.device(options.device).type == "cuda"
    rows: list[Row] = []
    goals: list[Goal] = []
    rates = (0.5,) if options.quick else RATES
    with one_thread(), torch.inference_mode():
        seconds = 0.3 if options.quick else 3.0
        spec = HardwareSpec.probe(batch=128 if cuda else 1, seconds=seconds, device=options.device)
        rows.append(Row.of("probe", "MAC/s", [spec.engines * spec.lane_rate], **_described(spec)))
        timer = _on_gpu(options) if cuda else _on_cpu(options)
        chosen = lasnet.choose_granularity(spec, depth=_depth(cuda), rate=0.5)[0]
        for granularity in ((4, 4, 2, 1),) if options.quick else dict.fromkeys((chosen, *PUBLISHED)):
            rows += _network(granularity, rates, spec, timer, options)
        for stage in (2,) if options.quick else range(len(STAGE_MAPS)):
            rows += _blocks(stage, rates, spec, timer, options)
        if not options.quick:
            name = f"{_name(chosen)}, rate 0.5"
            found = next(row.median for row in rows if row.name == name)
            goals.append(Goal(f"{name}: times as fast as static", found, 1 / (1 - SAVED) if cuda else ON_CPU))
            rows.append(_memory(chosen, options))
    return Report("lasnet", rows, goals)


def _described(spec: HardwareSpec) -> dict[str, Any]:
    names = ("engines", "lanes", "clock_hz", "bandwidth", "l2_ratio", "launch_s", "batch")
    return {name: getattr(spec, name) for name in names}


def _depth(cuda: bool) -> tuple[int, ...]:
    return (3, 4, 23, 3) if cuda else (3, 4, 6, 3)


def _name(granularity: Sequence[int]) -> str:
    return "network " + "-".join(map(str, granularity))


# Clocks --------------------------------------------------------------------------------------------------------------

Timer = Callable[[Mapping[str, Callable[[], Any]]], dict[str, list[float]]]


def _on_cpu(options: Options) -> Timer:
    rounds = 2 if options.quick else 9
    return lambda calls: thread_times({name: Contender(call) for name, call in calls.items()}, rounds, warmup=1)


def _on_gpu(options: Options) -> Timer:
    """Each call captured in a CUDA graph and replayed; a call that cannot be captured fails here, and should."""
    clock = Clock(torch.device(options.device), 5 if options.quick else REPEATS)

    def replayed(calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        return {name: clock.graph(partial(_ignoring_set, call), 1) for name, call in calls.items()}

    return replayed


def _ignoring_set(call: Callable[[], Any], _: int) -> Any:
    """The clock hands out the number of an input set; here there is one."""
    return call()


def _dtype(options: Options) -> torch.dtype:
    return DTYPE if torch.device(options.device).type == "cuda" else torch.float32


# Networks ------------------------------------------------------------------------------------------------------------


class Static(nn.Module):
    """A LASNet's network without its maskers."""

    def __init__(self, model: LASNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, H) -> logits (N, classes)."""
        h = self.model.stem(x)
        for block in self.model.blocks:
            h = static_block(block, h)
        return self.model.head(h.mean((2, 3)))


def static_block(block: MaskedBlock, x: Tensor) -> Tensor:
    """A block without its masker. Works in place where that changes nothing outside."""
    h = block.c(block.b(block.a(x).relu_()).relu_())
    return h.add_(x if block.shortcut is None else block.shortcut(x)).relu_()


def calibrate(model: LASNet, x: Tensor, rate: float) -> None:
    """Set the maskers' biases so that on `x` a share `rate` of the cells of every block is active."""
    h = model.stem(x).contiguous(memory_format=LAST)
    for block in model.blocks:
        bias = block.masker.conv.get_parameter("bias")
        bias.zero_()
        logits = block.masker.logits(h).float()
        difference = (logits[:, 0] - logits[:, 1]).flatten()
        # the last cell that is wanted sits half-way above its follower
        ranked = difference.sort(descending=True).values
        wanted = min(max(round(rate * len(ranked)), 1), len(ranked) - 1)
        bias[0] = -(ranked[wanted - 1] + ranked[wanted]) / 2
        h = block.sparse(h, *block.active(block.masker(h, 1.0), h))


def _build(granularity: Sequence[int], options: Options, rate: float) -> tuple[LASNet, Tensor]:
    """A network with folded BatchNorm at this rate, and its images."""
    device, dtype = torch.device(options.device), _dtype(options)
    cuda = device.type == "cuda"
    make = LASNet.resnet101 if cuda and not options.quick else LASNet.resnet50
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(granularity=tuple(granularity), target_rate=rate).eval()
        for block in model.blocks:  # branches small beside their shortcuts, as after training; float16 holds them
            nn.init.constant_(block.c[1].get_parameter("weight"), 0.2)
    folded: Any = measure.fold_batchnorm(model).to(device, dtype).to(memory_format=LAST).requires_grad_(False)
    size, batch = (64, 2) if options.quick else (SIZE, 128 if cuda else 1)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    return folded, x.to(device, dtype).contiguous(memory_format=LAST)


def _network(
    granularity: Sequence[int], rates: Sequence[float], spec: HardwareSpec, timer: Timer, options: Options
) -> list[Row]:
    """Rows of one granularity: times as fast as the best static network, beside the prediction."""
    cuda = torch.device(options.device).type == "cuda"
    model, x = _build(granularity, options, 0.5)
    static = Static(model)
    calls: dict[str, Callable[[], Any]] = {"static, channels last": partial(static, x)}
    if cuda:
        compiled = torch.compile(static, mode="max-autotune-no-cudagraphs", fullgraph=True)
        calls["static, compiled"] = partial(compiled, x)
    else:
        first = Static(_build(granularity, options, 0.5)[0].to(memory_format=torch.contiguous_format))
        calls["static, channels first"] = partial(first, x.contiguous())
    outputs = {}
    for rate in rates:
        dynamic, _ = _build(granularity, options, rate)
        calibrate(dynamic, x, rate)
        outputs[rate] = dynamic.infer(x)
        close(dynamic.infer(x, masks=outputs[rate].masks).logits, dynamic(x, masks=outputs[rate].masks).logits)
        calls[f"rate {rate:g}"] = partial(dynamic.classify, x)
    times = timer(calls)
    marks = [name for name in calls if name.startswith("static")]
    best = min(marks, key=lambda name: np.median(times[name]))
    predicted = {
        rate: lasnet.predict_network(spec, depth=_depth(cuda))
        / lasnet.predict_network(spec, depth=_depth(cuda), granularity=granularity, rate=rate)
        for rate in rates
    }
    rows = []
    for name, samples in times.items():
        details: dict[str, Any] = {"batch": len(x), "ms": 1e3 * float(np.median(samples)), "threads": 1, "mark": best}
        if name not in marks:
            rate = float(name.removeprefix("rate "))
            details |= {"rate": rate, "cells": list(granularity), "predicted": predicted[rate]}
            details |= {"macs": float(outputs[rate].macs), "mac_rate": float(outputs[rate].rate)}
        faster = [float(np.median(times[best])) / seconds for seconds in samples]
        rows.append(Row.of(f"{_name(granularity)}, {name}", "x", faster, **details))
    return rows


def _memory(granularity: Sequence[int], options: Options) -> Row:
    """Bytes of the sparse network at work, over those of the static one."""
    model, x = _build(granularity, options, 0.5)
    calibrate(model, x, 0.5)
    calls = {"sparse": partial(model.classify, x), "static": partial(Static(model), x)}
    held = {name: measure.peak_memory(call) for name, call in calls.items()}
    return Row.of("memory, sparse / static", "x", [held["sparse"] / held["static"]], **held)


# Blocks --------------------------------------------------------------------------------------------------------------


def _blocks(stage: int, rates: Sequence[float], spec: HardwareSpec, timer: Timer, options: Options) -> list[Row]:
    """The inner block of a stage at every S: times as fast as static, measured and predicted, masker included."""
    device, dtype = torch.device(options.device), _dtype(options)
    shape = lasnet.stage_blocks(stage, 2)[-1]
    channels, width, side = shape["channels"], shape["width"], shape["size"]
    cells = [s for s in (1, 2, 4, 7, 8) if s < side and side % s == 0]
    x = torch.rand(spec.batch, channels, side, side, generator=torch.Generator().manual_seed(stage))
    x = x.to(device, dtype).contiguous(memory_format=LAST)
    work = x.clone(memory_format=LAST)
    calls: dict[str, Callable[[], Any]] = {}
    plans: dict[str, dict[str, Any]] = {}
    predict = partial(lasnet.predict_block, spec, **shape)
    for s in cells:
        block = _block(channels, width, s).to(device, dtype).to(memory_format=LAST)
        calls.setdefault("static", partial(static_block, block, x))
        for rate in rates:
            generator = torch.Generator().manual_seed(0)
            mask = random_mask(len(x), (side, side), rate, cell=s, generator=generator).to(device)
            close(block.sparse(x.clone(memory_format=LAST), *block.active(mask, x)), block.dense(x, mask.to(dtype)))
            name = f"S={s}, rate {rate:g}"
            calls[name] = partial(_decide_and_run, block, work, mask)
            plans[name] = {"stage": stage + 1, "cell": s, "rate": rate}
            plans[name]["predicted"] = predict() / predict(granularity=s, rate=rate)
    times = timer(calls)
    static = float(np.median(times["static"]))
    rows = []
    for name, samples in times.items():
        details = {**plans.get(name, {}), "batch": len(x), "us": 1e6 * float(np.median(samples))}
        label = f"block {channels}-{width} at {side}, N={len(x)}: {name}"
        rows.append(Row.of(label, "x", [static / seconds for seconds in samples], **details))
    return rows


def _block(channels: int, width: int, cell: int) -> Any:
    """A block with random weights and folded BatchNorm, its branch small, so that it can be applied repeatedly."""
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(0)
        block = MaskedBlock(channels, width, channels, granularity=cell).eval()
        nn.init.constant_(block.c[1].get_parameter("weight"), 0.02)
    return measure.fold_batchnorm(block).requires_grad_(False)


def _decide_and_run(block: MaskedBlock, x: Tensor, mask: Tensor) -> Tensor:
    """The decision costs its pass over the input; what is then computed is the given mask."""
    block.masker(x, 1.0)
    return block.sparse(x, *block.active(mask, x))
