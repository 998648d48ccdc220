"""Masks to experiment with, the budget that learned ones are held to, and the estimate whether skipping pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def random_mask(
    n: int,
    size: Sequence[int],
    density: float,
    *,
    cell: int = 1,
    shape: Literal["scattered", "disc"] = "scattered",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks of cells with an exact number of active ones in every sample.

    Args:
        n: samples.
        size: (H, W) of the map in positions.
        density: share of active cells in [0, 1]; their number is rounded.
        cell: side of a cell in positions.
        shape: "scattered" cells, each as likely as any other, or a "disc": those nearest to a random centre in the
            middle of the map.

    Returns:
        (n, 1, ceil(H / cell), ceil(W / cell)) bool, on the CPU.

    >>> random_mask(2, (8, 8), 0.25, cell=4).sum((1, 2, 3)).tolist()
    [1, 1]
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density: got {density}, expected a share in [0, 1]")
    if shape not in ("scattered", "disc"):
        raise ValueError(f"shape: got {shape!r}, expected 'scattered' or 'disc'")
    rows, columns = (-(-extent // cell) for extent in size)
    order = torch.rand(n, rows * columns, generator=generator)
    if shape == "disc":
        centre = (0.3 + 0.4 * torch.rand(n, 2, 1, 1, generator=generator)) * torch.tensor([rows, columns]).view(2, 1, 1)
        down, right = torch.arange(rows)[:, None] + 0.5, torch.arange(columns) + 0.5
        distance = (down - centre[:, 0]) ** 2 + (right - centre[:, 1]) ** 2
        order = distance.flatten(1) + 1e-3 * order
    rank = order.argsort(1).argsort(1)
    return (rank < round(density * rows * columns)).view(n, 1, rows, columns)


def opening_bounds(epoch: float, epochs: float, target: float) -> tuple[float, float]:
    """Upper and lower bound on a block's share: both the target at first, 1 and 0 from about a third of training on.

    1 - p (1 - target) and p target, with p = cos^2(pi/2 min(1, epoch / (0.33 epochs))).
    """
    p = math.cos(math.pi / 2 * min(1.0, epoch / (0.33 * epochs))) ** 2
    return 1 - p * (1 - target), p * target


def budget_distance(share: Tensor, shares: Tensor, target: float, bounds: tuple[float, float]) -> Tensor:
    """Squared distance of the network's share () from its target, and mean of the blocks' (L,) from their bounds.

    bounds: the upper and the lower one.
    """
    upper, lower = bounds
    outside = (shares - upper).clamp(min=0) ** 2 + (lower - shares).clamp(min=0) ** 2
    return (share - target) ** 2 + outside.mean()


#: Density from which computing everything is faster than skipping; `course bench sparse-conv` measures it.
BREAK_EVEN = 0.6
_MARGIN = 0.05


class DensityEstimate:
    """Decides between sparse and dense by the share of active cells, with hysteresis and without waiting for a GPU.

    On the CPU the share is that of the mask given. On a GPU it is a moving average that lags by a call or more: the
    count is copied to the host without waiting, and read when it has arrived.

    Args:
        break_even: dense above this share plus 0.05, sparse below it minus 0.05, otherwise as before (sparse at first).

    >>> estimate = DensityEstimate(0.5)
    >>> [estimate.prefers_dense(torch.arange(100) < n) for n in (52, 60, 52, 40)]
    [False, True, True, False]
    """

    def __init__(self, break_even: float = BREAK_EVEN) -> None:
        self.break_even = break_even
        self.dense = False
        self.density = 0.0
        self._pending: tuple[Tensor, int, torch.cuda.Event] | None = None

    def prefers_dense(self, mask: Tensor) -> bool:
        """Take note of a mask of cells, any shape, bool; whether to compute everything."""
        if mask.is_cuda:
            self._observe_later(mask)
        else:
            self.density = int(mask.count_nonzero()) / max(mask.numel(), 1)
        if abs(self.density - self.break_even) > _MARGIN:
            self.dense = self.density > self.break_even
        return self.dense

    def _observe_later(self, mask: Tensor) -> None:
        if torch.cuda.is_current_stream_capturing():
            return  # a graph replays one choice
        if self._pending is not None and self._pending[2].query():
            count, total, _ = self._pending
            self.density = 0.5 * self.density + 0.5 * int(count) / max(total, 1)
            self._pending = None
        if self._pending is None:
            count = torch.empty((), dtype=torch.int64, pin_memory=True)
            count.copy_(mask.count_nonzero(), non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._pending = count, mask.numel(), arrived

    def __deepcopy__(self, memo: dict[int, Any]) -> DensityEstimate:
        return DensityEstimate(self.break_even)

    def __reduce__(self) -> tuple[Any, ...]:
        return DensityEstimate, (self.break_even,)
