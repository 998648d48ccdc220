"""What the benches of skipped positions share: blocks and masks, what must agree before it is timed, thread time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import course_lib
from course_lib import measure
from course_lib.kernels import ActiveSet
from course_lib.spatial.sparse_conv import MaskedBottleneck, random_mask

DENSITIES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
#: Of masks: how they are called, the shape, and whether they are made of the block's cells or of single positions.
KINDS = {"pixels": ("scattered", False), "cells": ("scattered", True), "disc": ("disc", False)}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2, torch.float64: 1e-10}
LAST = torch.channels_last


@dataclass(frozen=True)
class Setting:
    """A bottleneck block and its input."""

    batch: int
    channels: int
    width: int
    size: tuple[int, int]
    cell: int

    @property
    def name(self) -> str:
        """As it stands in the rows."""
        side = f"{self.size[0]}" if self.size[0] == self.size[1] else f"{self.size[0]}x{self.size[1]}"
        return f"block {self.channels}-{self.width} at {side}, N={self.batch}"

    @property
    def macs(self) -> tuple[int, int, int]:
        """Multiply-adds of the three convolutions at one position."""
        return self.channels * self.width, 9 * self.width**2, self.width * self.channels

    def mask(self, kind: str, density: float) -> tuple[Tensor, int]:
        """A mask of cells and their side."""
        shape, in_cells = KINDS[kind]
        cell = self.cell if in_cells else 1
        generator = torch.Generator().manual_seed(0)
        return random_mask(self.batch, self.size, density, cell=cell, shape=shape, generator=generator), cell  # type: ignore[arg-type]

    def shares(self, mask: Tensor, cell: int) -> tuple[float, float]:
        """d and d_D: the share of active positions, and of positions that they look at."""
        active = ActiveSet.from_mask(mask.cpu(), granularity=cell, size=self.size)
        return active.density(), active.dilate(3, 1, 1).density()

    def floor_s(self, d: float, halo: float, roof: measure.Roofline, itemsize: int) -> float:
        """Least seconds by multiply-adds and bytes, convolution by convolution."""
        positions = self.batch * self.size[0] * self.size[1]
        c, w = self.channels, self.width
        moved = (halo * (c + w), halo * w + d * w, d * (w + 2 * c))
        counted = (halo * self.macs[0], d * self.macs[1], d * self.macs[2])
        weights = (c * w, 9 * w * w, w * c)
        return sum(
            roof.bound_s(positions * macs, itemsize * (positions * numbers + held))
            for macs, numbers, held in zip(counted, moved, weights, strict=True)
        )


# Timed ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """What is timed, and what is done before each time outside the clock."""

    call: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None


def thread_times(contenders: Mapping[Any, Contender], rounds: int, warmup: int = 2) -> dict[Any, list[float]]:
    """Seconds of this thread on the processor, contenders taking turns in an order drawn anew each time.

    In its turn each runs once before it is timed, twice: in a network, too, a block follows one of its own kind. A
    fixed order would let whatever disturbs the machine at regular intervals hit the same contenders every time.
    """
    samples: dict[Any, list[float]] = {name: [] for name in contenders}
    order, shuffler = list(contenders.items()), random.Random(0)
    for turn in range(warmup + rounds):
        shuffler.shuffle(order)
        for name, contender in order:
            contender.prepare()
            contender.call()
            start = time.thread_time()
            contender.call()
            contender.call()
            if turn >= warmup:
                samples[name].append((time.thread_time() - start) / 2)
    return samples


def least_seconds(
    calls: Mapping[Any, Callable[[], Any]], *, rounds: int = 15, device: torch.device | str | None = None
) -> dict[Any, float]:
    """Shortest seconds of calls that take turns, by `thread_times` on a CPU, else by `measure.compare`, which waits.

    Other programs only ever add to a time, so the shortest is steadier than the median where they cannot be kept away.

    device: where they compute; by default `course_lib.device()`.
    """
    where = torch.device(device) if device is not None else course_lib.device()
    if where.type == "cpu":
        found = thread_times({name: Contender(call) for name, call in calls.items()}, rounds)
        return {name: min(samples) for name, samples in found.items()}
    return {name: min(timing.samples_s) for name, timing in measure.compare(calls, rounds=rounds, warmup=5).items()}


def crossing(densities: Sequence[float], seconds: Sequence[float], bar: float) -> float:
    """The density at which a curve of times first exceeds `bar`, straight lines between points; at most the last one.

    >>> crossing((0.0, 0.5, 1.0), (1.0, 3.0, 5.0), 4.0)
    0.75
    """
    for k, (above, d) in enumerate(zip(seconds, densities, strict=True)):
        if above > bar:
            if k == 0:
                return float(d)
            below, before = seconds[k - 1], densities[k - 1]
            return float(before + (d - before) * (bar - below) / (above - below))
    return float(densities[-1])


# Made and compared ---------------------------------------------------------------------------------------------------


def make_block(setting: Setting) -> Any:
    """The dense block with random weights, in eval mode; its branch is small, so that it can be applied repeatedly."""
    from torchvision.models.resnet import Bottleneck

    with torch.random.fork_rng():
        torch.manual_seed(0)
        block: Any = Bottleneck(setting.channels, setting.width)
        nn.init.constant_(block.bn3.weight, 0.05)
        for norm in (block.bn1, block.bn2, block.bn3):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return block.eval().requires_grad_(False)


def folded_dense(block: Any) -> Any:
    """A copy of the dense block with its BatchNorms folded."""
    masked = MaskedBottleneck.from_dense(block).fold_bn_()
    copy = type(block)(block.conv1.in_channels, block.conv1.out_channels)
    for k in (1, 2, 3):
        setattr(copy, f"conv{k}", getattr(masked, f"conv{k}"))
        setattr(copy, f"bn{k}", nn.Identity())
    return copy.eval().requires_grad_(False)


def make_input(setting: Setting) -> Tensor:
    """What a ReLU before the block would give."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(setting.batch, setting.channels, *setting.size, generator=generator).relu()


def gate(masked: Any, block: Any, x: Tensor, mask: Tensor, cell: int) -> None:
    """Raise unless the masked block gives the dense block's result where active, and its input elsewhere."""
    size = x.shape[2:]
    positions = mask.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, :, : size[0], : size[1]]
    close(masked(x, mask, granularity=cell), torch.where(positions, block(x), x))


def close(got: Tensor, want: Tensor) -> None:
    """Raise RuntimeError unless two results agree to rounding; NaN never does."""
    error = float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))
    if not error <= TOLERANCES[got.dtype]:
        raise RuntimeError(f"sparse-conv: masked and dense results differ by {error:.2g}, no time is worth printing")
