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
# # Exercises: which words may stay unread?
#
# Four functions: how long a gate pauses, a step that computes only what it must, the loss that teaches jumps, and the
# bill of a batch whose rows skip at different times.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Which words may stay unread?](../../notebooks/temporal/skimming.ipynb).

# %%
import math

from torch import Tensor

from course_lib.checks.temporal import skimming as check

# %% [markdown]
# ## 1. How long a gate will pause
#
# After an update, the gate of a Skip RNN adds the same increment at every step until it fires. Nothing changes in
# between, so whoever knows the increment knows the whole pause. That is what makes real skipping possible.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One line, plain Python; `math` is imported above.
# ```


# %% nbgrader={"solution": true, "grade_id": "skipped_steps"}
def skipped_steps(increment: float) -> int:
    """How many steps are copied after an update.

    The step after the update begins with the accumulated probability `increment`. A step
    that begins with one half or more updates; any other is copied, and adds `increment`
    for the next one.

    Args:
        increment: above 0, at most 1.

    Returns:
        The number of copied steps before the next update. `skipped_steps(0.2)` is 2.
    """
    ### BEGIN SOLUTION
    return math.ceil(0.5 / increment) - 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "skipped_steps_check", "points": 1}
_ = check.skipped_steps(skipped_steps)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.skipped_steps.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a reader can go straight to its next word, and no clock needs to tick for the words between.

# %% [markdown]
# ## 2. A step that computes only what updates
#
# In a batch, some rows are due and some copy their state. A program that computes all of them and then chooses has
# skipped nothing. The check watches which rows your cell gets to see.
#
# ```{admonition} Level 3 of 5 · 15 minutes
# About three lines, PyTorch; no loop over rows.
# ```


# %% nbgrader={"solution": true, "grade_id": "gated_step"}
def gated_step(cell, x: Tensor, h: Tensor, update: Tensor) -> Tensor:
    """One step of a batch, in which a row either updates its state or copies it.

    Args:
        cell: the recurrent cell, `cell(x_rows, h_rows) -> new_h_rows` for any number of
            rows, also none. It may see only the rows that update.
        x: (N, F) float, the inputs of this step.
        h: (N, d) float, the states before it. Must not be changed.
        update: (N,) float, the accumulated probabilities; a row updates where it is one
            half or more.

    Returns:
        (N, d) float, the states after it: rows that do not update are the same numbers as
        in h. Gradients flow to h, and to x where it was read.

    With update `[0.7, 0.2]` the cell sees one row, and the second row of the result is h[1].
    """
    ### BEGIN SOLUTION
    due = update >= 0.5
    after = h.clone()
    after[due] = cell(x[due], h[due])
    return after
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "gated_step_check", "points": 3}
_ = check.gated_step(gated_step)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.gated_step.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the rows that copy cost nothing, except that they still have to be told apart from the others.

# %% [markdown]
# ## 3. A loss that teaches jumps
#
# How far to jump is a choice among numbers, and no gradient leads through it. REINFORCE makes do with the reward at
# the end of the text: each jump of it becomes more likely if the reward was better than that jump had expected.
# Nothing is drawn in the check: it shows your function every jump in exactly its right proportion.
#
# ```{admonition} Level 3 of 5 · 22 minutes
# About two lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "jump_loss"}
def jump_loss(log_prob: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """The loss of the jumps, whose gradient is REINFORCE's estimate: going down it makes
    rewarded jumps more likely.

    It is the mean over texts of the sum over a text's jumps of

        -(reward - baseline) * log_prob.

    Args:
        log_prob: (N, D) float, for each of N texts the log-probabilities of the D jumps it
            made; here all texts make as many.
        reward: (N,) float, one for a whole text; larger is better.
        baseline: (N, D) float, the reward each jump expected. It is trained elsewhere: no
            gradient may flow into it from here.

    Returns:
        A scalar tensor. With log_prob `[[-0.7]]`, reward `[1.]` and baseline `[[0.25]]` its
        gradient with respect to log_prob is `[[-0.75]]`.
    """
    ### BEGIN SOLUTION
    surprise = reward[:, None] - baseline.detach()
    return -(surprise * log_prob).sum(1).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "jump_loss_check", "points": 3}
_ = check.jump_loss(jump_loss)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.jump_loss.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a reader can learn how far to jump from nothing but whether its answer was right.

# %% [markdown]
# ## 4. What a batch must compute
#
# Three readers, six words, two updates each: 100100, 101000, 110000. One after the other they call the cell six times
# with one row. Together they call it at every step at which *somebody* updates, with all rows ("masked") or with those
# that are due ("compacted"). Calls cost time of their own, so count both.
#
# ```{admonition} Level 4 of 5 · 25 minutes
# About eight lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "plan_cost"}
def plan_cost(updates: Tensor, plan: str) -> tuple[int, int]:
    """Rows that the cell computes and calls of the cell, for a batch of readers.

    Args:
        updates: (N, T) bool, where each row updates.
        plan: "one_by_one": row after row, each computes its updates alone.
            "masked": step by step, all N rows at each step at which any row updates.
            "compacted": step by step, only the rows that update at that step.

    Returns:
        (rows, launches), two ints; a launch is one call. For the three readers above: (6, 6), (12, 4) and (6, 4).
    """
    ### BEGIN SOLUTION
    rows = int(updates.sum())
    busy_steps = int(updates.any(0).sum())
    if plan == "one_by_one":
        return rows, rows
    if plan == "masked":
        return len(updates) * busy_steps, busy_steps
    return rows, busy_steps
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "plan_cost_check", "points": 4}
_ = check.plan_cost(plan_cost)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.plan_cost.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So compacting saves rows and not one call. To save calls, too, the rows must stop waiting for each other: if each
# goes straight to its own next word, the three readers need two calls of three rows.
