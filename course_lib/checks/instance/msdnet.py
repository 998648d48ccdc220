"""Checks of `instance/msdnet`: shares, the budget, thresholds, and inference that lets finished images go.

References are written anew, in plain Python where that is readable, and share nothing with `course_lib.decision`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.checks import Case, Check

CHAPTER = "instance/msdnet"

# Shares --------------------------------------------------------------------------------------------------------------


def _shares(rho: float, exits: int) -> list[float]:
    weights = [rho**k for k in range(exits)]
    return [weight / math.fsum(weights) for weight in weights]


exit_shares = Check(
    "exit_shares",
    chapter=CHAPTER,
    title="the share of images meant for each exit",
    level=1,
    minutes=8,
    reference=_shares,
    cases=[
        Case.of("five exits, each 0.75 of the one before", 0.75, 5),
        Case.of("equal shares", 1.0, 4),
        Case.of("late exits favoured", 1.5, 3),
        Case.of("a steep fall", 0.3, 6),
        Case.of("a single exit", 0.75, 1),
        Case("a share for everybody", lambda answer: float(sum(answer(0.9, 7))), show="the sum for rho = 0.9, 7 exits"),
    ],
    wrong_answers={
        "unnormalised": lambda rho, exits: [rho**k for k in range(exits)],
        "unnormalised_from_one": lambda rho, exits: [rho ** (k + 1) for k in range(exits)],
        "forgets_z": lambda rho, exits: [rho**k * (1 - rho) for k in range(exits)],
        "q_for_rho": lambda rho, exits: _shares(1 - rho, exits),
        "reversed": lambda rho, exits: _shares(rho, exits)[::-1],
    },
    diagnoses={
        "unnormalised": "Your shares are 1, rho, rho squared, ...: the ratios are right. What do they add up to, and "
        "what should the shares of all images add up to?",
        "unnormalised_from_one": "Your shares are rho, rho squared, ...: the ratios are right. How many images do they "
        "account for, all together?",
        "forgets_z": "You gave (1 - q)^(k-1) q, the chance of leaving at exit k, for a row of exits that never ends. "
        "What happens to those who would leave after the last one?",
        "q_for_rho": "Each of your shares is 1 - rho times the one before. Which letter is the chance to leave, and "
        "which the ratio of neighbours?",
        "reversed": "Your largest share stands at the wrong end. With rho below 1, which exit should serve most "
        "images?",
    },
    accepted=[
        lambda rho, exits: rho ** torch.arange(exits) / (rho ** torch.arange(exits)).sum(),
        lambda rho, exits: torch.softmax(torch.arange(exits) * math.log(rho), 0),
    ],
    hints=(
        "Two things must hold: every share is rho times the share before it, and all shares together are 1.",
        "rho = 0.5 and three exits: weights 1, 0.5, 0.25, together 1.75, so the shares are 0.571, 0.286, 0.143.",
        "Raise rho to the powers 0, 1, ..., exits - 1 (`torch.arange`), and divide by the sum.",
    ),
    shows="One number now says how the work is spread over all exits.",
)

# Budget --------------------------------------------------------------------------------------------------------------

_PUBLISHED = [6.86, 14.35, 27.54, 41.72, 58.48]


def _mean_cost(rho: float, costs: Sequence[float]) -> float:
    return math.fsum(share * cost for share, cost in zip(_shares(rho, len(costs)), costs, strict=True))


def _bisect(costs: Sequence[float], budget: float, low: float = 0.0, high: float = 1e6) -> float:
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_cost(middle, costs) < budget else (low, middle)
    return (low + high) / 2


def _refuse_outside(costs: Sequence[float], budget: float) -> None:
    if not costs[0] <= budget <= costs[-1]:
        raise ValueError(f"budget: got {budget}, expected between {costs[0]} and {costs[-1]}")


def _budget(costs: Sequence[float], budget: float) -> float:
    _refuse_outside(costs, budget)
    return _bisect(costs, budget)


def _budget_by_roots(costs: Sequence[float], budget: float) -> float:
    """The mean cost is the budget where sum_k rho^k (C_k - B) = 0; doubling, then halving the step."""
    _refuse_outside(costs, budget)
    rho, step = 0.0, 1.0
    while sum(rho**k * (cost - budget) for k, cost in enumerate(costs)) < 0:
        rho += step
    while step > 1e-9:
        step /= 2
        too_much = sum(rho**k * (cost - budget) for k, cost in enumerate(costs)) > 0
        rho += -step if too_much else step
    return rho


def _caps_at_one(costs: Sequence[float], budget: float) -> float:
    _refuse_outside(costs, budget)
    return _bisect(costs, budget, high=1.0)


def _increments(costs: Sequence[float], budget: float) -> float:
    _refuse_outside(costs, budget)
    return _bisect([sum(costs[: k + 1]) for k in range(len(costs))], budget)


def _costs_reached(answer: Callable[..., Any]) -> list[float]:
    return [_mean_cost(float(answer(list(_PUBLISHED), budget)), _PUBLISHED) for budget in (8.0, 20.0, 35.0, 50.0)]


def _rises(answer: Callable[..., Any]) -> bool:
    found = [float(answer([1.0, 2.0, 4.0], budget)) for budget in (1.1, 1.7, 2.3, 2.9, 3.5)]
    return all(a < b for a, b in itertools.pairwise(found))


solve_budget = Check(
    "solve_budget",
    chapter=CHAPTER,
    title="the rho that spends a budget",
    level=2,
    minutes=12,
    reference=_budget,
    cases=[
        Case.of("20 M, below the mean of the costs", _PUBLISHED, 20.0),
        Case.of("30 M, just above it", _PUBLISHED, 30.0),
        Case.of("two exits", [1.0, 3.0], 1.5),
        Case("the budget is spent", _costs_reached, show="mean costs at your rho for 8, 20, 35 and 50 M"),
        Case("more money, larger rho", _rises, show="five budgets from 1.1 to 3.5, costs 1, 2, 4"),
        Case.of("less than the first exit costs", _PUBLISHED, 5.0),
        Case.of("more than the last exit costs", _PUBLISHED, 60.0),
    ],
    wrong_answers={
        "caps_at_one": _caps_at_one,
        "costs_are_increments": _increments,
        "clips_silently": lambda costs, budget: _bisect(costs, min(max(budget, costs[0]), costs[-1])),
        "returns_q": lambda costs, budget: 1 - _budget(costs, budget),
    },
    diagnoses={
        "caps_at_one": "You never look beyond rho = 1. What is the mean cost there, and what if more may be spent?",
        "costs_are_increments": "You added the costs up before using them, as if each were the price from the exit "
        "before. What has an image spent in all when it leaves at exit 2?",
        "clips_silently": "For a budget no rho can meet, you answered as if it had been another one. How will the "
        "caller notice that the money will not do?",
        "returns_q": "You returned 1 - rho, the chance to leave. By what is a share multiplied to give the next one?",
    },
    accepted=[_budget_by_roots, lambda costs, budget: torch.tensor(_budget(costs, budget), dtype=torch.float64)],
    hints=(
        "The mean cost only rises as rho rises. How does one find a number when one can only ask: too much or too "
        "little?",
        "Costs 1 and 3, budget 1.5: shares 3/4 and 1/4 cost 1.5, and their ratio is 1/3. That is rho.",
        "Check the range first and raise ValueError. Then keep a low and a high rho (high far above 1), and move the "
        "one on the side of the middle: low when the mean cost at the middle is below the budget, else high. A "
        "hundred times.",
    ),
    shows="So a budget in multiply-adds becomes a plan for every exit, even one above the plain mean.",
    tolerance=1e-3,
)

# Thresholds ----------------------------------------------------------------------------------------------------------

_TABLE = torch.tensor(
    [[0.9, 0.95, 0.99], [0.8, 0.7, 0.9], [0.6, 0.9, 0.8], [0.5, 0.6, 0.7], [0.4, 0.8, 0.9], [0.3, 0.5, 0.6]]
)
_TIES = torch.tensor([[0.9, 0.2], [0.7, 0.3], [0.7, 0.4], [0.7, 0.5], [0.2, 0.6], [0.2, 0.7], [0.1, 0.8], [0.1, 0.9]])
_RANDOM = torch.rand(64, 4, generator=torch.Generator().manual_seed(3))


def _thresholds(
    confidence: Tensor,
    shares: Tensor,
    *,
    rank_everybody: bool = False,
    strict: bool = False,
    finite_last: bool = False,
    at_least: int = 0,
    of_the_rest: bool = False,
) -> list[float]:
    """Image by image, with sorted lists; the flags are the planted mistakes."""
    rows, exits = confidence.tolist(), confidence.shape[1]
    here, found = list(range(len(rows))), [math.inf] * exits
    for k in range(exits):
        ranked = sorted((rows[i][k] for i in (range(len(rows)) if rank_everybody else here)), reverse=True)
        wanted = math.floor(float(shares[k]) * (len(here) if of_the_rest else len(rows)))
        wanted = min(max(wanted, at_least), len(ranked))
        if wanted:
            found[k] = ranked[wanted - 1]
        here = [i for i in here if rows[i][k] < found[k] or (strict and rows[i][k] == found[k])]
    if not finite_last:
        found[-1] = -math.inf
    return found


def _vectorised(confidence: Tensor, shares: Tensor) -> Tensor:
    left = confidence.clone()
    number, exits = confidence.shape
    found = torch.full((exits,), torch.inf)
    for k in range(exits - 1):
        wanted = min(int(shares[k] * number), int((left[:, k] > -torch.inf).sum()))
        if wanted:
            found[k] = left[:, k].sort(descending=True).values[wanted - 1]
            left[left[:, k] >= found[k]] = -torch.inf
    found[-1] = -torch.inf
    return found


def _realised(answer: Callable[..., Any]) -> list[int]:
    found = torch.as_tensor(answer(_RANDOM.clone(), torch.tensor([0.25, 0.5, 0.125, 0.125])))
    sure = found <= _RANDOM
    taken = [next((k for k, yes in enumerate(row) if yes), -1) for row in sure.tolist()]
    return [taken.count(k) for k in range(4)]


find_thresholds = Check(
    "find_thresholds",
    chapter=CHAPTER,
    title="the confidence from which on an image may leave",
    level=3,
    minutes=20,
    reference=lambda confidence, shares: _thresholds(confidence, shares),
    cases=[
        Case.of("the six images of the chapter", _TABLE, torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)),
        Case.of("three images tie", _TIES, torch.tensor([0.25, 0.75])),
        Case.of("nobody is wanted at exit 2", _TABLE[:4], torch.tensor([0.5, 0.125, 0.375])),
        Case.of("a tie leaves nobody for exit 2", torch.tensor([[0.7, 0.1, 0.2]] * 4), torch.tensor([0.5, 0.25, 0.25])),
        Case.of("64 random images", _RANDOM, torch.tensor([0.25, 0.25, 0.25, 0.25])),
        Case("the shares come true", _realised, show="how many of 64 images leave at each exit, wanted 16, 32, 8, 8"),
        Case.of("a single exit", _TABLE[:, :1], torch.tensor([1.0])),
    ],
    wrong_answers={
        "ranks_everybody": lambda confidence, shares: _thresholds(confidence, shares, rank_everybody=True),
        "strict_inequality": lambda confidence, shares: _thresholds(confidence, shares, strict=True),
        "finite_last": lambda confidence, shares: _thresholds(confidence, shares, finite_last=True),
        "at_least_one": lambda confidence, shares: _thresholds(confidence, shares, at_least=1),
        "share_of_the_rest": lambda confidence, shares: _thresholds(confidence, shares, of_the_rest=True),
    },
    diagnoses={
        "ranks_everybody": "You ranked all images at exit 2, also the ones that had left at exit 1. Who is still "
        "there to be asked?",
        "strict_inequality": "An image exactly at your threshold still takes part at the next exit. Does it stay at "
        "test time, where the rule is confidence >= threshold?",
        "finite_last": "Your last threshold is a number. What becomes of an image that does not reach it?",
        "at_least_one": "Where the share rounds down to nobody, you let the best image go all the same. Which "
        "threshold would no image ever reach?",
        "share_of_the_rest": "You took the share of the images still there. Of how many images are the shares a "
        "part, if they add up to 1?",
    },
    accepted=[_vectorised, lambda confidence, shares: torch.tensor(_thresholds(confidence, shares))],
    hints=(
        "Go exit by exit and keep a mask of who is still there. Only those are ranked, and those that reach the "
        "threshold must be taken off the mask before the next exit.",
        "Six images, shares 1/2, 1/3, 1/6. Exit 1 wants three: 0.9, 0.8, 0.6, so the threshold is 0.6. Left are d, "
        "e, f. Exit 2 wants two of them: 0.8, 0.6, so the threshold is 0.6 again.",
        "For k in range(K - 1): wanted = floor(share * N), at most as many as are there; if it is 0, the threshold "
        "stays inf; else it is `confidence[here, k].topk(wanted).values[-1]`, and `here &= confidence[:, k] < "
        "threshold`.",
    ),
    shows="Thresholds are quantiles among those still there, so they need no calibrated confidence.",
)

# Inference -----------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """A linear layer that counts the rows it works on; rows of no call count nothing."""

    weight: Tensor

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(width, width, generator=generator))
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return torch.tanh(x @ self.weight)


class _Head(nn.Module):
    weight: Tensor

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(width, classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def _network() -> tuple[list[_Block], list[_Head]]:
    generator = torch.Generator().manual_seed(5)
    return [_Block(4, generator) for _ in range(3)], [_Head(4, 3, generator) for _ in range(3)]


_IMAGES = torch.randn(8, 4, generator=torch.Generator().manual_seed(11))


def _trial(name: str, images: Tensor, thresholds: Sequence[float]) -> Case:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        blocks, heads = _network()
        lent = images.clone()
        logits, exit_index = answer(blocks, heads, lent, torch.tensor(thresholds))
        return {
            "exit_index": exit_index,
            "rows each block saw": [block.rows for block in blocks],
            "logits": logits,
            "x is unchanged": torch.equal(lent, images),
        }

    return Case(name, run, show=f"{len(images)} images, thresholds {', '.join(f'{t:g}' for t in thresholds)}")


def _one_by_one(blocks: Any, heads: Any, x: Tensor, thresholds: Tensor) -> tuple[list[list[float]], list[int]]:
    """Each image alone through the network: slow, and plainly right."""
    answers, taken = [], []
    for image in x:
        features = image[None]
        for k, (block, head) in enumerate(zip(blocks, heads, strict=True)):
            features = block(features)
            logits = head(features)
            if k == len(blocks) - 1 or logits.softmax(1).max() >= thresholds[k]:
                break
        answers.append(logits[0].tolist())
        taken.append(k)
    return answers, taken


def _dropping(
    blocks: Any, heads: Any, x: Tensor, thresholds: Tensor, *, sort_back: bool = True, ask_last: bool = False
) -> tuple[Tensor, Tensor]:
    here, answers, indices, taken = torch.arange(len(x)), [], [], []
    for k, (block, head) in enumerate(zip(blocks, heads, strict=True)):
        x = block(x)
        logits = head(x)
        sure = logits.softmax(1).amax(1) >= thresholds[k]
        if k == len(blocks) - 1 and not ask_last:
            sure[:] = True
        answers.append(logits[sure])
        indices.append(here[sure])
        taken.append(torch.full_like(here[sure], k))
        x, here = x[~sure], here[~sure]
    answers.append(torch.zeros(len(here), logits.shape[1]))  # those nobody answered
    indices.append(here)
    taken.append(torch.zeros_like(here))
    order = torch.cat(indices).argsort() if sort_back else slice(None)
    return torch.cat(answers)[order], torch.cat(taken)[order]


def _mask_after_compute(blocks: Any, heads: Any, x: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for block, head in zip(blocks, heads, strict=True):
        x = block(x)
        outputs.append(head(x))
    sure = torch.stack([logits.softmax(1).amax(1) >= thresholds[k] for k, logits in enumerate(outputs)], 1)
    sure[:, -1] = True
    taken = sure.int().argmax(1)
    return torch.stack(outputs)[taken, torch.arange(len(x))], taken


def _waits_for_all(blocks: Any, heads: Any, x: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    for k, (block, head) in enumerate(zip(blocks, heads, strict=True)):
        x = block(x)
        logits = head(x)
        if (logits.softmax(1).amax(1) >= thresholds[k]).all():
            break
    return logits, torch.full((len(x),), k)


infer = Check(
    "infer",
    chapter=CHAPTER,
    title="inference that lets finished images go",
    level=4,
    minutes=30,
    reference=_one_by_one,
    cases=[
        _trial("eight images leave one after another", _IMAGES, [0.8, 0.7, -math.inf]),
        _trial("the last exit answers, sure or not", _IMAGES, [0.8, 0.9, 0.99]),
        _trial("all leave at exit 1", _IMAGES, [0.0, 0.5, -math.inf]),
        _trial("nobody leaves early", _IMAGES, [math.inf, math.inf, -math.inf]),
        _trial("a batch of one", _IMAGES[:1], [0.8, 0.7, -math.inf]),
    ],
    wrong_answers={
        "mask_after_compute": _mask_after_compute,
        "lost_order": lambda *args: _dropping(*args, sort_back=False),
        "waits_for_all": _waits_for_all,
        "asks_the_last": lambda *args: _dropping(*args, ask_last=True),
    },
    diagnoses={
        "mask_after_compute": "Every answer is right, and every block worked on every image. Which rows should block 2 "
        "never have seen?",
        "lost_order": "Your answers come in the order in which the images left. How does the caller know whose they "
        "are?",
        "waits_for_all": "Your batch leaves only when all of its images are sure. How often are 32 images sure at "
        "once?",
        "asks_the_last": "Images that are not sure at the last exit get no answer from you. Who else should answer "
        "them?",
    },
    accepted=[
        _dropping,
        lambda blocks, heads, x, thresholds: tuple(
            torch.tensor(part) for part in _one_by_one(blocks, heads, x, thresholds)
        ),
    ],
    hints=(
        "Carry two things from block to block: the features of the images still there, and their places in the batch.",
        "Eight images, three leave at exit 1: block 2 is called on five rows, and `here` holds the five places. An "
        "answer goes to `answers[here[sure]]`.",
        "In the loop: features = blocks[k](features); logits = heads[k](features); sure = confidence >= "
        "thresholds[k] (all True at the last k); write logits and k to the places here[sure]; then keep "
        "features[~sure] and here[~sure].",
    ),
    shows="The rows each block saw are the images still there, so the work is not masked but gone.",
)

TASKS = (exit_shares, solve_budget, find_thresholds, infer)
