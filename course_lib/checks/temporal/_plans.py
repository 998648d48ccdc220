"""The fourth check of `temporal/skimming`: what a batch must compute whose rows skip at different times."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.checks import Case, Check


def _counted(updates: Tensor, plan: str) -> tuple[int, int]:
    """Walk through the plan and count what it calls."""
    steps = [[bool(row[t]) for row in updates] for t in range(updates.shape[1])]
    calls = []
    for due in steps:
        if plan == "one_by_one":
            calls += [1] * sum(due)
        elif plan == "masked" and any(due):
            calls.append(len(due))
        elif plan == "compacted" and any(due):
            calls.append(sum(due))
        elif plan not in ("one_by_one", "masked", "compacted"):
            raise ValueError(plan)
    return sum(calls), len(calls)


def _bill(
    updates: Tensor,
    plan: str,
    *,
    busy: Callable[[Tensor], int] = lambda u: int(u.any(0).sum()),
    calls: Callable[[Tensor], int] | None = None,
    alone: Callable[[Tensor], int] = lambda u: int(u.sum()),
) -> tuple[int, int]:
    own = int(updates.sum())
    if plan == "one_by_one":
        return own, alone(updates)
    if plan == "masked":
        return len(updates) * busy(updates), busy(updates)
    return own, (calls or busy)(updates)


def _mean_rate(updates: Tensor) -> int:
    return round(updates.float().mean().item() * updates.shape[1]) if updates.numel() else 0


_EXAMPLE = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
_LARGE = torch.rand(8, 20, generator=torch.Generator().manual_seed(4)) < 0.2
_KINDS = ("one_by_one", "masked", "compacted")

plan_cost = Check(
    "plan_cost",
    chapter="temporal/skimming",
    title="what a batch must compute",
    level=4,
    minutes=25,
    reference=_counted,
    cases=[
        *(Case.of(f"the three rows of the text, {plan}", _EXAMPLE, plan, show=f"3 x 6, {plan!r}") for plan in _KINDS),
        *(Case.of(f"eight rows, a fifth updates, {plan}", _LARGE, plan, show=f"8 x 20, {plan!r}") for plan in _KINDS),
        Case.of("everybody reads everything", torch.ones(3, 4).bool(), "masked", show="3 x 4 ones, 'masked'"),
        Case.of("nobody reads", torch.zeros(3, 4).bool(), "masked", show="3 x 4 zeros, 'masked'"),
        Case.of("one row", _EXAMPLE[:1], "compacted", show="1 x 6, 'compacted'"),
        Case(
            "compacting never computes more rows than masking",
            lambda answer: [
                answer(updates, "compacted")[0] <= answer(updates, "masked")[0]
                for updates in (torch.rand(20, 4, 9, generator=torch.Generator().manual_seed(5)) < 0.3)
            ],
            show="20 random patterns of 4 x 9",
        ),
    ],
    wrong_answers={
        "uses_the_mean_rate": lambda updates, plan: _bill(updates, plan, busy=_mean_rate),
        "all_instead_of_any": lambda updates, plan: _bill(updates, plan, busy=lambda u: int(u.all(0).sum())),
        "launches_shrink_too": lambda updates, plan: _bill(
            updates, plan, calls=lambda u: math.ceil(int(u.sum()) / max(len(u), 1))
        ),
        "calls_once_a_row": lambda updates, plan: _bill(updates, plan, alone=len),
        "compacts_to_single_rows": lambda updates, plan: _bill(updates, plan, calls=lambda u: int(u.sum())),
        "compacts_at_own_pace": lambda updates, plan: _bill(updates, plan, calls=lambda u: int(u.sum(1).max())),
        "calls_at_every_step": lambda updates, plan: _bill(updates, plan, busy=lambda u: u.shape[1]),
        "masking_saves_rows": lambda updates, plan: (int(updates.sum()), _bill(updates, plan)[1]),
        "masking_skips_nothing": lambda updates, plan: _bill(
            updates, plan, busy=lambda u: u.shape[1], calls=lambda u: int(u.any(0).sum())
        ),
        "rows_for_steps": lambda updates, plan: _bill(updates, plan, busy=lambda u: int(u.any(1).sum())),
    },
    diagnoses={
        "uses_the_mean_rate": "You took the average share of updates for the share of steps that are needed. Which "
        "steps can a batch leave out when its rows skip at different times?",
        "all_instead_of_any": "You count only the steps at which every row updates. What happens at a step at which "
        "one row updates and the others do not?",
        "launches_shrink_too": "Compacting makes the calls smaller; you also made them fewer. At how many different "
        "steps does somebody update?",
        "calls_once_a_row": "One after the other, you call the cell once for each row. Can it take a row's second word "
        "before it has the state after the first?",
        "compacts_to_single_rows": "Your compacted batch calls the cell once for each row that updates. What is "
        "gathered into one call at a step at which three rows update?",
        "compacts_at_own_pace": "Your compacted batch needs as many calls as its busiest row has updates. Do the rows "
        "wait for each other in this plan, or does each go to its own next update?",
        "calls_at_every_step": "Both of your batched plans call the cell at every step. What is there to call it for "
        "at a step at which nobody updates?",
        "masking_saves_rows": "Your masked batch computes only the rows that update. Who leaves the other rows out of "
        "the matrix product?",
        "masking_skips_nothing": "Your masked batch computes every step. What is there to compute at a step at which "
        "nobody updates?",
        "rows_for_steps": "You counted the rows that ever update where the steps were meant. Which of the two "
        "dimensions is time?",
    },
    accepted=[
        _bill,
        lambda updates, plan: {
            "one_by_one": (int(updates.sum()), int(updates.sum())),
            "masked": (len(updates) * len(updates.nonzero()[:, 1].unique()), len(updates.nonzero()[:, 1].unique())),
            "compacted": (int(updates.sum()), len(updates.nonzero()[:, 1].unique())),
        }[plan],
    ],
    hints=(
        "Walk through time. For each step ask two things: is the cell called at all, and with how many rows?",
        "Rows 100100, 101000, 110000: at step 0 all three update, at steps 1, 2 and 3 one each, at steps 4 and 5 "
        "nobody. Masked: 4 calls of 3 rows. Compacted: 4 calls of 3, 1, 1 and 1 rows.",
        "busy = updates.any(0).sum() is the number of steps at which somebody updates: the calls of both batched "
        "plans. Masked computes len(updates) * busy rows, the other two updates.sum().",
    ),
    shows="A batch in step runs whenever one of its rows runs; compacting saves rows and not a single call.",
)
