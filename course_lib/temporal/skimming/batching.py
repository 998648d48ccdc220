"""What a batch must compute although some of its rows skip: plans, their bills, and batches of like length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.temporal.skimming.reading import at_least, one_of

PLANS = ("one_by_one", "masked", "compacted", "own_pace")


@dataclass(frozen=True)
class PlanCost:
    """What a plan asks of a machine."""

    rows: int  #: rows a cell computes, in all
    launches: int  #: calls of the cell


def plan_cost(updates: Tensor, plan: str) -> PlanCost:
    """Rows and calls of a plan for known updates.

    Args:
        updates: (N, T) bool, where each row updates.
        plan: "one_by_one" reads row after row; "masked", "compacted" and "own_pace" are those of `SkipRNN.infer`.

    Raises:
        ValueError: another shape or plan.

    >>> rows = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    >>> [(plan, plan_cost(rows, plan).rows, plan_cost(rows, plan).launches) for plan in PLANS]
    [('one_by_one', 6, 6), ('masked', 12, 4), ('compacted', 6, 4), ('own_pace', 6, 2)]
    """
    if updates.ndim != 2:
        raise ValueError(f"updates: got shape {tuple(updates.shape)}, expected (N, T)")
    one_of("plan", plan, PLANS)
    own, some = int(updates.sum()), int(updates.any(0).sum())
    longest = int(updates.sum(1).max()) if len(updates) else 0
    rows = len(updates) * some if plan == "masked" else own
    return PlanCost(rows, {"one_by_one": own, "own_pace": longest}.get(plan, some))


def length_buckets(lengths: Tensor, batch_size: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
    """Batches of sequences of like length, so that little padding is computed.

    Args:
        lengths: (N,) int64.
        batch_size: sequences a batch; the last may be smaller.
        generator: shuffles sequences of equal length and the batches, as training wants; None: from short to long.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    at_least(1, batch_size=batch_size)
    if generator is None:
        return list(lengths.cpu().argsort(stable=True).split(batch_size)) if len(lengths) else []
    mixed = torch.randperm(len(lengths), generator=generator)
    batches = mixed[lengths.cpu()[mixed].argsort(stable=True)].split(batch_size) if len(lengths) else ()
    return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]


def padded_share(lengths: Tensor, batches: list[Tensor]) -> float:
    """The share of the steps of padded batches, each as long as its longest row, that are padding."""
    spent = sum(len(batch) * int(lengths[batch].max()) for batch in batches if len(batch))
    return 1 - int(lengths.sum()) / spent if spent else 0.0
