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
# # Exercises: when is less work really faster?
#
# Four small functions, 30 minutes in all, for the chapter [When is less work really faster?](../../notebooks/start/measuring.ipynb).
# Write each one where the stub raises `NotImplementedError`, run its cell, and run the check below it: the check says
# *correct*, or which case fails and what your answer did there. You may use Python and PyTorch.

# %%
import torch

from course_lib.checks.start import measuring as check

# %% [markdown]
# ## 1. MACs for every byte
#
# Multiply-adds alone did not say which of two layers is slower. The first thing to put beside them is how much data the
# layer has to move: MACs per byte is the one number that places a layer on the roofline from left to right.
#
# *Level 1 of 5, 5 minutes.*


# %% nbgrader={"solution": true, "grade_id": "operational_intensity"}
def operational_intensity(cin: int, cout: int, kernel: int, side: int, batch: int) -> float:
    """Multiply-adds per byte of a convolution on square maps; a float32 has 4 bytes.

    The convolution has stride 1, keeps the side of the map, has no bias and no groups.
    Moved once each: input `(batch, cin, side, side)`, weights `(cout, cin, kernel,
    kernel)`, output `(batch, cout, side, side)`.

    `operational_intensity(2, 3, 1, 4, 1)` is 96 MACs / 344 bytes = 0.279.
    """
    ### BEGIN SOLUTION
    macs = batch * side**2 * cout * cin * kernel**2
    numbers = batch * side**2 * (cin + cout) + cout * cin * kernel**2
    return macs / (4 * numbers)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "operational_intensity_check", "points": 1}
check.operational_intensity(operational_intensity)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.operational_intensity.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# With this number you can place a convolution on the roofline of any machine before it has run once.

# %% [markdown]
# ## 2. The least time a layer can take
#
# A machine multiplies and moves data at the same time, so neither job may be left out and neither is added to the other.
# With this bound you know, before you optimise anything, which of the two is worth reducing.
#
# *Level 2 of 5, 7 minutes.*


# %% nbgrader={"solution": true, "grade_id": "roofline_bound"}
def roofline_bound(
    macs: float, bytes_moved: float, macs_per_s: float, bytes_per_s: float
) -> tuple[float, str]:
    """Least time in seconds, and what limits it: `"memory"` or `"compute"`.

    Exactly at the ridge, where both jobs take the same time, the answer is `"compute"`. A
    layer may have no MACs (a copy) or no bytes.

    `roofline_bound(200.0, 100.0, 100.0, 10.0)` is `(10.0, "memory")`:
    2 s of arithmetic, 10 s of traffic.
    """
    ### BEGIN SOLUTION
    arithmetic = macs / macs_per_s
    traffic = bytes_moved / bytes_per_s
    return max(arithmetic, traffic), "compute" if arithmetic >= traffic else "memory"
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "roofline_bound_check", "points": 1}
check.roofline_bound(roofline_bound)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.roofline_bound.hint()` in a new cell.
# ```
#
# From now on, ask of every proposal to save work whether it touches the limit that binds.

# %% [markdown]
# ## 3. How far confidence is from accuracy
#
# An early exit asks "are you sure?" and believes the answer. This number says by how much the answer is wrong on
# average, and it is what temperature scaling is judged by.
#
# *Level 3 of 5, 10 minutes.*


# %% nbgrader={"solution": true, "grade_id": "expected_calibration_error"}
def expected_calibration_error(
    confidence: torch.Tensor, correct: torch.Tensor, bins: int
) -> float:
    """Mean distance of confidence and accuracy over bins, weighted by their answers.

    Bin b = 0, 1, ... holds the answers with b / bins < confidence <= (b + 1) / bins; a
    confidence of 0 joins the first bin. In each bin that is not empty, compare the mean
    confidence with the share of right answers.

    confidence: (N,) float in [0, 1]; correct: (N,) bool. Returns a number in [0, 1], 0.0
    where N is 0.

    Confidences 0.9 (right), 0.8 (wrong), 0.3 (wrong) in two bins give
    (2 * |0.85 - 0.5| + 1 * |0.3 - 0|) / 3 = 0.333.
    """
    ### BEGIN SOLUTION
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if b == 0:
            inside |= confidence == 0
        if inside.any():
            gap = confidence[inside].mean() - correct[inside].to(confidence).mean()
            total += float(inside.sum() * gap.abs())
    return total / max(len(confidence), 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "expected_calibration_error_check", "points": 1}
check.expected_calibration_error(expected_calibration_error)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.expected_calibration_error.hint()` in a new cell. If one case only fails, look at who stands exactly on an edge.
# ```
#
# One number for the honesty of a network lets you compare two networks, or one before and after its mending.

# %% [markdown]
# ## 4. How a batch shrinks
#
# With batch compaction every block runs on those images only that still need it. Counting them is the first ledger of
# every network with exits, and the next chapter checks its own inference against exactly this count.
#
# *Level 3 of 5, 8 minutes.*


# %% nbgrader={"solution": true, "grade_id": "rows_per_block"}
def rows_per_block(exit_index: torch.Tensor, exits: int) -> tuple[list[int], float]:
    """Rows that each block computes, and the share of the static rows that is saved.

    Block k comes before exit k; an image with exit index e leaves *at* exit e. The static
    network runs all `exits` blocks on all N images.

    exit_index: (N,) int64 in 0..exits-1. Returns the rows of each block, and a saving in
    [0, 1], 0.0 where N is 0.

    `rows_per_block(torch.tensor([0, 0, 1, 2]), 3)` is `([4, 2, 1], 0.417)`: 7 rows for 12.
    """
    ### BEGIN SOLUTION
    rows = [int((exit_index >= k).sum()) for k in range(exits)]
    static = exits * len(exit_index)
    return rows, 1 - sum(rows) / static if static else 0.0
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "rows_per_block_check", "points": 1}
check.rows_per_block(rows_per_block)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.rows_per_block.hint()` in a new cell.
# ```
#
# This is the first ledger of a network with exits; the next chapter puts the clock beside it.
#
# Next: [When is a network sure enough to stop?](../../notebooks/instance/msdnet.ipynb)
