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
# # Exercises: why should every input cost the same?
#
# Four tasks to the chapter [Why should every input cost the same?](../../notebooks/start/why_adapt.ipynb), 45 minutes
# in all. Write your answer where it says `raise NotImplementedError`, run the cell, then run the check below it. A
# check tries your function on small inputs, says what differs, and, where it knows your mistake, what you did. Nothing
# further down depends on your answer, so you may take the tasks in any order.

# %%
from collections.abc import Callable

import torch

from course_lib.checks.start import why_adapt as check

# %% [markdown]
# ## 1. The cost of a convolution
# Every saving in this course is first counted in multiply-adds, so you should be able to count a layer on paper; the
# formula stands in the [notation](../../book/notation.md). The only traps are the groups of a grouped convolution and the unit: one multiplication with its addition counts *one*.
#
# *Level 1 of 5, 5 minutes. Plain Python.*


# %% nbgrader={"solution": true, "grade_id": "conv_macs"}
def conv_macs(cin: int, cout: int, k: int, out_h: int, out_w: int, groups: int) -> int:
    """Multiply-adds of a k x k convolution on one image, bias left out.

    The layer reads `cin` channels, writes `cout` channels of out_h x out_w positions, and
    splits the channels into `groups` equal parts, each of which sees only its own.

    Returns a whole number. A single 3x3 kernel from one channel to one channel with one
    output position costs 9: `conv_macs(1, 1, 3, 1, 1, 1)` is 9.
    """
    ### BEGIN SOLUTION
    products_per_output = (cin // groups) * k * k
    return products_per_output * cout * out_h * out_w
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "conv_macs_check", "points": 1}
_ = check.conv_macs(conv_macs)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.conv_macs.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the stride matters only through the size of the output, and a depthwise layer is cheaper by its number of channels.

# %% [markdown]
# ## 2. The mean cost of a network with exits
# A network with exits has no single cost: it depends on who leaves where. The number a fair comparison needs is the
# mean over the images, and the exits' costs are usually given *cumulatively*, everything up to that exit included.
#
# *Level 2 of 5, 10 minutes. Plain Python.*


# %% nbgrader={"solution": true, "grade_id": "expected_cost"}
def expected_cost(counts: list[int], costs: list[float]) -> float:
    """Mean cost of one image, in the unit of `costs`.

    counts: (K,) how many images left at each exit.
    costs: (K,) cumulative cost of an answer at each exit.

    Three images at exit 1 and one at exit 2, of costs 2 and 6:
    `expected_cost([3, 1], [2.0, 6.0])` is 3.0.
    """
    ### BEGIN SOLUTION
    total = sum(count * cost for count, cost in zip(counts, costs, strict=True))
    return total / sum(counts)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "expected_cost_check", "points": 1}
_ = check.expected_cost(expected_cost)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.expected_cost.hint()` in a new cell.
# ```
#
# So what an adaptive network costs is a property of the network *and* of the images it meets.

# %% [markdown]
# ## 3. Really skipping samples
# Training code often multiplies by a gate of zeros and ones, because that has a gradient. At inference it saves
# nothing. Write the version that does: the layer must see the kept rows and no others. The check hangs a counter on
# the layer.
#
# *Level 3 of 5, 15 minutes. PyTorch; loops are allowed but not needed.*


# %% nbgrader={"solution": true, "grade_id": "skip_samples"}
def skip_samples(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Run `layer` on the rows of `x` where `keep` is True; the other rows pass unchanged.

    layer: maps (M, ...) to the same shape for any M, 0 included.
    x: (N, ...) float.
    keep: (N,) bool.

    Returns (N, ...) in the order of x, and leaves x itself as it was. With a layer that
    multiplies by 10, `x = tensor([[1.], [2.]])` and `keep = tensor([False, True])`, the
    result is `[[1.], [20.]]`, and the layer has seen one row.
    """
    ### BEGIN SOLUTION
    out = x.clone()
    out[keep] = layer(x[keep])
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "skip_samples_check", "points": 1}
_ = check.skip_samples(skip_samples)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.skip_samples.hint()` in a new cell.
# ```
#
# So the saving is visible where it happens: in the number of rows the layer sees.

# %% [markdown]
# ## 4. A fair clock
# A GPU returns from a call before the work is done, the first calls of anything are slow, and now and then a call is
# interrupted; the [next chapter](../../notebooks/start/measuring.ipynb) shows all three. Write the function that is fooled by none of the three. The check hands you a fake device whose clock you
# may read with `clock()` and whose work is finished only when `synchronize()` returns, so your result can be exact.
#
# *Level 4 of 5, 15 minutes. Plain Python and its `statistics` module.*


# %% nbgrader={"solution": true, "grade_id": "fair_time"}
def fair_time(
    fn: Callable[[], object],
    clock: Callable[[], float],
    synchronize: Callable[[], None],
    warmup: int,
    repeats: int,
) -> float:
    """Median time of one call of `fn`, in the seconds of `clock`.

    `fn` is called `warmup` times without being timed, then `repeats` (an odd number) times
    with each call timed on its own. `clock()` gives the present time; `synchronize()`
    returns when all queued work is done.

    If three timed calls take 2, 9 and 3 seconds until their work is done, the result is 3.0.
    """
    ### BEGIN SOLUTION
    import statistics

    for _ in range(warmup):
        fn()
    synchronize()  # or the first sample would wait for the warm-up
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        synchronize()
        samples.append(clock() - start)
    return statistics.median(samples)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "fair_time_check", "points": 1}
_ = check.fair_time(fair_time)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.fair_time.hint()` in a new cell.
# ```
#
# So of the many numbers a stopwatch can give, only one belongs in a table; the next chapter,
# [When is less work really faster?](../../notebooks/start/measuring.ipynb), takes `measure.latency` for it.
