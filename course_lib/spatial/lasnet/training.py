"""Training maskers to a budget: a temperature that falls, bounds that open, two losses, and a task of seconds.

Source: LASNet (arXiv 2210.06223) and its released training code. There a pretrained static network also teaches by its
softened answers (weight 0.5, temperature 4); the small networks here learn without a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.decision.estimators import anneal_tau
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
    tight = math.cos(math.pi / 2 * min(epoch / (0.33 * epochs), 1.0)) ** 2
    return 1 - tight * (1 - target), tight * target


def budget_loss(output: LASNetOutput, target: float, limits: Bounds = (1.0, 0.0)) -> Tensor:
    """The paper's: the network's rate is drawn to `target`, and no block's rate may leave its bounds.

    Squares are of batch means, so images may differ as they like.

    Args:
        output: of a forward pass.
        target: share of the static network's multiply-adds.
        limits: upper and lower bound, from `bounds`.
    """
    upper, lower = limits
    outside = (output.block_rates - upper).clamp(min=0) ** 2 + (lower - output.block_rates).clamp(min=0) ** 2
    return (output.rate - target) ** 2 + outside.mean()


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


# Images in which most of the area is nothing --------------------------------------------------------------------------

GLYPH = 9  #: side of a glyph in pixels


def _drawings() -> Tensor:
    """The four glyphs (4, 9, 9) of 0 and 1: plus, cross, frame and diamond."""
    row, column = torch.meshgrid(*[torch.arange(GLYPH) - GLYPH // 2] * 2, indexing="ij")
    plus = torch.minimum(row.abs(), column.abs()) <= 1
    cross = torch.minimum((row - column).abs(), (row + column).abs()) <= 1
    frame = torch.maximum(row.abs(), column.abs()) >= 3
    diamond = row.abs() + column.abs() <= 4
    return torch.stack([plus, cross, frame, diamond]).float()


@dataclass(frozen=True)
class Glyphs:
    """Noise with one glyph in each image, somewhere."""

    images: Tensor  #: (n, 1, size, size) in [0, 1]
    labels: Tensor  #: (n,) 0 plus, 1 cross, 2 frame, 3 diamond
    corner: Tensor  #: (n, 2) row and column of the glyph's upper left pixel

    def overlap(self, cells: int) -> Tensor:
        """(n, cells, cells) in [0, 1]: the share of each of cells x cells equal parts that the glyph's square takes."""
        side = self.images.shape[-1] / cells
        edge = torch.arange(cells) * side
        first = self.corner[:, :, None]
        inside = (torch.minimum(edge + side, first + GLYPH) - torch.maximum(edge, first)).clamp(min=0)  # (n, 2, cells)
        return inside[:, 0, :, None] * inside[:, 1, None, :] / side**2


def glyphs(n: int, *, size: int = 32, seed: int = 0) -> Glyphs:
    """`n` images of grey noise with one of four bright glyphs of 9x9 pixels at a random place.

    Args:
        n: their number.
        size: side in pixels, at least 9.
        seed: same arguments, same images.
    """
    if n < 0 or size < GLYPH:
        raise ValueError(f"n, size: got {n} and {size}, expected 0 or more images of at least {GLYPH} pixels")
    generator = torch.Generator().manual_seed(seed)
    drawings = _drawings()
    labels = torch.randint(len(drawings), (n,), generator=generator)
    corner = torch.randint(size - GLYPH + 1, (n, 2), generator=generator)
    images = 0.35 + 0.175 * torch.randn(n, size, size, generator=generator)
    inner = torch.arange(GLYPH)
    rows, columns = corner[:, :1] + inner, corner[:, 1:] + inner
    images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] += 0.5 * drawings[labels]
    return Glyphs(images[:, None].clamp(0, 1), labels, corner)
