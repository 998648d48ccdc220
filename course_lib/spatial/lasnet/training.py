"""Training maskers to a budget: a temperature that falls, bounds that open, and two losses.

Source: LASNet (arXiv 2210.06223) and its released training code. There a pretrained static network also teaches by its
softened answers (weight 0.5, temperature 4); the small networks here learn without a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.decision.estimators import anneal_tau
from course_lib.spatial._masks import budget_distance, opening_bounds
from course_lib.spatial.lasnet.network import LASNet, LASNetOutput

TAU_START, TAU_END = 5.0, 0.1  #: temperature of the Gumbel noise at the first and after the last step
WEIGHT = 10.0  #: of the budget's loss beside the cross-entropy

Bounds = tuple[float, float]


def bounds(epoch: float, epochs: float, target: float) -> Bounds:
    """Upper and lower bound on a block's rate: both the target at first, 1 and 0 from about a third of training on.

    Without them maskers collapse early on, to everything or to nothing, before the features are worth choosing among.

    >>> [tuple(round(b, 3) for b in bounds(epoch, 100, 0.5)) for epoch in (0, 16.5, 33)]
    [(0.5, 0.5), (0.75, 0.25), (1.0, 0.0)]
    """
    if not 0 < target <= 1:
        raise ValueError(f"target: got {target}, expected a share above 0 and at most 1")
    if epochs <= 0 or epoch < 0:
        raise ValueError(f"epoch: got {epoch} of {epochs}, expected 0 or more of a positive number")
    return opening_bounds(epoch, epochs, target)


def budget_loss(output: LASNetOutput, target: float, limits: Bounds = (1.0, 0.0)) -> Tensor:
    """The paper's: the network's rate is drawn to `target`, and no block's rate may leave its bounds.

    Squares are of batch means, so images may differ as they like.

    Args:
        output: of a forward pass.
        target: share of the static network's multiply-adds.
        limits: upper and lower bound, from `bounds`.
    """
    return budget_distance(output.rate, output.block_rates, target, limits)


def block_loss(output: LASNetOutput, target: float, limits: Bounds = (1.0, 0.0)) -> Tensor:
    """The stricter one: every block's rate is drawn to `target` all the time, so none may skip or keep everything."""
    return ((output.block_rates - target) ** 2).mean()


LOSSES: dict[str, Callable[[LASNetOutput, float, Bounds], Tensor]] = {"network": budget_loss, "block": block_loss}


@dataclass(frozen=True)
class LASNetHistory:
    """What `fit` saw at every step: cross-entropy, the network's rate, the rates of its blocks (steps, L)."""

    losses: tuple[float, ...]
    rates: tuple[float, ...]
    block_rates: Tensor


def fit(
    model: LASNet,
    images: Tensor,
    labels: Tensor,
    *,
    budget: Literal["network", "block"] = "network",
    steps: int = 400,
    batch_size: int = 64,
    lr: float = 5e-3,
    seed: int = 0,
) -> LASNetHistory:
    """Train with Adam and a cosine schedule; the temperature falls and the bounds open over all steps.

    Args:
        model: on the device to train on; left in eval mode.
        images, labels: (N, C, H, W) and (N,) int64; batches are moved to the model's device.
        budget: "network" is `budget_loss`, "block" is `block_loss`, both with the model's `target_rate`.
        steps, batch_size, lr: of Adam.
        seed: of batches and noise.
    """
    if budget not in LOSSES:
        raise ValueError(f"budget: got {budget!r}, expected one of {', '.join(LOSSES)}")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, rates, block_rates = [], [], []
    model.train()
    for step in range(steps):
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        x, y = images[chosen].to(device), labels[chosen].to(device)
        tau = anneal_tau(step, steps, start=TAU_START, end=TAU_END)
        output = model(x, tau, generator=generator)
        task = functional.cross_entropy(output.logits, y)
        limits = bounds(step, steps, model.target_rate)
        loss = task + WEIGHT * LOSSES[budget](output, model.target_rate, limits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(task.detach()))
        rates.append(float(output.rate.detach()))
        block_rates.append(output.block_rates.detach().cpu())
    model.eval()
    return LASNetHistory(tuple(losses), tuple(rates), torch.stack(block_rates))
