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
# # Exercises: how does a yes or a no learn?
#
# Four functions: the gradient that is right, and one member of each family that estimates it. With them you have
# written the core of `course_lib.decision`'s estimators, which every later chapter with a gate uses.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [How does a yes or a no learn?](../../notebooks/training/gradients.ipynb).

# %%
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from course_lib.checks.training import gradients as check

# %% [markdown]
# ## 1. The gradient that all others estimate
#
# Whoever measures an estimator needs the truth to measure it against. For a gate it is one line: open with
# probability $p = \sigma(a)$, it costs one loss open and another closed, and its *expected* loss is a smooth function
# of the logit $a$.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One or two lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "exact_gradient"}
def exact_gradient(logit: Tensor, loss_open: float, loss_closed: float) -> Tensor:
    """The derivative of the expected loss of a gate with respect to its logit.

    Args:
        logit: (N,) float, N separate gates; gate i is open with probability
            sigmoid(logit[i]).
        loss_open: what an open gate costs.
        loss_closed: what a closed gate costs.

    Returns:
        (N,) float. `exact_gradient(torch.zeros(1), 3.0, 1.0)` is `[0.5]`.
    """
    ### BEGIN SOLUTION
    p = torch.sigmoid(logit)
    return p * (1 - p) * (loss_open - loss_closed)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "exact_gradient_check", "points": 1}
_ = check.exact_gradient(exact_gradient)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.exact_gradient.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the sign never depends on $p$: with the exact gradient a gate opens or closes, and never settles in the middle.

# %% [markdown]
# ## 2. A hard value with a soft gradient
#
# Straight-through: the network must see the hard gate, for that one will run, and the logit must receive the gradient
# of the soft one, for the hard one has none. `detach` gives a tensor with the same value through which no gradient
# flows. That is all you need.
#
# ```{admonition} Level 2 of 5 · 12 minutes
# One line, PyTorch, no `torch.autograd.Function`.
# ```


# %% nbgrader={"solution": true, "grade_id": "straight_through"}
def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """A tensor that has the value of `hard` and the gradient of `soft`.

    Args:
        hard: (N,) float of zeros and ones, or bool. No gradient may flow into it, also
            where it could.
        soft: (N,) float, with a gradient.

    Returns:
        (N,) float. Its value is hard, as 0.0 and 1.0; its derivative with respect to
        soft is 1 in every element.

    With hard `[0, 1]`, soft `[0.2, 0.7]` and the loss `(w * result).sum()`, the gradient
    of soft is w.
    """
    ### BEGIN SOLUTION
    return hard.detach().to(soft.dtype) + (soft - soft.detach())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "straight_through_check", "points": 2}
_ = check.straight_through(straight_through)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.straight_through.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So one line trains anything with a threshold in it. Where it leads, the loss's slope decides, not its value.

# %% [markdown]
# ## 3. REINFORCE, exact on average
#
# Several gates are drawn, the network runs, and one number comes back: the loss. Nothing of it can be differentiated.
# Still there is a surrogate whose gradient is, on average over the draws, that of the expected loss. The check does
# the averaging: it shows your function both outcomes in exactly their right proportion.
#
# ```{admonition} Level 3 of 5 · 20 minutes
# About three lines, PyTorch; `logsigmoid` is imported above. Without it, log-probabilities near 0 lose their digits.
# ```


# %% nbgrader={"solution": true, "grade_id": "reinforce_loss"}
def reinforce_loss(logits: Tensor, gates: Tensor, loss: Tensor, baseline: float) -> Tensor:
    """A scalar whose gradient is REINFORCE's estimate of the gradient of the expected
    loss: the mean over samples of

        (loss - baseline) * gradient of log P(all gates of the sample).

    Only its gradient with respect to the logits is used; its value means nothing.

    Args:
        logits: (N, n) float; gate i of a sample opens with probability sigmoid(logits).
        gates: (N, n) float, what was drawn: 1 open, 0 closed.
        loss: (N,) float, one loss for all n gates of a sample, smaller is better. It is an
            observation: no gradient may flow into it.
        baseline: what is taken off every loss.

    Returns:
        A scalar tensor. With logits `[[0.]]`, gates `[[1.]]`, loss `[2.]` and baseline 0.5
        its gradient with respect to the logits is `[[0.75]]`. The gradient is finite also
        for gates that are nearly certain, at logits of 20 and -20.
    """
    ### BEGIN SOLUTION
    log_prob = torch.where(gates > 0.5, logsigmoid(logits), logsigmoid(-logits)).sum(1)
    return ((loss.detach() - baseline) * log_prob).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "reinforce_loss_check", "points": 3}
_ = check.reinforce_loss(reinforce_loss)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.reinforce_loss.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a loss that is only observed can be learnt from, be it a stopwatch, a vote or another program's verdict.

# %% [markdown]
# ## 4. A choice made by Gumbel noise
#
# Add the right noise to the logits, and the largest entry is a sample. Replace "the largest" by a softmax, and the
# sample gets a slope. The uniform numbers are given, so that your answer can be compared digit by digit. The
# library's function refuses temperature 0; yours shall return what the softmax tends to.
#
# ```{admonition} Level 3 of 5 · 20 minutes
# About five lines, PyTorch; `one_hot` is imported above.
# ```


# %% nbgrader={"solution": true, "grade_id": "gumbel_choice"}
def gumbel_choice(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    """One choice out of K in every row, softened by a temperature.

    Args:
        logits: (N, K) float, unnormalised log-probabilities.
        uniform: (N, K) float, uniform random numbers inside (0, 1). The noise is
            g = -log(-log(uniform)).
        tau: temperature, 0 or more.

    Returns:
        (N, K) float, rows summing to 1: for tau > 0 the softmax of (logits + g) / tau. For
        tau = 0 its limit: 1 where logits + g is largest in the row, 0 elsewhere. For
        tau > 0 it carries a gradient to the logits.

    `gumbel_choice(torch.zeros(1, 2), torch.tensor([[0.5, 0.9]]), 1.0)` is about
    `[[0.132, 0.868]]`, and `[[0, 1]]` for tau 0.
    """
    ### BEGIN SOLUTION
    score = logits - torch.log(-torch.log(uniform))
    if tau == 0:
        return one_hot(score.argmax(1), logits.shape[1]).to(logits.dtype)
    return (score / tau).softmax(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "gumbel_choice_check", "points": 3}
_ = check.gumbel_choice(gumbel_choice)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.gumbel_choice.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So all the chance can be moved beside the path from the logits to the choice, and what stays on it has a slope.
