"""Points of a square, easy left and hard right: the smallest task on which a gate has something to learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """Points (N, 2) of the square [-1, 1]^2 in four classes; `hard` marks those that no straight line tells apart."""

    points: Tensor
    labels: Tensor
    hard: Tensor


def two_regions(n: int, *, seed: int = 0) -> Regions:
    """Left of 0.2 (easy, 60 %) the sign of the second coordinate is the class; right of it, a disc against its rest.

    Args:
        n: number of points, 0 included.
        seed: same arguments, same points.

    >>> few = two_regions(4, seed=1)
    >>> few.labels.tolist(), few.hard.tolist()
    ([2, 1, 1, 1], [True, False, False, False])
    """
    if n < 0:
        raise ValueError(f"n: got {n}, expected a number of points >= 0")
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    hard = points[:, 0] > 0.2
    disc = (points - torch.tensor([0.6, 0.0])).norm(dim=1) < 0.36
    return Regions(points, torch.where(hard, 2 + disc.long(), (points[:, 1] > 0).long()), hard)
