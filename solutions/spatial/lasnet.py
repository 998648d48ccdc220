# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: how large must a patch be to be worth skipping?
#
# Five functions: the bill of a block, the two halves of the loss that keeps a budget, a mask of yes and no that has a
# gradient, and the choice of the cells for a device. Together they are what LASNet adds to a residual network.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [How large must a patch be to be worth skipping?](../../notebooks/spatial/lasnet.ipynb).

# %%
import math

import torch
from torch import Tensor

from course_lib.checks.spatial import lasnet as check

# %% [markdown]
# ## 1. The bill of a block
#
# A mask saves multiply-adds, but not the same share everywhere: one convolution needs more than the active positions,
# and two parts of the block do not care about the mask at all.
#
# ```{admonition} Level 1 of 5 · 10 minutes
# One line.
# ```


# %% nbgrader={"solution": true, "grade_id": "block_macs"}
def block_macs(parts: dict[str, float], a: float, a_dilated: float) -> float:
    """The multiply-adds of a block when a share of its output positions is active.

    Args:
        parts: multiply-adds with everything computed, of "masker", "conv1" (1x1), "conv2"
            (3x3), "conv3" (1x1) and "shortcut" (a 1x1 convolution, or 0).
        a: share of active positions of the output, in [0, 1].
        a_dilated: share of the positions that an active output looks at: active ones and
            their halo.

    Returns:
        The multiply-adds spent. A 256-64-256 block at 56x56 has conv1 = conv3 = 51.38 M and
        conv2 = 115.61 M; with a = 0.5 and a_dilated = 0.734 they cost 121.2 M, to which
        masker and shortcut are added.
    """
    ### BEGIN SOLUTION
    always = parts["masker"] + parts["shortcut"]
    return always + a_dilated * parts["conv1"] + a * (parts["conv2"] + parts["conv3"])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "block_macs_check", "points": 1}
_ = check.block_macs(block_macs)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.block_macs.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So half of the cells cost more than half of the block.

# %% [markdown]
# ## 2. Bounds that open
#
# If every block were free from the first step, maskers would settle on everything or nothing before the features are
# worth choosing among. Two bounds hold each block's rate at the target first and let go within a third of training.
#
# ```{admonition} Level 2 of 5 · 7 minutes
# Three lines. `math.cos` takes radians.
# ```


# %% nbgrader={"solution": true, "grade_id": "bounds"}
def bounds(epoch: float, epochs: float, target: float) -> tuple[float, float]:
    """The upper and the lower bound on the rate of every block.

    With c = cos(pi/2 * e)^2, where e runs from 0 to 1 during the first 0.33 of all epochs
    and stays at 1 from then on, the upper bound is 1 - c * (1 - target), the lower one
    c * target.

    Args:
        epoch: how far training has come, 0 <= epoch <= epochs.
        epochs: its length.
        target: the share of the multiply-adds to be spent, in (0, 1].

    Returns:
        (upper, lower). `bounds(16.5, 100, 0.6)` is (0.8, 0.3).
    """
    ### BEGIN SOLUTION
    done = min(epoch / (0.33 * epochs), 1.0)
    c = math.cos(math.pi / 2 * done) ** 2
    return 1 - c * (1 - target), c * target
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "bounds_check", "points": 2}
_ = check.bounds(bounds)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.bounds.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So nobody may specialise before there is something to specialise on.

# %% [markdown]
# ## 3. The loss that keeps the budget
#
# The budget is for the whole network and for the average image. Whether the square is taken before the mean or after
# it decides whether an easy image may give its share to a hard one.
#
# ```{admonition} Level 2 of 5 · 8 minutes
# Four lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "budget_loss"}
def budget_loss(
    macs: Tensor, static: Tensor, target: float, upper: float, lower: float
) -> Tensor:
    """How far a batch is from its budget, and how far its blocks are out of bounds.

    The *rate* of a block is its mean multiply-adds over the batch, divided by its static
    ones; the rate of the network is the same for the sums over all blocks. The loss is
    (rate of the network - target)^2, plus the mean over the blocks of max(0, rate - upper)^2
    + max(0, lower - rate)^2.

    Args:
        macs: (N, L) float, multiply-adds of each image in each block.
        static: (L,) float, those of each block with everything active.
        target: wanted rate of the network.
        upper, lower: bounds on every block's rate.

    Returns:
        A scalar. Blocks of 100 and 300 that spend 20 and 60 on one image, 80 and 240 on the
        other have rates 0.5 and 0.5; with target and both bounds 0.5 the loss is 0.
    """
    ### BEGIN SOLUTION
    mean = macs.mean(0)
    rates = mean / static
    outside = torch.relu(rates - upper) ** 2 + torch.relu(lower - rates) ** 2
    return (mean.sum() / static.sum() - target) ** 2 + outside.mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "budget_loss_check", "points": 2}
_ = check.budget_loss(budget_loss)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.budget_loss.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the budget binds the batch, and images may differ as they need.

# %% [markdown]
# ## 4. A mask that learns
#
# The masker gives two logits a cell. While training, the yes or no is drawn, and the gradient is that of a soft
# version of the draw. Afterwards the larger logit decides, and the same image gets the same mask each time.
#
# ```{admonition} Level 3 of 5 · 20 minutes
# About eight lines, PyTorch. A standard Gumbel number is -log(-log(u)) with u uniform between 0 and 1.
# ```


# %% nbgrader={"solution": true, "grade_id": "hard_mask"}
def hard_mask(
    logits: Tensor,
    tau: float,
    training: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask of 0 and 1 for every cell, with the gradient of a soft one.

    Training: Gumbel noise is added to both logits, their sum divided by tau, and the softmax
    over the two channels gives a soft decision. Forward the mask is 1 where channel 0 wins,
    else 0; backward it is channel 0 of the softmax. Otherwise no noise: 1 where channel 0 is
    at least channel 1.

    Args:
        logits: (N, 2, rows, columns); channel 0 says compute, channel 1 skip.
        tau: temperature above 0.
        training: whether to draw.
        generator: where the noise comes from; equal seeds must give equal masks.

    Returns:
        (N, 1, rows, columns) float. Without training, logits (0.5, 0.5) give 1 and
        (-2.0, -1.9) give 0.
    """
    ### BEGIN SOLUTION
    if not training:
        return (logits[:, :1] >= logits[:, 1:]).float()
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    noise = -torch.log(-torch.log(uniform))
    soft = torch.softmax((logits + noise) / tau, dim=1)[:, :1]
    hard = (soft >= 0.5).float()
    return hard + soft - soft.detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "hard_mask_check", "points": 3}
_ = check.hard_mask(hard_mask)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.hard_mask.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a cell is computed or not, and the logits still hear which would have been better.

# %% [markdown]
# ## 5. The cells for a device
#
# A predictor, or a stopwatch, has said for each stage of a network how long its blocks take with cells of each size.
# Choose the cells, and say what the whole network then takes. Beware of two traps: cells that do not
# fit the map, and a stage where nothing is faster than computing everything.
#
# ```{admonition} Level 4 of 5 · 30 minutes
# About ten lines, plain Python.
# ```


# %% nbgrader={"solution": true, "grade_id": "choose_granularity"}
def choose_granularity(
    ratios: list[dict[int, float]], maps: list[int], seconds: list[float]
) -> tuple[list[int], float]:
    """The size of the cells in every stage, and the time of the network that follows.

    Args:
        ratios: for each stage, by cell size S: time of a block with cells of S x S over that
            of the static block.
        maps: side of each stage's map. Only an S that divides it can be used.
        seconds: what each stage takes when it is static.

    Returns:
        granularity: for each stage the fastest S, the smaller one of equals; 0 where no
        usable S is faster than the static block, which is then kept.
        ratio: time of all stages with these choices over their static time.

    Ratios {1: 0.9, 2: 0.7} and {1: 1.2} on maps of 28 and 14 that take 3 s and 1 s give
    ([2, 0], 0.775).
    """
    ### BEGIN SOLUTION
    chosen, spent = [], 0.0
    for table, side, static in zip(ratios, maps, seconds, strict=True):
        fitting = [s for s in sorted(table) if side % s == 0]
        best = min(fitting, key=lambda s: table[s], default=0)
        faster = best > 0 and table[best] < 1
        chosen.append(best if faster else 0)
        spent += static * (table[best] if faster else 1.0)
    return chosen, spent / sum(seconds)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "choose_granularity_check", "points": 4}
_ = check.choose_granularity(choose_granularity)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.choose_granularity.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the same mask wants cells of 8 on one device and cells of 4 on another.
