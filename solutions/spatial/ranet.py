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
# # Exercises: how sharp must a picture be?
#
# Four functions about lanes that run from coarse to fine: how many exits they have, what an answer has cost, how wide a
# fusion block is, and inference that takes the stored features of the lane before along. The last one is the core of
# `RANet.infer`.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [How sharp must a picture be?](../../notebooks/spatial/ranet.ipynb). Lanes, blocks and exits count from 0 in code.

# %%
import math

import torch
from torch import Tensor, nn

from course_lib.checks.spatial import ranet as check

# %% [markdown]
# ## 1. Exits in each lane
#
# A lane of a resolution adaptive network has one *fusion block* for every block of the lane before, and plain blocks
# after them. Only plain blocks carry an exit.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One line. Plain Python.
# ```


# %% nbgrader={"solution": true, "grade_id": "exits_per_lane"}
def exits_per_lane(n_blocks: int, block_step: int, lanes: int) -> list[int]:
    """How many exits each lane has, coarsest lane first.

    Args:
        n_blocks: blocks of the first lane, at least 1.
        block_step: blocks each later lane has more than the lane before it, at least 1.
        lanes: their number, at least 1.

    Returns:
        One number a lane. `exits_per_lane(3, 2, 3)` is `[3, 2, 2]`: the lanes have 3, 5 and 7
        blocks, of which 0, 3 and 5 are fusion blocks.
    """
    ### BEGIN SOLUTION
    return [n_blocks] + [block_step] * (lanes - 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "exits_per_lane_check", "points": 1}
_ = check.exits_per_lane(exits_per_lane)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.exits_per_lane.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the default network of 2, 4 and 6 blocks has 6 exits, two in each lane.

# %% [markdown]
# ## 2. What an answer has cost
#
# A picture that is answered at an exit has paid for the whole stem, for every block up to there, earlier lanes in full,
# and for every head it was asked at on the way. The parts of the default CIFAR-10 network are in the check.
#
# ```{admonition} Level 2 of 5 · 15 minutes
# About eight lines. Plain Python.
# ```


# %% nbgrader={"solution": true, "grade_id": "exit_costs"}
def exit_costs(
    stem: list[float], blocks: list[list[float]], heads: list[float], lanes: list[int]
) -> list[float]:
    """Cumulative cost of an answer at each exit.

    Args:
        stem: costs of the stem's convolutions, fine to coarse; each works on the map of the
            one before, so every image pays all of them.
        blocks: for each lane, in the order in which they run, the costs of its blocks.
        heads: (K,) costs of the exits' heads, in the order in which they are asked.
        lanes: for each lane its number of exits; they stand behind its last blocks.

    Returns:
        (K,) costs. `exit_costs([3, 5], [[10], [20, 4, 6]], [1, 2, 2], [1, 2])` is
        `[19, 45, 53]`.
    """
    ### BEGIN SOLUTION
    spent, costs = sum(stem), []
    for lane, exits in zip(blocks, lanes, strict=True):
        for b, block in enumerate(lane):
            spent += block
            if b >= len(lane) - exits:
                spent += heads[len(costs)]
                costs.append(spent)
    return costs
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "exit_costs_check", "points": 2}
_ = check.exit_costs(exit_costs)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.exit_costs.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So an answer at exit 2 of 6, still in the coarsest lane, has cost 28.8 of 60.9 M: nearly half.

# %% [markdown]
# ## 3. The widths of a fusion block
#
# Each layer of a block adds `growth` channels. In a fusion block a share of them is computed from the lane before: layer
# i reads the state that layer i of the fused block read. After the last layer comes the *closing copy*: the final state
# of the fused block, squeezed to a share of the channels that *this* block has after its last layer. Shares are rounded
# down.
#
# ```{admonition} Level 3 of 5 · 22 minutes
# About ten lines. Plain Python. Work 46 channels and growth 6 on paper first.
# ```


# %% nbgrader={"solution": true, "grade_id": "fusion_widths"}
def fusion_widths(
    own: int, low: list[int] | None, growth: int, layers: int, compress: float
) -> tuple[list[tuple[int, int, int, int]], int]:
    """Channels of every layer of a block, and of its output.

    Args:
        own: channels that enter the block.
        low: `layers + 1` numbers, the channels of the fused block's state before each of its
            layers and after the last; None for a plain block, which fuses nothing.
        growth: channels each layer adds, from both sources together.
        layers: number of layers.
        compress: share of a layer's new channels, and size of the closing copy as a share of
            this block's channels after the last layer, that come from the lane before.

    Returns:
        For each layer (channels the low path reads, channels it gives, channels the own path
        reads, channels it gives), zeros where there is no low path; and the channels of the
        block's output.

        Own 32, low [64, 88, 112, 136, 160], growth 12, 4 layers, a quarter: the first layer
        is (64, 3, 32, 9), and the output has 32 + 48 = 80, and 20 from the closing copy: 100.
    """
    ### BEGIN SOLUTION
    from_low = 0 if low is None else math.floor(compress * growth)
    rows, channels = [], own
    for i in range(layers):
        reads = 0 if low is None else low[i]
        rows.append((reads, from_low, channels, growth - from_low))
        channels += growth
    if low is not None:
        channels += math.floor(compress * channels)
    return rows, channels
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "fusion_widths_check", "points": 3}
_ = check.fusion_widths(fusion_widths)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.fusion_widths.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a fine lane can be narrow: of the first example's 100 channels 12 + 20 were worked out on coarse maps, where work is
# cheap.

# %% [markdown]
# ## 4. Inference over lanes
#
# When the unsure images go on to the next lane, two things must go with them: their own map of the next resolution, and
# what every block of the lane before has stored *for them*. The check counts the rows each block sees, and compares
# with every image run alone.
#
# ```{admonition} Level 4 of 5 · 30 minutes
# About twenty lines, PyTorch. Here every lane has one exit, after its last block. Confidence is the largest softmax
# probability.
# ```


# %% nbgrader={"solution": true, "grade_id": "infer"}
def infer(
    lanes: list[list[nn.Module]], heads: list[nn.Module], maps: list[Tensor], bars: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the lanes one after another; after each, the images that are sure enough leave.

    Lane h works on the rows of maps[h] that belong to the images *still there*. Its block b
    is called as block(features, stored): features are what block b - 1 of the lane gave (for
    b = 0 the rows of maps[h]), stored is what block b of lane h - 1 gave for *the same
    images*, or None where lane h - 1 has no such block. An image leaves after the first lane
    with largest softmax probability of heads[h](features) >= bars[h].

    Args:
        lanes: H lists of modules, (n, F) and (n, F) or None -> (n, F), for any n >= 1.
        heads: H modules, (n, F) -> (n, C).
        maps: H tensors (N, F), N >= 1, coarse to fine. Must not be changed.
        bars: (H,) float; the last one is ignored: the last lane answers the rest.

    Returns:
        logits (N, C) of the lane after which each image left and exit_index (N,) int64, both
        in the order of the maps. With bars (0, 0, 0) only lane 0 runs.
    """
    ### BEGIN SOLUTION
    here = torch.arange(len(maps[0]))
    exit_index = torch.zeros_like(here)
    stored, answers = [], None
    for h, (lane, head) in enumerate(zip(lanes, heads, strict=True)):
        features, kept = maps[h][here], []
        for b, block in enumerate(lane):
            features = block(features, stored[b] if b < len(stored) else None)
            kept.append(features)
        logits = head(features)
        answers = logits.clone() if answers is None else answers
        sure = (logits.softmax(1).amax(1) >= bars[h]) | (h == len(lanes) - 1)
        answers[here[sure]], exit_index[here[sure]] = logits[sure], h
        here, stored = here[~sure], [rows[~sure] for rows in kept]
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
# So the coarse lane is computed once for everybody, the fine lane only for those who need it, and on nobody else's
# features.
