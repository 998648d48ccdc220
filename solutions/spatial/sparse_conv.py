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
# # Exercises: can a machine skip pixels and finish earlier?
#
# Four tasks: the positions that active outputs look at, the density below which skipping wins, a masked convolution in
# three steps, and the addresses of one that runs as a single kernel. The first three need only the first sitting of the
# chapter.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Can a machine skip pixels and finish earlier?](../../notebooks/spatial/sparse_conv.ipynb).

# %%
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from course_lib.checks.spatial import sparse_conv as check

# %% [markdown]
# ## 1. The halo
#
# Before a 3x3 convolution can give its active outputs, the layer before it must have computed every position that they
# look at. That set decides what the first 1x1 convolution of a block costs.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# Three or four lines, PyTorch. The borders of the map are borders: nothing comes back on the other side.
# ```


# %% nbgrader={"solution": true, "grade_id": "halo"}
def halo(mask: Tensor, stride: int) -> Tensor:
    """The inputs of a 3x3 convolution with padding 1 that its active outputs read.

    Args:
        mask: (H, W) bool, active outputs.
        stride: of the convolution; its input has stride * H rows and stride * W columns, and
            output (h, w) is centred on input (stride * h, stride * w).

    Returns:
        (stride * H, stride * W) bool. Four active outputs in a square touch 16 inputs at
        stride 1 and 25 at stride 2; in a corner of the map, 9 at stride 1.
    """
    ### BEGIN SOLUTION
    placed = torch.zeros(stride * mask.shape[0], stride * mask.shape[1])
    placed[::stride, ::stride] = mask.float()
    return F.max_pool2d(placed[None, None], 3, stride=1, padding=1)[0, 0] > 0
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "halo_check", "points": 1}
_ = check.halo(halo)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.halo.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a mask has two densities: one for the layers it masks, and a larger one for the layer before.

# %% [markdown]
# ## 2. Break-even
#
# Skipping has a fixed price (lists, calls) and a price for each active position, and it multiplies less efficiently
# than dense code. If its time is a straight line over the density, two timings tell where it meets the dense time.
#
# ```{admonition} Level 2 of 5 · 12 minutes
# Two or three lines, plain Python. Think of the cases in which skipping never wins, or always does.
# ```


# %% nbgrader={"solution": true, "grade_id": "break_even"}
def break_even(t_dense: float, t_sparse_full: float, t_fixed: float) -> float:
    """The density below which skipping is faster than computing everything.

    Args:
        t_dense: time of the dense layer.
        t_sparse_full: time of the skipping one when everything is active.
        t_fixed: its time when nothing is active, less than t_sparse_full unless both equal 0.

    Returns:
        A density in [0, 1]: 0 if skipping never wins, 1 if it wins even when nothing is
        skipped. `break_even(53.5, 67.4, 5.0)` is 0.777.
    """
    ### BEGIN SOLUTION
    density = (t_dense - t_fixed) / (t_sparse_full - t_fixed)
    return min(1.0, max(0.0, density))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "break_even_check", "points": 2}
_ = check.break_even(break_even)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.break_even.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a skipping layer that is 26 % slower when full and pays a tenth for its lists still wins below three quarters.

# %% [markdown]
# ## 3. Gather, product, scatter
#
# The whole of sparse convolution on a laptop is three steps: copy the inputs under the active outputs into the rows of
# a matrix, multiply, and write the rows of the result back. The check counts the rows that the product sees.
#
# ```{admonition} Level 4 of 5 · 25 minutes
# About seven lines, PyTorch, without a loop over positions. Neither `F.conv2d` nor `kernels`.
# ```


# %% nbgrader={"solution": true, "grade_id": "masked_conv"}
def masked_conv(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """A 3x3 convolution, stride 1, padding 1, computed at the active outputs only.

    Args:
        x: (N, C, H, W).
        weight: (K, C, 3, 3).
        mask: (N, 1, H, W) bool, A of its positions are active. Each map has its own.

    Returns:
        (N, K, H, W): the dense convolution where the mask is set, exactly 0 elsewhere. Only A
        rows of 9C numbers may be multiplied by the weights. Nothing active gives zeros.
    """
    ### BEGIN SOLUTION
    n, h, w = mask[:, 0].nonzero(as_tuple=True)
    padded = F.pad(x, (1, 1, 1, 1))
    taps = [padded[n, :, h + i, w + j] for i in range(3) for j in range(3)]
    rows = torch.cat(taps, 1) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    y = x.new_zeros(len(x), *x.shape[2:], len(weight))
    y[n, h, w] = rows
    return y.permute(0, 3, 1, 2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "masked_conv_check", "points": 4}
_ = check.masked_conv(masked_conv)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.masked_conv.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So the product, which is most of the work, sees the active rows and nothing else, and the copies are the price.

# %% [markdown]
# ## 4. A kernel's addresses
#
# In a kernel there is no gathered copy: each program computes where the inputs of its rows lie, and reads them there.
# Everything that can go wrong is in these few lines. The kernel runs in Triton's interpreter, so no GPU is needed, and
# `print` works inside it. What it reads lies between stretches of NaN: a wrong address shows up as NaN in the result.
#
# ```{admonition} Level 5 of 5 · 40 minutes
# Three places, about nine lines in all. A position p of the list is (n * H + h) * W + v: map, row, column. The inputs
# of map n begin at x + n * x_n; the one at row i, column j lies at i * x_h + j * x_w from there, and its C numbers
# follow each other. Tap 0 is (-1, -1), tap 8 is (+1, +1).
# ```


# %% nbgrader={"solution": true, "grade_id": "masked_conv_kernel"}
@triton.jit
def masked_conv_kernel(
    x, w, idx, cnt, y, H, W, x_n, x_h, x_w,
    C: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """3x3, padding 1, at the first cnt positions of the list idx; other rows of y stay.

    x: C numbers a position, channels last, with the strides x_n, x_h, x_w.
    w: (9 * C, K), tap by tap.   idx: positions, valid numbers also beyond the first cnt.
    cnt: their number.           y: (N * H * W, K).
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    c, k = tl.arange(0, BC), tl.arange(0, BK)
    # listed (BM,): which rows are on the list; p (BM,): their positions; from p: n, h, v
    ### BEGIN SOLUTION
    listed = rows < tl.load(cnt)
    p = tl.load(idx + rows, mask=listed, other=0)
    n, h, v = p // (H * W), p // W % H, p % W
    ### END SOLUTION
    acc = tl.zeros((BM, BK), tl.float32)
    for tap in range(9):
        # inside (BM,): listed, and the tap lies on the map; at (BM,): where its input lies in x
        ### BEGIN SOLUTION
        up, left = h + tap // 3 - 1, v + tap % 3 - 1
        inside = listed & (up >= 0) & (up < H) & (left >= 0) & (left < W)
        at = n * x_n + up * x_h + left * x_w
        ### END SOLUTION
        a = tl.load(
            x + at[:, None] + c[None, :], mask=inside[:, None] & (c < C)[None, :], other=0
        )
        b_at = (tap * C + c)[:, None] * K + k[None, :]
        b = tl.load(w + b_at, mask=(c < C)[:, None] & (k < K)[None, :], other=0)
        acc = tl.dot(a, b, acc)
    # stored (BM, BK): which numbers of acc belong into y
    ### BEGIN SOLUTION
    stored = listed[:, None] & (k < K)[None, :]
    ### END SOLUTION
    tl.store(y + p[:, None] * K + k[None, :], acc.to(y.dtype.element_ty), mask=stored)


# %% nbgrader={"grade": true, "grade_id": "masked_conv_kernel_check", "points": 5}
_ = check.masked_conv_kernel(masked_conv_kernel)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.masked_conv_kernel.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a sparse kernel is a dense kernel whose addresses come from a list, and whose masks keep it honest.
