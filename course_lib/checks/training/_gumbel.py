"""The check of `training/gradients` on a choice made by Gumbel noise; `gradients` has it with the others.

The reference goes row by row in plain Python, with the derivative of the softmax written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.checks import Case, Check


def _softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


def _rows(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    """Row by row, with lists."""
    found = []
    for a, u in zip(logits.tolist(), uniform.tolist(), strict=True):
        score = [x - math.log(-math.log(y)) for x, y in zip(a, u, strict=True)]
        if tau == 0:
            best = score.index(max(score))
            found.append([float(k == best) for k in range(len(score))])
        else:
            found.append(_softmax([x / tau for x in score]))
    return torch.tensor(found, dtype=torch.float64).reshape(logits.shape)


class _ByHand(torch.autograd.Function):
    """`_rows`, with the derivative of the softmax written out."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
        ctx.y, ctx.tau = _rows(logits, uniform, tau), tau
        return ctx.y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        pull = gradients[0] - (gradients[0] * ctx.y).sum(1, keepdim=True)
        return ctx.y * pull / ctx.tau, None, None


def _choice(logits: Tensor, uniform: Tensor, tau: float) -> Any:
    return _ByHand.apply(logits, uniform, tau)


def _gumbel(logits: Tensor, uniform: Tensor, tau: float, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    drawn = -torch.log(-torch.log(uniform)) if noise is None else noise(uniform)
    score = logits + drawn
    if tau == 0:
        return functional.one_hot(score.argmax(1), logits.shape[1]).to(logits.dtype)
    return (score / tau).softmax(1)


def _noise_after_temperature(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    if tau == 0:
        return _gumbel(logits, uniform, 0.0)
    return (logits / tau - torch.log(-torch.log(uniform))).softmax(1)


def _ignores_noise_at_zero(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    return _gumbel(logits, uniform, tau, noise=torch.zeros_like if tau == 0 else None)


def _on_probabilities(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    return _gumbel(logits.softmax(1), uniform, tau)


_THREE = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5], [-3.0, -3.0, 4.0], [0.2, 0.1, 0.0]], dtype=torch.float64)
_UNIFORM = torch.rand(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _frequencies(answer: Callable[..., Any]) -> list[bool]:
    """Does a gate of logit a, against 0, come up with chance sigma(a)?"""
    uniform = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(7))
    close = []
    for a in (-2.0, 0.0, 0.8):
        drawn = torch.as_tensor(answer(torch.tensor([[a, 0.0]]).expand(20_000, 2).clone(), uniform.clone(), 0))
        close.append(abs(float(drawn[:, 0].double().mean()) - 1 / (1 + math.exp(-a))) < 0.015)
    return close


def _choice_gradient(answer: Callable[..., Any]) -> Any:
    leaf = _THREE.clone().requires_grad_()
    value = answer(leaf, _UNIFORM.clone(), 0.7)
    if not value.requires_grad:
        return "the answer carries no gradient"
    return torch.autograd.grad((torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) * value).sum(), leaf)[0]


def _is_float(answer: Callable[..., Any]) -> bool:
    found: bool = answer(_THREE.clone(), _UNIFORM.clone(), 0).is_floating_point()
    return found


gumbel_choice = Check(
    "gumbel_choice",
    chapter="training/gradients",
    title="a sample by arg-max, softened by a temperature",
    level=3,
    minutes=20,
    reference=_choice,
    cases=[
        Case.of("temperature 1", _THREE, _UNIFORM, 1.0),
        Case.of("a cool 0.3", _THREE, _UNIFORM, 0.3),
        Case.of("temperature 0: the arg-max", _THREE, _UNIFORM, 0),
        Case(
            "at temperature 0 a gate opens with chance sigma(logit)",
            _frequencies,
            show="20,000 draws for each of the logits -2, 0 and 0.8 against 0",
        ),
        Case.of("a warm 5", _THREE, _UNIFORM, 5.0),
        Case("the gradient of the logits", _choice_gradient, show="temperature 0.7, a weighted sum of your value"),
        Case("at temperature 0 still floating-point numbers", _is_float),
        Case.of("no row", _THREE[:0], _UNIFORM[:0], 1.0),
    ],
    wrong_answers={
        "forgets_the_noise": lambda *args: _gumbel(*args, noise=torch.zeros_like),
        "one_logarithm": lambda *args: _gumbel(*args, noise=lambda u: -torch.log(u)),
        "uniform_noise": lambda *args: _gumbel(*args, noise=lambda u: u),
        "noise_after_temperature": _noise_after_temperature,
        "on_probabilities": _on_probabilities,
        "multiplies_by_tau": lambda logits, uniform, tau: (
            _gumbel(logits, uniform, 0) if tau == 0 else _gumbel(logits, uniform, 1 / tau)
        ),
        "divides_by_zero": lambda logits, uniform, tau: ((logits - torch.log(-torch.log(uniform))) / tau).softmax(1),
        "ignores_noise_at_zero": _ignores_noise_at_zero,
        "outer_sign": lambda *args: _gumbel(*args, noise=lambda u: torch.log(-torch.log(u))),
        "detaches_all": lambda logits, uniform, tau: _gumbel(logits.detach(), uniform, tau),
        "whole_numbers": lambda logits, uniform, tau: (
            _gumbel(logits, uniform, 0).long() if tau == 0 else _gumbel(logits, uniform, tau)
        ),
    },
    diagnoses={
        "forgets_the_noise": "Your answer does not depend on the uniform numbers, so the same logits always choose the "
        "same. Where does chance come in?",
        "one_logarithm": "Your noise is -log u. That follows the exponential law; how many logarithms has Gumbel's?",
        "uniform_noise": "You added the uniform numbers themselves. How must they be bent so that the arg-max follows "
        "the softmax?",
        "noise_after_temperature": "You divided the logits by the temperature and then added the noise. How often is "
        "the largest entry then the one that the logits ask for, if tau is small?",
        "on_probabilities": "You added the noise to probabilities. At which logits would they have to be taken back?",
        "multiplies_by_tau": "Your samples get *warmer* as tau falls. On which side of the fraction does it stand?",
        "divides_by_zero": "At temperature 0 you divided by it. What does the softmax tend to as tau goes to 0?",
        "ignores_noise_at_zero": "At temperature 0 your choice is always that of the largest logit. Does the noise "
        "vanish with the temperature, or only the softness?",
        "outer_sign": "Your noise is log(-log u), Gumbel's with the sign turned. Which uniform numbers should lift a "
        "choice, the large or the small ones?",
        "detaches_all": "Your values are right and carry no gradient. What is the softness good for, if nothing flows "
        "back through it to the logits?",
        "whole_numbers": "At temperature 0 you return integers. What would a layer of floats do with such a gate?",
    },
    accepted=[
        _gumbel,
        lambda logits, uniform, tau: torch.softmax((logits - (-uniform.log()).log()) / max(tau, 1e-12), dim=1),
    ],
    hints=(
        "Two steps: make Gumbel noise out of the uniform numbers, then take the softmax of (logits + noise) / tau. "
        "Temperature 0 needs a way of its own.",
        "Logits (0, 0), uniform (0.5, 0.9): noise (0.367, 2.250). At tau 1 the softmax is (0.132, 0.868); at tau 0 it "
        "is (0, 1).",
        "score = logits - torch.log(-torch.log(uniform)); if tau == 0: one-hot of score.argmax(1); else (score / "
        "tau).softmax(1).",
    ),
    shows="All the chance stands in the noise; the path from the logits to the choice has none, and so it has a slope.",
)
