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
# # Exercises: should every exit learn from every image?
#
# Four functions: the weights, the judges, the gradient between them, and the step that carries it. Together they are
# the core of `course_lib.instance.l2w`. The first three take an hour at most; the fourth is hard, and optional.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Should every exit learn from every image?](../../notebooks/instance/l2w.ipynb). Exits count from 0 in code.

# %%
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_lib.checks.instance import l2w as check

# %% [markdown]
# ## 1. Weights around one
#
# A network that may choose weights freely could choose them all large, and would only have changed the learning rate.
# Centring takes that freedom away: the weights average to one, whatever the raw numbers are.
#
# ```{admonition} Level 1 of 5 · 10 minutes
# Three or four lines. PyTorch only.
# ```


# %% nbgrader={"solution": true, "grade_id": "centre"}
def centre(raw: Tensor, epsilon: float, mode: str) -> Tensor:
    """Centred weights, 1 + epsilon * (raw - mean).

    Args:
        raw: (B, K) float in [-1, 1], a row for each sample, a column for each exit. Must
            not be changed.
        epsilon: strength, 0 or more.
        mode: what the mean is taken over. "col": the K exits of each sample, so that every
            sample keeps total weight K. "row": the B samples at each exit, so that every
            exit keeps mean weight 1. "mat": all B * K numbers.

    Returns:
        (B, K) float with mean 1. Weights may be negative; they stay as they are.

    `centre(torch.tensor([[0.9, 0.0, -0.6]]), 0.8, "col")` is about `[[1.64, 0.92, 0.44]]`.
    """
    ### BEGIN SOLUTION
    axes = {"mat": (0, 1), "col": (1,), "row": (0,)}[mode]
    return 1 + epsilon * (raw - raw.mean(axes, keepdim=True))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "centre_check", "points": 1}
_ = check.centre(centre)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.centre.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the weights can move a sample's influence from exit to exit, and nothing else.

# %% [markdown]
# ## 2. The bins of the judges
#
# A sample should be judged at the exit where it would leave. In the middle of training there are no thresholds yet, so
# the test is played on the batch itself: the shares are filled exit by exit, the most confident first.
#
# ```{admonition} Level 2 of 5 · 15 minutes
# About ten lines, PyTorch. Work the six samples of the chapter on paper first.
# ```


# %% nbgrader={"solution": true, "grade_id": "allocate"}
def allocate(confidence: Tensor, rho: float) -> Tensor:
    """The exit at which each sample of a batch is judged.

    The share of exit k is q_k, proportional to rho ** k, and all shares add up to 1. For
    every exit but the last, the floor(q_k * n) most confident samples at exit k, of those
    not taken before, get exit k. The last exit takes whoever is left.

    Args:
        confidence: (n, K) float, no ties within a column. Must not be changed.
        rho: 0 or more.

    Returns:
        (n,) int64 in 0..K-1.

    Example: confidences (.9 .5), (.2 .9), (.8 .8) and rho 1 give `[0, 1, 1]`: floor(1.5) = 1
    sample leaves at exit 0, the others at exit 1.
    """
    ### BEGIN SOLUTION
    number, exits = confidence.shape
    shares = rho ** torch.arange(exits, dtype=torch.float64)
    shares = shares / shares.sum()
    taken = torch.full((number,), exits - 1, dtype=torch.int64)
    here = torch.arange(number)
    for k in range(exits - 1):
        wanted = math.floor(float(shares[k]) * number)
        order = confidence[here, k].argsort(descending=True)
        taken[here[order[:wanted]]] = k
        here = here[order[wanted:]]
    return taken
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "allocate_check", "points": 2}
_ = check.allocate(allocate)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.allocate.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So of 32 judges at $\rho = 0.75$ only a handful is left for each late exit, which is why batches must be large here.

# %% [markdown]
# ## 3. How a weight changes the loss one step later
#
# One parameter $\theta$ is enough to see the whole method. Each training sample pulls it to its target, a judge wants
# it elsewhere, and between the two stands one gradient step. How would the judge's loss change with each weight?
#
# ```{admonition} Level 3 of 5 · 25 minutes
# Four lines, plain Python. Derive the formula on paper, then check yourself by finite differences.
# ```


# %% nbgrader={"solution": true, "grade_id": "meta_gradient"}
def meta_gradient(
    theta: float, targets: list[float], alpha: float, meta_target: float
) -> list[float]:
    """The derivative of the meta loss by the weight of each training sample, at weights 1.

    The loss of training sample i is (theta - targets[i]) ** 2 / 2. The training loss is the
    *mean* over the samples of weight times loss. One gradient step of size alpha on it leads
    to theta_hat. The meta loss is (theta_hat - meta_target) ** 2 / 2.

    Args:
        theta: the parameter before the step.
        targets: one for each of B training samples.
        alpha: learning rate, 0 or more.
        meta_target: where the judge would like the parameter.

    Returns:
        B numbers. `meta_gradient(0.0, [1.0, -3.0], 0.1, 2.0)` is `[-0.105, 0.315]`.
    """
    ### BEGIN SOLUTION
    gradients = [theta - target for target in targets]
    theta_hat = theta - alpha * sum(gradients) / len(targets)
    meta = theta_hat - meta_target
    return [-alpha / len(targets) * meta * gradient for gradient in gradients]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "meta_gradient_check", "points": 3}
_ = check.meta_gradient(meta_gradient)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.meta_gradient.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the sample at 1 should gain weight and the sample at -3 lose some: one pulls to the judge's side, the other away.

# %% [markdown]
# ## 4. A look-ahead that can be differentiated
#
# For a real network the step must be written so that its result is a *function* of the sample weights, and so that the
# network does not notice. This is the heart of many methods that learn to learn.
#
# ```{admonition} Level 5 of 5 · 40 minutes
# About ten lines, PyTorch, `functional_call`. Optional.
# ```


# %% nbgrader={"solution": true, "grade_id": "look_ahead"}
def look_ahead(
    model: nn.Module,
    loss: Callable[[Callable[[Tensor], Tensor]], Tensor],
    buffers: dict[str, Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> dict[str, Tensor]:
    """The parameters of the model after one step of SGD, as new tensors with their graph.

    SGD adds `weight_decay` times the parameter to the gradient, adds that to `momentum`
    times the parameter's buffer, and moves the parameter by -lr times the sum.

    Args:
        model: in training mode, with batch normalisation. Neither its parameters nor its
            running statistics may change.
        loss: `loss(call)` is the training loss, a scalar, for any function `call` that runs
            the model on a batch, such as the model itself. Sample weights that require a
            gradient are part of it.
        buffers: the momentum buffer of each parameter, by its name. Must not be changed.
        lr, momentum, weight_decay: the settings of SGD.

    Returns:
        The new value of each parameter, by its name. A loss computed from them can be
        differentiated by the sample weights.

    A parameter 2.0 with gradient 0.5, buffer 1.0, lr 0.1, momentum 0.9 and weight decay 0.05
    becomes 2.0 - 0.1 * (0.9 + 0.5 + 0.1) = 1.85.
    """
    ### BEGIN SOLUTION
    parameters = dict(model.named_parameters())
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    value = loss(lambda x: functional_call(model, copies, (x,)))
    gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    ahead = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        velocity = momentum * buffers[name] + gradient + weight_decay * parameter
        ahead[name] = parameter - lr * velocity
    return ahead
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "look_ahead_check", "points": 5}
_ = check.look_ahead(look_ahead)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.look_ahead.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a training step, which everybody treats as an end, becomes one more layer that gradients pass through.
