"""Glimpses: square patches cut out of images at real-valued centres, at one or several scales.

Source: RAM (arXiv 1406.6247) section 3; the sampling is that of spatial transformers (arXiv 1506.02025), so that
gradients reach the centres.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels._triton import kernel, runs_on
from course_lib.kernels.operators import differentiate, operator

if TYPE_CHECKING:
    import triton.language as tl


def gather_patches(x: Tensor, centers: Tensor, size: int, scales: int = 1) -> Tensor:
    """Patches of `size` x `size` samples around the centres; equals `affine_grid` and `grid_sample`.

    Scale k takes every 2**k-th position, so that it covers 2**k times the side with as many samples; it reads single
    pixels there, so pool the image before if it must not alias. Bilinear, 0 outside, `align_corners=False`.

    Args:
        x: (N, C, H, W).
        centers: (N, T, 2) float, (row, column), -1 the upper or left edge of the image, 1 the lower or right one.
        size: samples a side.
        scales: number of scales, from 1:1 on.

    Returns:
        (N, T, scales, C, size, size). Gradients reach x (added up by atomics on a GPU, in no fixed order: an error
        under `torch.use_deterministic_algorithms(True)`) and centers. Raises ValueError or TypeError for other shapes
        and types.

    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> gather_patches(x, torch.zeros(1, 1, 2), 2).flatten().tolist()
    [5.0, 6.0, 9.0, 10.0]
    >>> gather_patches(x, torch.zeros(1, 1, 2), 2, scales=2)[0, 0, 1, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    if x.ndim != 4 or not min(x.shape[1:]):
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, C, H, W) with at least one pixel")
    if centers.ndim != 3 or centers.shape[0] != x.shape[0] or centers.shape[2] != 2:
        raise ValueError(f"centers: got shape {tuple(centers.shape)}, expected ({x.shape[0]}, T, 2)")
    if centers.device != x.device:
        raise ValueError(f"centers: got one on {centers.device}, expected it on x's device {x.device}")
    for name, tensor in (("x", x), ("centers", centers)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: got {tensor.dtype}, expected a floating point type")
    for name, number in (("size", size), ("scales", scales)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}: got {number!r}, expected a whole number, 1 or more")
    if runs_on(x.device) and x.dtype != torch.float64:
        return torch.ops.course_lib.gather_patches(x, centers, size, scales)
    return gather_patches_reference(x, centers, size, scales)


def gather_patches_reference(x: Tensor, centers: Tensor, size: int, scales: int) -> Tensor:
    """What `gather_patches` means, in plain PyTorch."""
    n, t, channels = centers.shape[0], centers.shape[1], x.shape[1]
    if not n * t:  # grid_sample wants something to sample
        return x.new_zeros(n, t, scales, channels, size, size) + 0 * (x.sum() + centers.sum()).to(x.dtype)
    exact = x.double() if x.dtype == torch.float64 else x.float()  # half precision cannot tell pixels apart
    sampled = F.grid_sample(exact, _grid(x, centers, size, scales).to(exact.dtype), align_corners=False)
    return sampled.view(n, channels, t, scales, size, size).permute(0, 2, 3, 1, 4, 5).to(x.dtype).contiguous()


def _grid(x: Tensor, centers: Tensor, size: int, scales: int) -> Tensor:
    """(N, T * scales * size, size, 2): where to sample, (x, y) in [-1, 1]; an image's patches one above the other."""
    height, width = x.shape[2:]
    n, t, _ = centers.shape
    at = centers if centers.dtype == torch.float64 else centers.float()
    steps = (torch.arange(size, device=x.device, dtype=at.dtype) * 2 + 1) / size - 1  # sample centres in the patch
    reach = size * 2.0 ** torch.arange(scales, device=x.device, dtype=at.dtype)  # pixels a patch covers
    rows = at[:, :, None, None, 0] + reach[:, None] / height * steps  # (N, T, scales, size)
    columns = at[:, :, None, None, 1] + reach[:, None] / width * steps
    shape = (n, t, scales, size, size)
    grid = torch.stack((columns[..., None, :].expand(shape), rows[..., None].expand(shape)), -1)
    return grid.reshape(n, t * scales * size, size, 2)


@kernel
def _sample(
    x, centers, out, T, SCALES, C, H, W, x_n, x_c, x_h, x_w,
    SIZE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program BP samples of one patch, in all channels: the four corners' weights are computed once."""
    patch = tl.program_id(0)
    samples = tl.program_id(1) * BP + tl.arange(0, BP)
    exists = samples < SIZE * SIZE
    scale = patch % SCALES
    image = patch // SCALES // T
    reach = SIZE * (1 << scale).to(tl.float32)
    row = tl.load(centers + patch // SCALES * 2)
    column = tl.load(centers + patch // SCALES * 2 + 1)
    v = (samples // SIZE * 2 + 1) / SIZE - 1.0
    h = (samples % SIZE * 2 + 1) / SIZE - 1.0
    v = ((row + reach / H * v + 1.0) * H - 1.0) / 2.0
    h = ((column + reach / W * h + 1.0) * W - 1.0) / 2.0
    # Far outside, where all is 0 anyway, a number must still fit into an integer.
    v = tl.minimum(tl.maximum(v, -2.0), H + 1.0)
    h = tl.minimum(tl.maximum(h, -2.0), W + 1.0)
    top = tl.floor(v)
    left = tl.floor(h)
    below = v - top
    right = h - left
    top = top.to(tl.int32)
    left = left.to(tl.int32)
    for start in range(0, C, BC):
        channels = start + tl.arange(0, BC)
        value = tl.zeros((BC, BP), tl.float32)
        for corner in range(4):
            r = top + corner // 2
            c = left + corner % 2
            share = tl.where(corner // 2 == 0, 1.0 - below, below) * tl.where(corner % 2 == 0, 1.0 - right, right)
            read = exists & (r >= 0) & (r < H) & (c >= 0) & (c < W)
            at = image.to(tl.int64) * x_n + r.to(tl.int64) * x_h + c.to(tl.int64) * x_w
            here = at[None, :] + channels.to(tl.int64)[:, None] * x_c
            pixels = tl.load(x + here, mask=read[None, :] & (channels < C)[:, None], other=0)
            value += pixels.to(tl.float32) * share[None, :]
        target = (patch.to(tl.int64) * C + channels)[:, None] * (SIZE * SIZE) + samples[None, :]
        tl.store(out + target, value.to(out.dtype.element_ty), mask=exists[None, :] & (channels < C)[:, None])


def _fake(x: Tensor, centers: Tensor, size: int, scales: int) -> Tensor:
    return x.new_empty(*centers.shape[:2], scales, x.shape[1], size, size)


@operator("gather_patches(Tensor x, Tensor centers, int size, int scales) -> Tensor", fake=_fake)
def _gather_patches(x: Tensor, centers: Tensor, size: int, scales: int) -> Tensor:
    if not runs_on(x.device):
        return gather_patches_reference(x, centers, size, scales)
    n, t, channels = *centers.shape[:2], x.shape[1]
    out = torch.empty(n, t, scales, channels, size, size, dtype=x.dtype, device=x.device)
    _sample.launch(
        (n * t * scales, -(-size * size // 128)),
        x,
        centers.float().contiguous(),
        out,
        t,
        scales,
        channels,
        *x.shape[2:],
        *x.stride(),
        SIZE=size,
        BP=128,
        BC=4 if channels <= 4 else 16,
    )
    return out


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    x, centers, ctx.size, ctx.scales = inputs
    ctx.save_for_backward(x, centers)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, centers = ctx.saved_tensors
    (n, t, _), size, scales = centers.shape, ctx.size, ctx.scales
    if not n * t:
        return torch.zeros_like(x), torch.zeros_like(centers), None, None
    grad = grad.permute(0, 3, 1, 2, 4, 5).reshape(n, x.shape[1], t * scales * size, size).float()
    grid = _grid(x, centers, size, scales).float()
    bilinear, zeros, wanted = 0, 0, list(ctx.needs_input_grad[:2])
    dx, d_grid = torch.ops.aten.grid_sampler_2d_backward(grad, x.float(), grid, bilinear, zeros, False, wanted)
    d_centers = d_grid.view(n, t, -1, 2).sum(2).flip(-1).to(centers.dtype) if wanted[1] else None
    return dx.to(x.dtype) if wanted[0] else None, d_centers, None, None


differentiate("gather_patches", _backward, _save)
