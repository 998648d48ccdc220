"""Look ahead, judge, step: one alternating update of the weight network and of the network with exits."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call

from course_lib.checkpoint import generator_states, set_generator_states
from course_lib.decision import exit_shares
from course_lib.instance.l2w.weighting import (
    Centring,
    WeightPredictionNetwork,
    center_weights,
    check_epsilon,
    check_mode,
    exit_losses,
    meta_objective,
)

#: What the look-ahead repeats: the optimiser's step, momentum and weight decay included, or a bare gradient step.
LookAhead = Literal["optimizer", "plain"]
Samples = tuple[Tensor, Tensor]


def look_ahead(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    gradients: Mapping[str, Tensor | None],
    *,
    kind: LookAhead = "optimizer",
) -> dict[str, Tensor]:
    """The parameters after one step of the optimiser, as new tensors; model and optimiser stay as they are.

    Differentiable in the gradients, where those carry a graph.

    Args:
        optimizer: holds at least one of the model's parameters that require a gradient.
        gradients: by parameter name; parameters without one, or unknown to the optimiser, stay where they are.
        kind: "optimizer" repeats SGD with its momentum buffer, Nesterov's variant and weight decay; "plain" is
            Theta - lr * gradient.

    Returns:
        New values by name, of those that move.
    """
    _check_look_ahead("kind", kind)
    moved = {}
    for name, parameter, group in _trained(model, optimizer):
        gradient = gradients.get(name)
        if gradient is None:
            continue
        theta = parameter.detach()
        if kind == "optimizer":
            gradient = gradient + group["weight_decay"] * theta
            if group["momentum"]:
                buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
                velocity = gradient if buffer is None else group["momentum"] * buffer + gradient
                gradient = gradient + group["momentum"] * velocity if group["nesterov"] else velocity
        moved[name] = theta - group["lr"] * gradient
    return moved


@dataclass(frozen=True)
class MetaStep:
    """What one step saw."""

    loss: float  #: weighted training loss, at the parameters before the step
    meta_loss: float  #: L_meta after the look-ahead; NaN where there was none
    weights: Tensor  #: (B, K) of the real step


def meta_step(
    model: nn.Module,
    wpn: WeightPredictionNetwork | None,
    optimizer: torch.optim.SGD,
    wpn_optimizer: torch.optim.Optimizer | None,
    train: Samples,
    meta: Samples | None,
    *,
    epsilon: float = 0.8,
    rho: float = 0.75,
    mode: Centring = "col",
    lookahead: LookAhead = "optimizer",
) -> MetaStep:
    """One update of the weight network and one of the model, in the model's present mode (train or eval).

    1. Look ahead: where would a step on `train`, with the present weights, lead?
    2. Judge there: L_meta on `meta`, each sample at the exit where it would leave; its gradient moves the weight
       network.
    3. Step: the model, which has not moved yet, steps on `train` with the weights of the *updated* weight network.

    Args:
        model: `forward` gives K logits (B, classes).
        wpn: None for equal weights; its optimiser is only needed with `meta`.
        optimizer: SGD, dampening 0, of this model's parameters.
        train, meta: (inputs, labels); meta None leaves out 1 and 2. The model may compute in another precision than
            the wpn: weights and gradients are converted between the two.
        epsilon, mode: see `center_weights`; rho: see `allocate`; lookahead: see `look_ahead`.

    Raises:
        FloatingPointError: the loss, the judges' loss after the look-ahead or its gradient is not finite. Parameters
            and running statistics are as they were.
        TypeError, ValueError: another optimiser, or arguments out of range; nothing has changed either.
    """
    check_settings(epsilon, rho, mode, lookahead)
    if meta is not None and (wpn is None or wpn_optimizer is None):
        raise ValueError("meta: got samples, expected a wpn and its optimiser with them, or None")
    weights, meta_loss, gradient = None, math.nan, None
    with _intact_if_it_fails(model):
        forward = _Forward.of(model, *train)
        if meta is not None and wpn is not None:
            weights = center_weights(wpn(forward.losses).to(forward.losses), epsilon, mode)
            meta_loss, gradient = _judge(model, optimizer, forward, weights.detach(), meta, rho, lookahead)
    if weights is not None and wpn_optimizer is not None:
        wpn_optimizer.zero_grad(set_to_none=True)
        weights.backward(gradient)
        wpn_optimizer.step()
    weights, count = torch.ones_like(forward.losses), max(len(forward.losses), 1)
    if wpn is not None:
        with torch.no_grad():
            weights = center_weights(wpn(forward.losses).to(forward.losses), epsilon, mode)
    optimizer.zero_grad(set_to_none=True)
    forward.losses.backward(weights / count)
    optimizer.step()
    return MetaStep(float((weights * forward.losses.detach()).sum() / count), meta_loss, weights)


def check_settings(epsilon: float, rho: float, mode: str, lookahead: str) -> None:
    """Raise `ValueError` for settings that no step could use, whether or not this one would."""
    check_epsilon(epsilon)
    exit_shares(rho, 1)
    check_mode(mode)
    _check_look_ahead("lookahead", lookahead)


def weight_gradient(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    train: Samples,
    meta: Samples,
    weights: Tensor,
    *,
    rho: float = 0.75,
    lookahead: LookAhead = "optimizer",
) -> Tensor:
    """dL_meta/dw (B, K): how the meta loss after the look-ahead changes with each weight. Changes nothing.

    A negative entry says: more weight for this sample at this exit would help those who really leave.
    `FloatingPointError` where a loss, or the gradient, is not finite.
    """
    forward = _Forward.of(model, *train, buffers=_copies(model))
    return _judge(model, optimizer, forward, weights.detach().to(forward.losses), meta, rho, lookahead)[1]


@dataclass(frozen=True)
class _Forward:
    """One forward pass at Theta, graph and all, and what it takes to repeat it."""

    inputs: Tensor
    labels: Tensor
    losses: Tensor  # (B, K), with their graph
    generators: dict[str, Tensor]  # before the pass: the repetition must drop the same units

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, labels: Tensor, buffers: dict[str, Tensor] | None = None) -> _Forward:
        generators = generator_states(inputs.device)
        outputs = model(inputs) if buffers is None else functional_call(model, buffers, (inputs,))
        losses = exit_losses(outputs, labels)
        if not losses.isfinite().all():
            raise FloatingPointError(f"the loss is {float(losses.detach().sum(1).mean())}; that update was not made")
        return cls(inputs, labels, losses, generators)


def _judge(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    forward: _Forward,
    weights: Tensor,
    meta: Samples,
    rho: float,
    lookahead: LookAhead,
) -> tuple[float, Tensor]:
    """L_meta after the look-ahead, and its gradient (B, K) by the weights. Keeps the graph of `forward`."""
    device, count = forward.inputs.device, max(len(forward.losses), 1)
    names, parameters, groups = zip(*_trained(model, optimizer), strict=True)
    found = torch.autograd.grad(forward.losses, parameters, weights / count, retain_graph=True, allow_unused=True)
    ahead = look_ahead(model, optimizer, dict(zip(names, found, strict=True)), kind=lookahead)
    ahead = {name: moved.requires_grad_() for name, moved in ahead.items()}
    outputs = functional_call(model, ahead | _copies(model), (meta[0],))
    _require_finite("the sum of the logits after the look-ahead", torch.stack(list(outputs)))  # NaN cannot be ranked
    loss = meta_objective(outputs, meta[1], rho)
    _require_finite("the judges' loss after the look-ahead", loss)
    helps = torch.autograd.grad(loss, list(ahead.values()), allow_unused=True, materialize_grads=True)
    # A weight reaches Theta_hat through its own gradient alone: dTheta_hat/dw_ik = -alpha/B grad l_ik. Hence
    # dL_meta/dw_ik = -1/B <alpha grad L_meta(Theta_hat), grad l_ik(Theta)>: the losses' change in that direction.
    present = generator_states(device)
    set_generator_states(forward.generators, device)
    with torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # torch's own, at the first dual number
        towards = dict(zip(ahead, helps, strict=True))
        direction = {
            name: forward_ad.make_dual(parameter.detach(), -_reach(group, lookahead) * towards[name])
            for name, parameter, group in zip(names, parameters, groups, strict=True)
            if name in towards
        }
        again = exit_losses(functional_call(model, direction | _copies(model), (forward.inputs,)), forward.labels)
        change = forward_ad.unpack_dual(again).tangent
    set_generator_states(present, device)
    change = torch.zeros_like(weights) if change is None else change / count
    _require_finite("the gradient of the weights", change)
    return float(loss.detach()), change


@contextlib.contextmanager
def _intact_if_it_fails(model: nn.Module) -> Iterator[None]:
    """Give the buffers back what they held, should the work within raise: a pass in training mode writes into them."""
    held = _copies(model)
    try:
        yield
    except Exception:
        for name, buffer in model.named_buffers():
            buffer.copy_(held[name])
        raise


def _require_finite(what: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise FloatingPointError(f"{what} is {float(values.detach().sum())}; that update was not made")


def _check_look_ahead(name: str, kind: str) -> None:
    if kind not in get_args(LookAhead):
        raise ValueError(f"{name}: got {kind!r}, expected 'optimizer' or 'plain'")


def _copies(model: nn.Module) -> dict[str, Tensor]:
    """Fresh copies of the buffers, for a pass that must leave no trace in the running statistics."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def _reach(group: dict[str, Any], lookahead: LookAhead) -> float:
    """How far a unit of gradient moves a parameter: the factor before it in `look_ahead`."""
    return group["lr"] * (1 + group["momentum"] * (lookahead == "optimizer" and group["nesterov"]))


def _trained(model: nn.Module, optimizer: torch.optim.SGD) -> list[tuple[str, nn.Parameter, dict[str, Any]]]:
    """Name, parameter and settings of all that the optimiser moves; at least one."""
    if not isinstance(optimizer, torch.optim.SGD):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected torch.optim.SGD")
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    if any(group["dampening"] or group["maximize"] for group in optimizer.param_groups):
        raise ValueError("optimizer: got dampening or maximize, expected SGD with neither")
    found = [(n, p, groups[p]) for n, p in model.named_parameters() if p in groups and p.requires_grad]
    if not found:
        raise ValueError("optimizer: got none of the model's parameters that require a gradient, expected at least one")
    return found
