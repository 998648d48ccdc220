"""A network with exits on plain vectors, small enough to be trained in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.decision.early_exit import AdaptiveInference, CostConvention, State


class DenseMLP(AdaptiveInference, nn.Module):
    """K narrow-to-wide blocks on vectors, each reading the input and all blocks before it.

    Every block is Linear-BatchNorm-ReLU with a linear exit on its own output. The first is meant to be too narrow for
    the hard samples: an exit that cannot learn them had better not try. The chapter trains five blocks, of widths
    5, 8, 16, 32 and 64.

    Args:
        widths: of the K blocks; features: of the input.

    >>> [tuple(logits.shape) for logits in DenseMLP()(torch.zeros(2, 64))]
    [(2, 10), (2, 10), (2, 10), (2, 10)]
    """

    def __init__(self, features: int = 64, classes: int = 10, widths: Sequence[int] = (5, 8, 24, 64)) -> None:
        super().__init__()
        self.features, self.classes, self.exits = features, classes, len(widths)
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.blocks.append(nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU()))
            self.heads.append(nn.Linear(width, classes))
            features += width

    def start(self, x: Tensor) -> State:
        """x: (N, features)."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, {self.features})")
        return [x]

    def advance(self, state: State, k: int) -> Tensor:
        """Run block k on all that stands in `state`, append what it gives, and return the logits (N, classes)."""
        state.append(self.blocks[k](torch.cat([features for features in state if features is not None], 1)))
        return self.heads[k](state[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """All exits, for training.  x: (N, features) -> K logits (N, classes)."""
        return list(self.anytime(x))

    def exit_costs(self, size: int, *, convention: CostConvention = "macs") -> list[float]:
        """Cumulative multiply-adds a sample at each exit, earlier heads included; `size` is the number of features.

        Every block before an exit is needed by it, so "macs" and "lazy" are the same here.
        """
        if convention not in ("macs", "lazy"):
            raise ValueError(f"convention: got {convention!r}, expected 'macs' or 'lazy'")
        if size != self.features:
            raise ValueError(f"size: got {size}, expected {self.features}")
        parts: Any = zip(self.blocks, self.heads, strict=True)
        return list(itertools.accumulate(float(block[0].weight.numel() + head.weight.numel()) for block, head in parts))
