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
# # Exercises: when is a network sure enough to stop?
#
# Four functions, from one line to a loop that really skips work. Together they are budgeted classification as it stands
# in `course_lib.decision`; when all four are correct you have written its core yourself.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [When is a network sure enough to stop?](../../notebooks/instance/msdnet.ipynb). Exits count from 0 in code.

# %%
import math

import torch
from torch import Tensor, nn

from course_lib.checks.instance import msdnet as check

# %% [markdown]
# ## 1. Shares from one number
#
# A budget says how much may be spent on average, not on whom. One number, $\rho$, settles how the images are spread
# over the exits: each exit serves $\rho$ times as many as the one before.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One line, perhaps two. PyTorch only.
# ```


# %% nbgrader={"solution": true, "grade_id": "exit_shares"}
def exit_shares(rho: float, exits: int) -> Tensor:
    """The share of all images meant to leave at each exit.

    Args:
        rho: ratio of one exit's share to the share of the exit before it, above 0; it may
            exceed 1.
        exits: their number K, at least 1.

    Returns:
        (K,) float shares that add up to 1. `exit_shares(0.5, 3)` is about `[0.571, 0.286,
        0.143]`.
    """
    ### BEGIN SOLUTION
    weights = rho ** torch.arange(exits, dtype=torch.float64)
    return weights / weights.sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "exit_shares_check", "points": 1}
_ = check.exit_shares(exit_shares)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.exit_shares.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So one number moves a whole network between its first exit and its last.

# %% [markdown]
# ## 2. The number that spends a budget
#
# The mean cost rises with $\rho$, from the first exit's cost to the last one's. So for every budget between them there
# is exactly one $\rho$, and nobody needs a formula for it: asking "too much or too little?" often enough finds it.
#
# ```{admonition} Level 2 of 5 · 12 minutes
# Ten lines. Plain Python or PyTorch. Do not use your `exit_shares` from above unless its check said *correct*.
# ```


# %% nbgrader={"solution": true, "grade_id": "solve_budget"}
def solve_budget(costs: list[float], budget: float) -> float:
    """The rho whose shares cost `budget` on average, to at least three decimals.

    Args:
        costs: (K,) what an image has cost *in all* when it leaves at each exit, increasing.
        budget: mean cost of an image that may be spent, in the same unit.

    Returns:
        rho > 0. `solve_budget([1.0, 3.0], 1.5)` is 1/3: shares 3/4 and 1/4 cost 1.5.

    Raises:
        ValueError: the budget is below the first cost or above the last, so that no rho can
        spend it.
    """
    ### BEGIN SOLUTION
    if not costs[0] <= budget <= costs[-1]:
        raise ValueError(
            f"budget: got {budget}, expected between {costs[0]} and {costs[-1]}"
        )

    def mean_cost(rho: float) -> float:
        weights = [rho**k for k in range(len(costs))]
        return sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)

    low, high = 0.0, 1e6  # far above 1: late exits may be favoured
    for _ in range(100):
        middle = (low + high) / 2
        if mean_cost(middle) < budget:
            low = middle
        else:
            high = middle
    return (low + high) / 2
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "solve_budget_check", "points": 2}
_ = check.solve_budget(solve_budget)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.solve_budget.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So 20 M a picture is a plan for five exits, and so is 30 M, which no probability of leaving could express.

# %% [markdown]
# ## 3. Thresholds from held-out confidences
#
# A share is a wish. What a network can obey at test time is a threshold: leave at the first exit where the confidence
# is at least that high. Which threshold gives the share depends on who is still there to be asked.
#
# ```{admonition} Level 3 of 5 · 20 minutes
# About twelve lines, PyTorch. Work the six images of the docstring on paper first.
# ```


# %% nbgrader={"solution": true, "grade_id": "find_thresholds"}
def find_thresholds(confidence: Tensor, shares: Tensor) -> Tensor:
    """The threshold of each exit, so that the wanted shares of held-out images leave.

    Exit by exit: of the images *still there*, the floor(share * N) most confident ones are
    wanted, N being the number of all images; if fewer are left, all of them. The threshold
    is the confidence of the last one wanted. Every image with confidence >= threshold then
    leaves, also one that only ties with it.

    Args:
        confidence: (N, K) float, how sure each image is at each exit. Must not be changed.
        shares: (K,) float, adding up to 1.

    Returns:
        (K,) float. +inf where nobody is wanted or nobody is left, -inf at the last exit,
        which answers everybody.

    Example: six images with confidences (.9 .95 .99), (.8 .7 .9), (.6 .9 .8), (.5 .6 .7),
    (.4 .8 .9), (.3 .5 .6) and shares 1/2, 1/3, 1/6 give the thresholds .6, .6, -inf.
    """
    ### BEGIN SOLUTION
    number, exits = confidence.shape
    thresholds = torch.full((exits,), math.inf)
    thresholds[-1] = -math.inf
    here = torch.ones(number, dtype=torch.bool)
    for k in range(exits - 1):
        wanted = min(math.floor(float(shares[k]) * number), int(here.sum()))
        if wanted > 0:
            thresholds[k] = confidence[here, k].topk(wanted).values[-1]
            here &= confidence[:, k] < thresholds[k]
    return thresholds
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "find_thresholds_check", "points": 3}
_ = check.find_thresholds(find_thresholds)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.find_thresholds.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the thresholds are quantiles among those still there: only the order of the confidences matters, not their values.

# %% [markdown]
# ## 4. Inference that lets finished images go
#
# Choosing the exit after the whole network has run gives the right answers and saves nothing. Here the batch itself
# must shrink. The check counts the rows each block is called on, so it sees the difference.
#
# ```{admonition} Level 4 of 5 · 30 minutes
# About fifteen lines, PyTorch. `blocks[k]` and `heads[k]` are called like any module; the confidence is the largest
# softmax probability.
# ```


# %% nbgrader={"solution": true, "grade_id": "infer"}
def infer(
    blocks: list[nn.Module], heads: list[nn.Module], x: Tensor, thresholds: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the blocks one after another; after each, the images that are sure enough leave
    the batch.

    Block 0 works on x; block k + 1 on the features that block k gave to the images *still
    there*, and on no others. An image leaves at the first exit k with largest softmax
    probability of `heads[k](features)` >= thresholds[k].

    Args:
        blocks: K modules, (n, F) -> (n, F) for any n >= 1.
        heads: K modules, (n, F) -> (n, C).
        x: (N, F) float, N >= 1. Must not be changed.
        thresholds: (K,) float; the last one is ignored: the last exit answers the rest.

    Returns:
        logits (N, C) of the exit each image took and exit_index (N,) int64, both in the
        order of x.

    With thresholds (0, 0, 0) every exit_index is 0, and blocks 1 and 2 work on no row.
    """
    ### BEGIN SOLUTION
    last = len(blocks) - 1
    here = torch.arange(len(x))
    exit_index = torch.zeros(len(x), dtype=torch.int64)
    answers = None
    features = x
    for k, (block, head) in enumerate(zip(blocks, heads, strict=True)):
        features = block(features)
        logits = head(features)
        if answers is None:
            answers = logits.new_zeros(len(x), logits.shape[1])
        sure = logits.softmax(1).amax(1) >= thresholds[k]
        if k == last:
            sure[:] = True
        answers[here[sure]] = logits[sure]
        exit_index[here[sure]] = k
        features, here = features[~sure], here[~sure]
        if len(here) == 0:
            break
    return answers, exit_index
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "infer_check", "points": 4}
_ = check.infer(infer)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.infer.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a batch of 32, which almost never is sure as a whole, still gets cheaper block by block.
