"""The roofline: no computation is faster than its arithmetic at full speed, or its traffic at full bandwidth.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import course_lib
from course_lib.measure.observe import is_layer, observing, own_parameters, tensors_in
from course_lib.measure.timing import latency


@dataclass(frozen=True)
class Roofline:
    """Two rates of one device: bytes per second from memory, float32 multiply-adds per second.

    >>> roof = Roofline(bandwidth_bytes_per_s=10.0, macs_per_s=40.0, device="cpu")
    >>> roof.ridge, roof.attainable(2.0), roof.bound_s(macs=40, bytes=20)
    (4.0, 20.0, 2.0)
    """

    bandwidth_bytes_per_s: float
    macs_per_s: float
    device: str

    def __post_init__(self) -> None:
        for name in ("bandwidth_bytes_per_s", "macs_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive rate")

    @classmethod
    def probe(cls, *, seconds: float = 1.0, device: torch.device | str | None = None) -> Roofline:
        """Measure both rates within `seconds`: the best large copy, and the best large matrix product or convolution.

        The two kinds of arithmetic come from different libraries, and either may be the faster one. float32, with
        the threads torch is set to use. A copy reads and writes, so it moves twice its size. `device`
        defaults to `course_lib.device()`. Holds 256 MiB on a CPU, 1 GiB on a GPU, while it runs.
        """
        if not seconds > 0:
            raise ValueError(f"seconds: got {seconds}, expected a positive time")
        where = torch.device(device) if device is not None else course_lib.device()
        large = where.type != "cpu"
        copied, copy_s = _best_copy((512 if large else 128) << 18, where, seconds / 3)
        width = 4096 if large else 1024
        matrix = torch.ones(width, width, device=where)
        product = torch.empty_like(matrix)
        by_product = width**3 / _best(lambda: torch.mm(matrix, matrix, out=product), seconds / 3)
        maps = torch.ones(64 if large else 1, 128, 56, 56, device=where)
        kernel = torch.ones(128, 128, 3, 3, device=where)
        macs = maps.numel() * kernel[0].numel()
        by_convolution = macs / _best(lambda: torch.conv2d(maps, kernel, padding=1), seconds / 3)
        return cls(2 * copied / copy_s, max(by_product, by_convolution), where.type)

    @property
    def ridge(self) -> float:
        """Multiply-adds per byte at which both limits meet; below it memory decides, above it arithmetic."""
        return self.macs_per_s / self.bandwidth_bytes_per_s

    def attainable(self, intensity: float) -> float:
        """Multiply-adds per second that can be reached at `intensity` multiply-adds per byte."""
        if not intensity >= 0:
            raise ValueError(f"intensity: got {intensity}, expected a number >= 0")
        return min(self.macs_per_s, intensity * self.bandwidth_bytes_per_s)

    def bound_s(self, macs: float, bytes: float) -> float:
        """Least seconds that `macs` multiply-adds with `bytes` of traffic take."""
        if not (macs >= 0 and bytes >= 0):
            raise ValueError(f"macs, bytes: got {macs} and {bytes}, expected numbers >= 0")
        return max(macs / self.macs_per_s, bytes / self.bandwidth_bytes_per_s)


def intensity(macs: float, bytes: float) -> float:
    """Multiply-adds per byte moved.

    >>> intensity(100, 50)
    2.0
    """
    if not (macs >= 0 and bytes > 0):
        raise ValueError(f"macs, bytes: got {macs} and {bytes}, expected macs >= 0 and bytes > 0")
    return macs / bytes


def moved_bytes(module: nn.Module, *inputs: Any) -> int:
    """Bytes that `module(*inputs)` has to move: input, weights and output of each layer that ran, once each.

    This is what separate layers cost when nothing stays in a cache between them: a lower bound for one layer, and
    for a network what fusing layers saves. A layer is a module that ran and in which no other did; what a module
    computes outside its layers (an addition in its own forward) is not seen, what was skipped costs nothing.

    >>> moved_bytes(nn.Linear(4, 3, bias=False), torch.zeros(2, 4)) == 4 * (2 * 4 + 4 * 3 + 2 * 3)
    True
    """
    per_call: list[tuple[nn.Module, int]] = []

    def record(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        total = _bytes_once(given) + _bytes_once(output) + _bytes_once([weight for _, weight in own_parameters(layer)])
        per_call.append((layer, total))

    with observing(module, record):
        module(*inputs)
    ran = {layer for layer, _ in per_call}
    return sum(total for layer, total in per_call if is_layer(layer, ran))


def _bytes_once(value: Any) -> int:
    """Bytes of all tensors in `value`; one given twice (query, key and value of self-attention) counts once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors_in(value)}.values())


def _best_copy(elements: int, device: torch.device, seconds: float) -> tuple[int, float]:
    """Bytes copied and the shortest time it took; both tensors are freed on return."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    return elements * source.element_size(), _best(lambda: target.copy_(source), seconds)


def _best(fn: Callable[[], object], seconds: float) -> float:
    """Shortest time of one call, called for about `seconds` and at least three times."""
    end = time.perf_counter() + seconds
    best = min(latency(fn, warmup=1, repeats=3).samples_s)
    while time.perf_counter() < end:
        best = min(best, latency(fn, warmup=0, repeats=1).median_s)
    return best
