"""Checks of `training/gradients`: the exact gradient, straight-through, REINFORCE, and a choice made by Gumbel noise.

References are plain Python or autograd through an enumerated sum, and share nothing with `course_lib.decision`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.checks import Case, Check
from course_lib.checks.training._gumbel import gumbel_choice

CHAPTER = "training/gradients"

# The exact gradient --------------------------------------------------------------------------------------------------


def _exact(logit: Tensor, loss_open: float, loss_closed: float) -> list[float]:
    """Central differences of the expected loss, in double precision."""

    def expected(a: float) -> float:
        p = 1 / (1 + math.exp(-a))
        return p * loss_open + (1 - p) * loss_closed

    return [(expected(a + 1e-4) - expected(a - 1e-4)) / 2e-4 for a in logit.tolist()]


def _by_autograd(logit: Tensor, loss_open: float, loss_closed: float) -> Tensor:
    leaf = logit.detach().clone().requires_grad_()
    p = leaf.sigmoid()
    (gradient,) = torch.autograd.grad((p * loss_open + (1 - p) * loss_closed).sum(), leaf)
    return gradient


def _slope(logit: Tensor) -> Tensor:
    return logit.sigmoid() * (1 - logit.sigmoid())


_GRID = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0], dtype=torch.float64)

exact_gradient = Check(
    "exact_gradient",
    chapter=CHAPTER,
    title="the gradient that all estimators estimate",
    level=1,
    minutes=8,
    reference=_exact,
    cases=[
        Case.of("the chapter's gate", _GRID, 0.3025, 0.2025),
        Case.of("open is the better one", _GRID, 0.5, 2.0),
        Case.of("both cost the same", _GRID, 1.5, 1.5),
        Case.of("a gate that is nearly certain", torch.tensor([9.0], dtype=torch.float64), 3.0, 1.0),
        Case.of("no gate", _GRID[:0], 3.0, 1.0),
    ],
    wrong_answers={
        "with_respect_to_p": lambda logit, loss_open, loss_closed: (loss_open - loss_closed) * torch.ones_like(logit),
        "wrong_way": lambda logit, loss_open, loss_closed: _slope(logit) * (loss_closed - loss_open),
        "expected_loss": lambda logit, loss_open, loss_closed: (
            logit.sigmoid() * loss_open + (1 - logit.sigmoid()) * loss_closed
        ),
        "weights_once_more": lambda logit, loss_open, loss_closed: (
            _slope(logit) * (logit.sigmoid() * loss_open - (1 - logit.sigmoid()) * loss_closed)
        ),
        "slope_of_open_only": lambda logit, loss_open, loss_closed: _slope(logit) * loss_open,
        "half_a_slope": lambda logit, loss_open, loss_closed: logit.sigmoid() * (loss_open - loss_closed),
        "mean_of_gates": lambda logit, loss_open, loss_closed: (
            _slope(logit) * (loss_open - loss_closed) / max(len(logit), 1)
        ),
    },
    diagnoses={
        "with_respect_to_p": "Your value is the same for every logit: it is the derivative with respect to p. By how "
        "much does p move when the logit does?",
        "wrong_way": "Your gradient has the right size and the opposite sign. If open costs more, does the expected "
        "loss rise or fall with the logit?",
        "expected_loss": "You gave the expected loss itself. How fast does it change with the logit?",
        "weights_once_more": "You weighted the two losses with their chances and with the slope of the chance. Which "
        "factor is left of p * loss_open when it is differentiated?",
        "slope_of_open_only": "Only the loss of the open gate stands in your gradient. What becomes of the closed "
        "one's chance when p rises?",
        "half_a_slope": "Your gradient is largest for a gate that is nearly always open. How fast does such a gate's "
        "chance still move with the logit?",
        "mean_of_gates": "One gate alone comes out right, and five gates get a fifth of it each. They are separate: "
        "what did you average over them?",
    },
    accepted=[lambda logit, loss_open, loss_closed: _slope(logit) * (loss_open - loss_closed), _by_autograd],
    hints=(
        "Write the expected loss as a function of p first. It is a straight line in p. Then ask how p depends on the "
        "logit.",
        "Logit 0, losses 3 (open) and 1 (closed): p = 1/2, the slope of the sigmoid is 1/4, the line rises by 2, so "
        "the gradient is 1/2.",
        "p = torch.sigmoid(logit); the derivative is p * (1 - p) times the difference of the two losses, open minus "
        "closed.",
    ),
    shows="The sign never depends on p: with the exact gradient, a gate never settles in the middle.",
)

# Straight-through ----------------------------------------------------------------------------------------------------


class _PassOn(torch.autograd.Function):
    """Straight-through without a detach: an operation with its own backward pass."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.to(soft.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def _pass_on(hard: Tensor, soft: Tensor) -> Tensor:
    found: Tensor = _PassOn.apply(hard, soft)
    return found


_SOFT = torch.tensor([0.1, 0.45, 0.5, 0.8])
_WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5])


def _seen(hard: Tensor) -> Case:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        lent = hard.clone()
        value = answer(lent, _SOFT.clone().requires_grad_())
        return {"value": value.detach().clone(), "hard is unchanged": torch.equal(lent, hard)}

    return Case(f"what the network sees, hard is {hard.dtype}".replace("torch.", ""), run, show=f"{hard.tolist()}")


def _gradient(answer: Callable[..., Any]) -> Any:
    soft = _SOFT.clone().requires_grad_()
    value = answer((_SOFT > 0.5).float(), soft)
    if not value.requires_grad:
        return "the answer carries no gradient"
    (gradient,) = torch.autograd.grad((_WEIGHTS * value).sum(), soft, allow_unused=True)
    return "nothing reaches soft" if gradient is None else gradient


def _into_hard(answer: Callable[..., Any]) -> Any:
    hard = (_SOFT > 0.5).float().requires_grad_()
    value = answer(hard, _SOFT.clone().requires_grad_())
    (gradient,) = torch.autograd.grad(value.sum(), hard, allow_unused=True)
    return "nothing" if gradient is None or not gradient.any() else gradient


straight_through = Check(
    "straight_through",
    chapter=CHAPTER,
    title="a hard value with a soft gradient",
    level=2,
    minutes=12,
    reference=_pass_on,
    cases=[
        _seen((_SOFT > 0.5).float()),
        Case("the gradient of soft", _gradient, show="the loss is (weights * your value).sum()"),
        Case("nothing flows into hard", _into_hard, show="hard itself was computed from something with a gradient"),
        _seen(_SOFT > 0.5),
    ],
    wrong_answers={
        "cancels_out": lambda hard, soft: hard.detach() + soft - soft,
        "soft_forward": lambda hard, soft: soft + (hard.float() - hard.float()).detach(),
        "detaches_all": lambda hard, soft: (hard + soft - soft).detach(),
        "wrong_one_constant": lambda hard, soft: hard.detach() + (soft.detach() - soft),
        "adds_both": lambda hard, soft: hard.detach() + soft,
        "leaks_into_hard": lambda hard, soft: hard + (soft - soft.detach()),
    },
    diagnoses={
        "cancels_out": "The value is right, and the gradient of soft is 0: what you added you also took off. Which of "
        "the two should autograd not see?",
        "soft_forward": "The network sees the soft value. What should it see, if training is to match what will run?",
        "detaches_all": "Your value carries no gradient at all. Which part of it must stay connected to soft?",
        "wrong_one_constant": "The gradient arrives with the opposite sign. Which of the two soft terms did you hold "
        "constant, the one added or the one taken off?",
        "adds_both": "Forward, your value is the sum of both. What would have to be taken off to leave hard alone, "
        "without changing the gradient?",
        "leaks_into_hard": "Value and gradient of soft are right, but a gradient also flows into hard. What if hard "
        "was computed from the same logits?",
    },
    accepted=[
        lambda hard, soft: hard.detach() + (soft - soft.detach()),
        lambda hard, soft: soft + (hard.to(soft.dtype) - soft).detach(),
    ],
    hints=(
        "You need a sum whose *value* is hard and whose *derivative* is that of soft. A term that is worth 0 may still "
        "have a derivative.",
        "soft = 0.8: soft - soft.detach() is worth 0, and its derivative is 1. soft.detach() - soft is worth 0, too, "
        "and its derivative is -1.",
        "hard.detach() + (soft - soft.detach()), with the brackets: then the bracket is exactly 0, and the sum exactly "
        "hard.",
    ),
    shows="One line, and every network with a threshold in it can be trained; whether it is trained well is another "
    "question.",
)

# REINFORCE -----------------------------------------------------------------------------------------------------------


def _score(logits: Tensor, gates: Tensor, loss: Tensor, baseline: float) -> Tensor:
    """A loss with the gradient (loss - baseline) * (gates - p) / N, written without a logarithm."""
    pull = (loss.detach() - baseline)[:, None] * (gates - logits.detach().sigmoid())
    return (pull * logits).sum() / len(logits)


def _log_prob(logits: Tensor, gates: Tensor) -> Tensor:
    return torch.where(gates > 0.5, functional.logsigmoid(logits), functional.logsigmoid(-logits))


def _reinforce(
    logits: Tensor,
    gates: Tensor,
    loss: Tensor,
    baseline: float,
    *,
    over_gates: Callable[[Tensor], Tensor] = lambda x: x.sum(1),
    over_samples: Callable[[Tensor], Tensor] = torch.mean,
    detach: bool = True,
) -> Tensor:
    advantage = (loss.detach() if detach else loss) - baseline
    return over_samples(advantage * over_gates(_log_prob(logits, gates)))


def _log_of_sigmoid(logits: Tensor, gates: Tensor, loss: Tensor, baseline: float) -> Tensor:
    p = logits.sigmoid()
    log_prob = torch.where(gates > 0.5, p.log(), (1 - p).log()).sum(1)
    return ((loss.detach() - baseline) * log_prob).mean()


def _reinforce_gradient(logits: Tensor, gates: Tensor, loss: Tensor, baseline: float) -> Callable[..., Any]:
    def run(answer: Callable[..., Any]) -> Any:
        leaf = logits.clone().requires_grad_()
        value = answer(leaf, gates.clone(), loss.clone(), baseline)
        if not value.requires_grad:
            return "the answer carries no gradient"
        return torch.autograd.grad(value, leaf)[0]

    return run


def _in_proportion(answer: Callable[..., Any], baseline: float) -> Tensor:
    """Four draws of a gate with p = 1/4, one of them open: their mean is the expectation, with nothing left to luck."""
    leaf = torch.tensor([math.log(1 / 3)], dtype=torch.float64).requires_grad_()
    gates = torch.tensor([[1.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    value = answer(leaf.expand(4, 1), gates, (gates[:, 0] - 0.45) ** 2, baseline)
    return torch.autograd.grad(value, leaf)[0]


def _into_loss(answer: Callable[..., Any]) -> Any:
    loss = torch.tensor([1.0, 2.0]).requires_grad_()
    value = answer(torch.zeros(2, 1).requires_grad_(), torch.tensor([[1.0], [0.0]]), loss, 0.5)
    (gradient,) = torch.autograd.grad(value, loss, allow_unused=True)
    return "nothing" if gradient is None or not gradient.any() else gradient


_LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.7]])
_GATES = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
_LOSS = torch.tensor([2.0, 0.5])

reinforce_loss = Check(
    "reinforce_loss",
    chapter=CHAPTER,
    title="a loss whose gradient is exact on average",
    level=3,
    minutes=20,
    reference=_score,
    cases=[
        Case(
            "both outcomes in their right proportion: the exact gradient",
            lambda answer: _in_proportion(answer, 0.0),
            show="p = 1/4, gates 1, 0, 0, 0, baseline 0; the exact gradient is 0.01875",
        ),
        Case(
            "the same with a baseline: the same gradient",
            lambda answer: _in_proportion(answer, 0.2275),
            show="baseline 0.2275, the mean loss",
        ),
        Case("three gates share a loss", _reinforce_gradient(_LOGITS, _GATES, _LOSS, 0.0), show="2 samples, 3 gates"),
        Case("and a baseline of 1", _reinforce_gradient(_LOGITS, _GATES, _LOSS, 1.0), show="the same, baseline 1"),
        Case(
            "gates that are nearly certain",
            _reinforce_gradient(torch.tensor([[20.0, -20.0]]), torch.tensor([[1.0, 0.0]]), _LOSS[:1], 0.5),
            show="logits 20 and -20, gates 1 and 0",
        ),
        Case("nothing flows into the loss", _into_loss, show="the loss was computed by a network"),
    ],
    wrong_answers={
        "wrong_way": lambda *args: -_reinforce(*args),
        "log_of_open_only": lambda logits, gates, loss, baseline: (
            (loss.detach() - baseline) * functional.logsigmoid(logits).sum(1)
        ).mean(),
        "chance_instead_of_log": lambda logits, gates, loss, baseline: (
            (loss.detach() - baseline) * _log_prob(logits, gates).sum(1).exp()
        ).mean(),
        "averages_over_gates": lambda *args: _reinforce(*args, over_gates=lambda x: x.mean(1)),
        "sums_over_samples": lambda *args: _reinforce(*args, over_samples=torch.sum),
        "flows_into_loss": lambda *args: _reinforce(*args, detach=False),
        "adds_the_baseline": lambda logits, gates, loss, baseline: _reinforce(logits, gates, loss, -baseline),
        "forgets_the_baseline": lambda logits, gates, loss, baseline: _reinforce(logits, gates, loss, 0.0),
        "every_loss_for_everybody": lambda *args: _reinforce(*args, over_gates=lambda x: x.sum(1, keepdim=True)),
        "mean_loss_for_everybody": lambda logits, gates, loss, baseline: (
            (loss.detach() - baseline).mean() * _log_prob(logits, gates).sum()
        ),
        "log_of_a_rounded_chance": _log_of_sigmoid,
    },
    diagnoses={
        "wrong_way": "Your gradient has the opposite sign. Here a loss is given, not a reward: should an outcome that "
        "cost much become more or less likely when your value is minimised?",
        "log_of_open_only": "You used the log-probability of being open for every gate. What did the gates do that "
        "were drawn as 0?",
        "chance_instead_of_log": "You multiplied by the probability itself. The samples already come in proportion to "
        "it; what is its gradient divided by it?",
        "averages_over_gates": "You averaged the log-probabilities of a sample's gates. What is the logarithm of a "
        "product of chances?",
        "sums_over_samples": "You added over the samples. What would twice as many samples do to your gradient?",
        "flows_into_loss": "The gradient of the logits is right, but your value also sends a gradient into the loss. "
        "What did the estimator treat the observed loss as?",
        "adds_the_baseline": "With a baseline, your brackets grow instead of shrinking. What is left of a loss of 2 "
        "when 1 was to be expected?",
        "forgets_the_baseline": "On average you are right, but your baseline changes nothing. Where does it enter?",
        "every_loss_for_everybody": "Each sample is blamed for the losses of all samples, as if (N, 1) met (N,). What "
        "shape has your product before its mean?",
        "mean_loss_for_everybody": "Every sample is blamed for the same, average loss. Which loss belongs to which "
        "draw, and when must the two meet?",
        "log_of_a_rounded_chance": "All is well until a gate is nearly certain, then your gradient is not a number. "
        "What is 1 - sigmoid(20) in float32, and what its logarithm?",
    },
    accepted=[
        _reinforce,
        lambda logits, gates, loss, baseline: (
            -(loss.detach() - baseline)
            * functional.binary_cross_entropy_with_logits(logits, gates, reduction="none").sum(1)
        ).mean(),
    ],
    hints=(
        "The value of your loss means nothing; only its gradient counts. It should be the mean over samples of (loss - "
        "baseline) times the gradient of the log-probability of what was drawn.",
        "Logit 0, gate drawn 1, loss 2, baseline 0.5: log P = log 1/2, its gradient is 1 - 1/2, so the gradient of "
        "your value is 1.5 * 0.5 = 0.75.",
        "log_prob = torch.where(gates > 0.5, logsigmoid(logits), logsigmoid(-logits)).sum(1); return ((loss.detach() - "
        "baseline) * log_prob).mean().",
    ),
    shows="The baseline changed no average, and the loss was never differentiated: it might have been a stopwatch.",
)

TASKS = (exact_gradient, straight_through, reinforce_loss, gumbel_choice)
