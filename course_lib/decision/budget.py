"""From a budget to shares, from shares to thresholds: budgeted batch classification.

Source: MSDNet (arXiv 1703.09844) section 4 and its published evaluation; survey (arXiv 2102.04906) section 5.1.
The paper lets a sample leave each exit with the same probability q; the shares are then proportional to (1-q)**k.
Its code, and we, use the ratio rho = 1 - q of neighbouring shares instead: rho may exceed 1, which no q can express,
and only so are budgets above the plain mean of the exits' costs reachable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from course_lib.decision.confidence import check_confidence


def exit_shares(rho: float, exits: int) -> Tensor:
    """Share of samples meant to leave at each exit, proportional to rho**k.

    Args:
        rho: ratio of one exit's share to the one before, in [0, inf]. 0: all leave at the first exit; 1: equal
            shares; inf: all leave at the last.
        exits: K >= 1.

    Returns:
        (K,) float32, sums to 1.

    >>> exit_shares(0.75, 5)
    tensor([0.3278, 0.2458, 0.1844, 0.1383, 0.1037])
    """
    if exits < 1:
        raise ValueError(f"exits: got {exits}, expected at least 1")
    if not rho >= 0:  # also catches NaN
        raise ValueError(f"rho: got {rho}, expected a ratio in [0, inf]")
    shares = torch.zeros(exits, dtype=torch.float64)
    if rho == 0:
        shares[0] = 1
    elif rho == math.inf:
        shares[-1] = 1
    else:
        # softmax of k log(rho) is rho**k normalised, without overflow for large rho
        shares = (torch.arange(exits, dtype=torch.float64) * math.log(rho)).softmax(0)
    return shares.float()


def mean_cost(shares: Tensor | Sequence[float], costs: Sequence[float]) -> float:
    """Mean cost of a sample when `shares[k]` of them leave at exit k, which costs `costs[k]` in all (cumulative).

    >>> mean_cost([0.5, 0.5], [1.0, 3.0])
    2.0
    """
    weights = torch.as_tensor(shares, dtype=torch.float64)
    cost = torch.as_tensor(costs, dtype=torch.float64)
    if weights.shape != cost.shape or weights.ndim != 1:
        raise ValueError(f"shares: got shape {tuple(weights.shape)}, expected one share for each of {len(cost)} costs")
    return float(weights @ cost)


def solve_budget(costs: Sequence[float], budget: float) -> float:
    """The rho whose mean cost is `budget`; the mean cost rises with rho, so bisection finds it.

    Args:
        costs: (K,) cumulative cost of each exit, strictly increasing, any unit.
        budget: mean cost a sample, same unit, between the first and the last cost, ends included.

    Returns:
        rho in [0, inf].

    Raises:
        ValueError: costs that do not increase, or a budget outside them.

    >>> round(solve_budget([6.86, 14.35, 27.54, 41.72, 58.48], 20.0), 3)
    0.661
    """
    cost = [float(c) for c in costs]
    if not cost or any(not b > a for a, b in pairwise(cost)) or not math.isfinite(sum(cost)):
        raise ValueError(f"costs: got {cost}, expected finite, strictly increasing cumulative costs, one an exit")
    if not cost[0] <= budget <= cost[-1]:
        raise ValueError(
            f"budget: got {budget:g}, expected between the first exit's {cost[0]:g} and the last's {cost[-1]:g}"
        )
    if budget == cost[0]:
        return 0.0
    if budget == cost[-1]:
        return math.inf
    low, high = -745.0, 745.0  # log(rho): the whole range of doubles
    for _ in range(200):
        middle = (low + high) / 2
        shares = (torch.arange(len(cost), dtype=torch.float64) * middle).softmax(0)
        low, high = (middle, high) if mean_cost(shares, cost) < budget else (low, middle)
    return math.exp((low + high) / 2)


def find_thresholds(confidence: Tensor, shares: Tensor | Sequence[float]) -> Tensor:
    """Thresholds that let the wanted shares leave, exit by exit, among those still there.

    At exit k the floor(share * N) most confident samples *that have not left before* are wanted; the threshold is the
    confidence of the last of them. Samples that tie with it leave too, as they will at test time.

    Args:
        confidence: (N, K) float, on held-out samples.
        shares: (K,) float, the share of all samples that should leave at each exit.

    Returns:
        (K,) in the dtype of `confidence`: leave at the first k with confidence >= threshold. +inf where nobody is
        wanted; the last is -inf.

    >>> find_thresholds(torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.2, 0.1], [0.1, 0.1]]), [0.5, 0.5])
    tensor([0.8000,   -inf])
    """
    check_confidence(confidence)
    number, exits = confidence.shape
    wanted_share = torch.as_tensor(shares, dtype=torch.float64)
    if wanted_share.shape != (exits,):
        raise ValueError(f"shares: got shape {tuple(wanted_share.shape)}, expected one share for each of {exits} exits")
    if (wanted_share < 0).any() or not math.isclose(float(wanted_share.sum()), 1.0, abs_tol=1e-4):
        raise ValueError(f"shares: got {wanted_share.tolist()}, expected shares >= 0 that sum to 1")
    thresholds = torch.full((exits,), math.inf, dtype=confidence.dtype, device=confidence.device)
    thresholds[-1] = -math.inf
    here = torch.ones(number, dtype=torch.bool, device=confidence.device)
    for k in range(exits - 1):
        # the margin is float32's rounding of a share: 0.7 of 10,000 is 7,000, not 6,999
        wanted = min(math.floor(float(wanted_share[k]) * number * (1 + 1e-6)), int(here.sum()))
        if wanted == 0:
            continue
        thresholds[k] = confidence[here, k].topk(wanted).values[-1]
        here &= confidence[:, k] < thresholds[k]
    return thresholds
