"""Checks of `temporal/skimming`: the pause of an accumulator, a gated step, the loss of jumps, and the bill of a batch.

References are plain Python, in exact fractions or element by element, and share nothing with
`course_lib.temporal.skimming`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.checks import Case, Check
from course_lib.checks.temporal._plans import plan_cost

CHAPTER = "temporal/skimming"

# The pause -----------------------------------------------------------------------------------------------------------


def _by_recurrence(increment: float) -> int:
    """Add up in exact fractions until one half is reached."""
    step = total = Fraction(increment)
    copied = 0
    while total < Fraction(1, 2):
        total += min(step, 1 - total)
        copied += 1
    return copied


def _until(level: float, increment: float) -> int:
    return math.ceil(level / increment)


_RANDOM = (0.004 + 0.99 * torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).tolist()

skipped_steps = Check(
    "skipped_steps",
    chapter=CHAPTER,
    title="how long a gate will pause",
    level=1,
    minutes=8,
    reference=_by_recurrence,
    cases=[
        Case.of("a fifth at a time", 0.2),
        Case.of("a quarter at a time, which meets one half exactly", 0.25),
        Case.of("one half", 0.5),
        Case.of("more than one half", 0.73),
        Case.of("a gate that is certain", 1.0),
        Case.of("a gate that is nearly shut", 1 / 1024),
        Case(
            "a hundred random increments, against the recurrence",
            lambda answer: [answer(increment) for increment in _RANDOM],
            show="100 numbers between 0.004 and 0.994",
        ),
    ],
    wrong_answers={
        "waits_for_one": lambda increment: _until(1.0, increment) - 1,
        "rounds_half_to_even": lambda increment: math.floor(0.5 / increment),
        "counts_the_update": lambda increment: _until(0.5, increment),
        "rounds_down": lambda increment: max(0, math.floor(0.5 / increment) - 1),
        "rounds_below_zero": lambda increment: math.floor(0.5 / increment) - 1,
        "rounds_to_nearest": lambda increment: round(0.5 / increment) - 1,
        "pauses_at_least_once": lambda increment: max(1, _until(0.5, increment) - 1),
        "divides_by_one_half": lambda increment: max(0, math.ceil(increment / 0.5) - 1),
    },
    diagnoses={
        "waits_for_one": "You wait until the accumulated probability reaches 1. At which value does the gate fire?",
        "rounds_half_to_even": "An increment of 0.25 gives you two skipped steps, and one of 0.5 gives one: you let "
        "exactly one half pass. Which side of the threshold is one half on?",
        "counts_the_update": "You are one too many everywhere: you counted the step that fires. Is that one skipped?",
        "rounds_down": "0.25 and 0.5 are right, 0.2 gives one skipped step instead of two. After two steps 0.4 has "
        "come together: is that enough?",
        "rounds_below_zero": "0.2 gives you one skipped step and 0.73 gives minus one. Which way must a fraction be "
        "rounded, so that the accumulator is not short of one half?",
        "rounds_to_nearest": "You round 0.5 / increment to the nearest whole number, down as often as up. Which of the "
        "two leaves the accumulator short of one half?",
        "pauses_at_least_once": "Increments from one half on give you one skipped step. What does the accumulator hold "
        "when the first step after an update begins?",
        "divides_by_one_half": "Your pause does not grow when the increment shrinks. How often does 0.1 fit into 0.5?",
    },
    accepted=[
        lambda increment: math.ceil(Fraction(1, 2) / Fraction(increment)) - 1,
        lambda increment: next(n for n in range(1, 10**6) if n * increment >= 0.5) - 1,
    ],
    hints=(
        "After an update the accumulator holds the increment itself. Write down what it holds at each step that "
        "follows, and mark the first one that may update again.",
        "Increment 0.2: the steps after the update begin with 0.2, 0.4, 0.6. The third one fires, so two are skipped.",
        "It is the smallest n with n * increment >= 0.5, less one: the ceiling of 0.5 / increment, minus 1.",
    ),
    shows="The pause is known as soon as it begins: nothing need be computed to find its end.",
)

# A gated step --------------------------------------------------------------------------------------------------------

_X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
_H = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
_W = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
_MIXED = torch.tensor([0.7, 0.2, 0.5, 0.49, 1.0])


class _Cell:
    """h' = tanh([x; h] W), which remembers the rows it has seen."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        self.seen.append(len(x))
        return torch.tanh(torch.cat([x, h], 1) @ _W)


def _row_by_row(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    rows = [h[i] if update[i] < 0.5 else cell(x[i : i + 1], h[i : i + 1])[0] for i in range(len(h))]
    return torch.stack(rows) if rows else h.clone()


def _by_index_put(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = (update >= 0.5).nonzero().squeeze(1)
    return h.index_copy(0, due, cell(x[due], h[due]))


def _by_mask(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = update >= 0.5
    after = h.clone()
    after[due] = cell(x[due], h[due])
    return after


def _everything(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    return torch.where((update >= 0.5)[:, None], cell(x, h), h)


def _resets(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = (update >= 0.5).nonzero().squeeze(1)
    return torch.zeros_like(h).index_copy(0, due, cell(x[due], h[due]))


def _blends(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    return update[:, None] * cell(x, h) + (1 - update[:, None]) * h


def _above(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    return _by_mask(cell, x, h, (update > 0.5).to(update.dtype))


def _detaches(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = (update >= 0.5).nonzero().squeeze(1)
    return h.index_copy(0, due, cell(x[due], h[due]).detach())


def _all_or_none(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    return _everything(cell, x, h, update) if (update >= 0.5).any() else h.clone()


def _in_place(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = update >= 0.5
    h[due] = cell(x[due], h[due])
    return h


def _joined(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = update >= 0.5
    return torch.cat([cell(x[due], h[due]), h[~due]])


def _only_the_due(cell: Callable[..., Tensor], x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    due = update >= 0.5
    return cell(x[due], h[due])


def _stepped(update: Tensor) -> Callable[..., Any]:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        cell, x, h, due = _Cell(), _X.clone(), _H.clone(), update.clone()
        after = answer(cell, x, h, due)
        same = all(torch.equal(a, b) for a, b in ((x, _X), (h, _H), (due, update)))
        copied, fits = update < 0.5, isinstance(after, Tensor) and after.shape == _H.shape
        return {
            "state after": after,
            "rows the cell saw": sum(cell.seen),
            "copied rows are the same numbers": fits and torch.equal(after[copied], _H[copied]),
            "inputs unchanged": same,
        }

    return run


def _gradients(answer: Callable[..., Any]) -> Any:
    x, h = _X.clone().requires_grad_(), _H.clone().requires_grad_()
    after = answer(_Cell(), x.clone(), h.clone(), _MIXED.clone())  # copies, since a leaf cannot be written into
    if not after.requires_grad:
        return "the answer carries no gradient"
    grads = torch.autograd.grad(after.square().sum(), (x, h), allow_unused=True)
    names = ("of x", "of h")
    return {n: "nothing arrives" if g is None else g for n, g in zip(names, grads, strict=True)}


gated_step = Check(
    "gated_step",
    chapter=CHAPTER,
    title="a step that computes only what updates",
    level=3,
    minutes=15,
    reference=_row_by_row,
    cases=[
        Case("some update, some copy", _stepped(_MIXED), show=f"update {[round(u, 2) for u in _MIXED.tolist()]}"),
        Case("nobody updates", _stepped(torch.full((5,), 0.3)), show="update 0.3 for all"),
        Case("everybody updates", _stepped(torch.ones(5)), show="update 1 for all"),
        Case("the gradient", _gradients, show="the loss is the sum of squares of the states after"),
    ],
    wrong_answers={
        "computes_all_rows": _everything,
        "resets_the_state": _resets,
        "blends_by_probability": _blends,
        "needs_more_than_half": _above,
        "loses_the_gradient": _detaches,
        "detaches_the_copies": lambda cell, x, h, update: _by_index_put(cell, x, h, update).where(
            (update >= 0.5)[:, None], h.detach()
        ),
        "all_if_any": _all_or_none,
        "any_probability_updates": lambda cell, x, h, update: _by_mask(cell, x, h, (update > 0).to(update.dtype)),
        "writes_into_h": _in_place,
        "loses_the_order": _joined,
        "returns_only_the_due": _only_the_due,
    },
    diagnoses={
        "computes_all_rows": "The states are right, but the cell saw all five rows at every step. Which rows did it "
        "have to see, and what has been saved if it computes the others and you throw them away?",
        "resets_the_state": "Rows that do not update come out as zeros. What does a reader know who skips a word?",
        "blends_by_probability": "You mixed new and old state by the probability, so no row is copied and none is "
        "skipped. What does the gate do with 0.7, and what with 0.2?",
        "needs_more_than_half": "The row with exactly 0.5 was copied. On which side of the threshold is one half?",
        "loses_the_gradient": "The states are right, but no gradient comes through the rows that update. Where is it "
        "cut?",
        "detaches_the_copies": "The states are right, but rows that copy pass no gradient on. How does a word that was "
        "read before a pause learn from what comes after it?",
        "any_probability_updates": "You update wherever the probability is not zero. From which value on does the gate "
        "fire?",
        "writes_into_h": "The result is right, but you wrote it into h, which the caller still needs. Into what could "
        "you put the new rows instead?",
        "loses_the_order": "The new rows stand first and the copied ones behind them. Which row belongs to which "
        "sequence at the next step?",
        "returns_only_the_due": "You return the rows that update and no others. How many states go into the next step?",
        "all_if_any": "Where nobody updates nothing is computed, but as soon as one row does, you compute all five. "
        "Who else had to be computed?",
    },
    accepted=[_by_index_put, _by_mask],
    hints=(
        "First find which rows are due. Take these rows out of x and h, call the cell once on them, and put the result "
        "back into a copy of h.",
        "update [0.7, 0.2, 0.5]: rows 0 and 2 are due. The cell gets x of shape (2, F) and h of shape (2, d); row 1 of "
        "the result is row 1 of h, the very same numbers.",
        "due = update >= 0.5; after = h.clone(); after[due] = cell(x[due], h[due]); return after.",
    ),
    shows="Rows that copy cost nothing and an input that was not read gets no gradient: it could have been anything.",
)

# The loss of jumps ---------------------------------------------------------------------------------------------------

_LOGITS = torch.tensor([0.3, -0.5, 1.2, 0.1], dtype=torch.float64)
_REWARDS = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)


def _log_free(log_prob: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """The gradient with respect to each log-probability, written out element by element."""
    texts, jumps = log_prob.shape
    total = torch.zeros((), dtype=log_prob.dtype)
    for n in range(texts):
        for i in range(jumps):
            total = total + (baseline[n, i].item() - reward[n].item()) * log_prob[n, i]
    return total / max(texts, 1)


def _jumps(
    log_prob: Tensor,
    reward: Tensor,
    baseline: Tensor,
    *,
    over_jumps: Callable[[Tensor], Tensor] = lambda x: x.sum(1),
    over_texts: Callable[[Tensor], Tensor] = lambda x: x.mean(),
    detach: bool = True,
) -> Tensor:
    held = baseline.detach() if detach else baseline
    return over_texts(over_jumps((held - reward[:, None]) * log_prob))


def _slope(value: Any, *wrt: Tensor) -> Any:
    """The gradients of what an answer returned, or in words why there are none."""
    if not isinstance(value, Tensor):
        return "a number without a gradient"
    if value.ndim:
        return f"shape {tuple(value.shape)} in place of a scalar"
    if not value.requires_grad:
        return "the answer carries no gradient"
    return torch.autograd.grad(value, wrt, retain_graph=True, allow_unused=True)


def _each_jump(answer: Callable[..., Any], baseline: float) -> Any:
    """Every jump once, weighted with its probability: the expectation, with nothing left to luck."""
    logits = _LOGITS.clone().requires_grad_()
    log_prob = logits.log_softmax(0)
    gradient = torch.zeros_like(_LOGITS)
    for k, chance in enumerate(log_prob.detach().exp()):
        value = answer(log_prob[k].reshape(1, 1), _REWARDS[k : k + 1].clone(), torch.full((1, 1), baseline).double())
        found = _slope(value, logits)
        if isinstance(found, str):
            return found
        gradient += chance * found[0]
    return gradient


def _batch(reward: Tensor, baseline: Tensor) -> Callable[..., Any]:
    def run(answer: Callable[..., Any]) -> Any:
        log_prob = torch.tensor([[-0.5, -1.0], [-2.0, -0.1], [-0.7, -0.7]]).requires_grad_()
        found = _slope(answer(log_prob, reward.clone(), baseline.clone()), log_prob)
        return found if isinstance(found, str) else found[0]

    return run


def _into_baseline(answer: Callable[..., Any]) -> Any:
    log_prob = torch.tensor([[-0.5, -1.0]]).requires_grad_()
    baseline = torch.tensor([[0.2, 0.4]]).requires_grad_()
    found = _slope(answer(log_prob, torch.tensor([1.0]), baseline), baseline)
    if isinstance(found, str):
        return found
    return "nothing" if found[0] is None or not found[0].any() else found[0]


_REWARD = torch.tensor([1.0, -1.0, 1.0])
_BASELINE = torch.tensor([[0.5, 0.25], [0.0, -0.5], [1.0, 1.0]])

jump_loss = Check(
    "jump_loss",
    chapter=CHAPTER,
    title="a loss that teaches jumps",
    level=3,
    minutes=22,
    reference=_log_free,
    cases=[
        Case(
            "every jump once, weighted with its probability: the gradient of -E[R]",
            lambda answer: _each_jump(answer, 0.0),
            show="by the logits of four jumps; rewards 1, -1, -1, 1, baseline 0",
        ),
        Case(
            "the same with a baseline: the same gradient",
            lambda answer: _each_jump(answer, 0.3),
            show="by the logits of four jumps; baseline 0.3",
        ),
        Case("three texts of two jumps", _batch(_REWARD, _BASELINE), show="the gradient by log_prob"),
        Case(
            "a reward just as expected",
            _batch(_REWARD, _REWARD[:, None].expand(3, 2)),
            show="the gradient by log_prob, where the baseline equals the reward",
        ),
        Case("nothing flows into the baseline", _into_baseline, show="the gradient by the baseline"),
    ],
    wrong_answers={
        "wrong_sign": lambda *args: -_jumps(*args),
        "probability_without_log": lambda log_prob, reward, baseline: _jumps(log_prob.exp(), reward, baseline),
        "baseline_attached": lambda *args: _jumps(*args, detach=False),
        "forgets_the_baseline": lambda log_prob, reward, baseline: _jumps(log_prob, reward, 0 * baseline),
        "averages_over_jumps": lambda *args: _jumps(*args, over_jumps=lambda x: x.mean(1)),
        "sums_over_texts": lambda *args: _jumps(*args, over_texts=lambda x: x.sum()),
        "adds_the_baseline": lambda log_prob, reward, baseline: _jumps(log_prob, reward, -baseline),
        "one_reward_for_all_texts": lambda log_prob, reward, baseline: _jumps(
            log_prob, reward.mean().expand(len(reward)), baseline
        ),
        "one_loss_a_text": lambda *args: _jumps(*args, over_texts=lambda x: x),
        "returns_a_number": lambda *args: _jumps(*args).item(),
        "detaches_the_jumps": lambda *args: _jumps(*args).detach(),
        "squares_the_surprise": lambda log_prob, reward, baseline: _jumps(
            log_prob, (reward - baseline.detach()[:, 0]).square(), 0 * baseline
        ),
    },
    diagnoses={
        "wrong_sign": "Your gradient has the opposite sign. When the loss is made smaller, should jumps that were "
        "rewarded become more likely or less?",
        "probability_without_log": "You multiplied by the probability itself. Each jump already comes up in proportion "
        "to it; what must its gradient be divided by?",
        "baseline_attached": "The jumps are right, but your loss also pulls at the baseline. Whose job is it to make "
        "the baseline a good guess?",
        "forgets_the_baseline": "On average you are right, but the baseline changes nothing. What is left of a reward "
        "that was expected?",
        "averages_over_jumps": "You averaged over the jumps of a text. What is the logarithm of the probability of all "
        "of them together?",
        "sums_over_texts": "You added over the texts. What would twice as many texts do to your step?",
        "adds_the_baseline": "A reward just as expected teaches you twice as much instead of nothing. Which way does "
        "the baseline enter?",
        "one_reward_for_all_texts": "Every text is paid the average reward. Which reward belongs to which text?",
        "one_loss_a_text": "You return one number for each text. Of what single number shall the optimiser take the "
        "gradient?",
        "returns_a_number": "You return a plain Python number. Where did it lose its way back to the policy?",
        "detaches_the_jumps": "No gradient leads from your loss to the log-probabilities. Which of the three arguments "
        "must be held fixed, and which must not?",
        "squares_the_surprise": "A text that did worse than expected is rewarded like one that did better. What became "
        "of the sign of the surprise?",
    },
    accepted=[
        _jumps,
        lambda log_prob, reward, baseline: (
            -((reward.unsqueeze(1) - baseline.detach()) * log_prob).sum() / max(len(reward), 1)
        ),
        lambda log_prob, reward, baseline: (
            functional.mse_loss(log_prob, (log_prob + (reward[:, None] - baseline)).detach(), reduction="sum")
            / (2 * max(len(reward), 1))
        ),
    ],
    hints=(
        "The value of your loss means nothing; only its gradient counts. Every jump of a text is blamed or praised for "
        "the same reward, each against its own expectation.",
        "One text, one jump, log p = log 1/2, reward 1, baseline 0.25: the gradient of your loss with respect to log p "
        "is -0.75.",
        "surprise = reward[:, None] - baseline.detach(); return -(surprise * log_prob).sum(1).mean().",
    ),
    shows="No jump was differentiated, and on average its gradient is still exact; the baseline only made it calmer.",
)

TASKS = (skipped_steps, gated_step, jump_loss, plan_cost)
