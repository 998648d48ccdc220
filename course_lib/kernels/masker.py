"""The masker of spatially adaptive networks in one pass over the features: average over a cell, one number, a sign.

    logit[g, cell] = mean over the cell of x . w_g + b_g          mask = logit >= 0 (ties are active)

Averaging and a 1x1 convolution commute, and of the two logits "compute" and "skip" only the difference decides: pass
w = w_compute - w_skip (LASNet, arXiv 2210.06223, section 3.2; DynConv, arXiv 1912.03203, has one logit to begin with).
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels._triton import kernel, runs_on
from course_lib.kernels.operators import operator
from course_lib.measure.macs import register_macs

if TYPE_CHECKING:
    import triton.language as tl


def cell_logits(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cell: int = 1) -> Tensor:
    """The masker's logits, one for each cell of `cell` x `cell` positions and each mask.

    Cells on the lower and right edge are cropped where `cell` does not divide the map: the mean is over what is there.

    Args:
        x: (N, C, H, W) features.
        weight: (G, C), x's type; G masks at once.
        bias: (G,)

    Returns:
        (N, G, ceil(H / cell), ceil(W / cell)) float32 (float64 for float64). Gradients reach everything, on a GPU
        through the unfused computation. Raises ValueError or TypeError where sizes or types do not fit.

    >>> cell_logits(torch.ones(1, 2, 4, 4), torch.tensor([[1.0, 2.0]]), cell=3)[0, 0].tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    return _run(x, weight, bias, cell, as_mask=False)


def cell_mask(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cell: int = 1) -> Tensor:
    """Where `cell_logits` is not negative, as bool (N, G, ceil(H / cell), ceil(W / cell)); no gradients.

    With G = 1 it is what `ActiveSet.from_mask` takes.
    """
    return _run(x.detach(), weight.detach(), None if bias is None else bias.detach(), cell, as_mask=True)


def cell_logits_reference(x: Tensor, weight: Tensor, bias: Tensor | None, cell: int) -> Tensor:
    """What `cell_logits` means, in plain PyTorch."""
    if not x.numel():
        return x.new_zeros(x.shape[0], weight.shape[0], *(-(-extent // cell) for extent in x.shape[2:]))
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean = F.avg_pool2d(x.to(exact), cell, ceil_mode=True, count_include_pad=False)
    return F.conv2d(mean, weight.to(exact)[:, :, None, None], None if bias is None else bias.to(exact))


@kernel
def _logits(
    x, weight, bias, out, cells, C, H, W, Hc, Wc, G, x_n, x_c, x_h, x_w,
    S: tl.constexpr, AS_MASK: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program BM cells of one mask: every feature in them is read once."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    mask = tl.program_id(1)
    exists = rows < cells
    left = rows % Wc * S
    top = (rows // Wc) % Hc * S
    n = rows // (Wc * Hc)
    acc = tl.zeros((BM, BC), tl.float32)
    for start in range(0, C, BC):
        channels = start + tl.arange(0, BC)
        w = tl.load(weight + mask * C + channels, mask=channels < C, other=0).to(tl.float32)
        for inner in range(S * S):
            h = top + inner // S
            v = left + inner % S
            read = exists & (h < H) & (v < W)
            at = n.to(tl.int64) * x_n + h.to(tl.int64) * x_h + v.to(tl.int64) * x_w
            here = at[:, None] + channels.to(tl.int64)[None, :] * x_c
            features = tl.load(x + here, mask=read[:, None] & (channels < C)[None, :], other=0)
            acc += features.to(tl.float32) * w[None, :]
    area = tl.minimum(H - top, S) * tl.minimum(W - left, S)
    value = tl.sum(acc, 1) / area.to(tl.float32)
    if bias is not None:
        value += tl.load(bias + mask).to(tl.float32)
    target = (n * G + mask).to(tl.int64) * (Hc * Wc) + rows % (Hc * Wc)
    if AS_MASK:
        tl.store(out + target, (value >= 0).to(tl.int8), mask=exists)
    else:
        tl.store(out + target, value, mask=exists)


def _allocate(x: Tensor, weight: Tensor, bias: Tensor | None, cell: int, as_mask: bool) -> Tensor:
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (x.shape[0], weight.shape[0], *(-(-extent // cell) for extent in x.shape[2:]))
    return torch.empty(shape, dtype=torch.bool if as_mask else exact, device=x.device)


@operator("cell_logits(Tensor x, Tensor weight, Tensor? bias, int cell, bool as_mask) -> Tensor", fake=_allocate)
def _cell_logits(x: Tensor, weight: Tensor, bias: Tensor | None, cell: int, as_mask: bool) -> Tensor:
    if not (runs_on(x.device) and x.dtype != torch.float64):
        logits = cell_logits_reference(x, weight, bias, cell)
        return logits >= 0 if as_mask else logits
    out = _allocate(x, weight, bias, cell, as_mask)
    cells, channels = out.numel() // max(weight.shape[0], 1), x.shape[1]
    _logits.launch(
        (-(-cells // 16), weight.shape[0]),
        x,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        out.view(torch.int8) if as_mask else out,
        cells,
        channels,
        *x.shape[2:],
        *out.shape[2:],
        weight.shape[0],
        *x.stride(),
        S=cell,
        AS_MASK=as_mask,
        BM=16,
        BC=32 if channels <= 32 else 128,
    )
    return out


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, cell: int, *, as_mask: bool) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, C, H, W)")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected (G, {x.shape[1]})")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias: got shape {tuple(bias.shape)}, expected ({weight.shape[0]},)")
    if not isinstance(cell, int) or cell < 1:
        raise ValueError(f"cell: got {cell!r}, expected a whole number, 1 or more")
    given = [x, weight] if bias is None else [x, weight, bias]
    for name, tensor in zip(("x", "weight", "bias"), given, strict=False):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: got {tensor.dtype}, expected a floating point type")
        if tensor.device != x.device:
            raise ValueError(f"{name}: got one on {tensor.device}, expected it on x's device {x.device}")
    if runs_on(x.device) and not (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
        return torch.ops.course_lib.cell_logits(x, weight, bias, cell, as_mask)
    logits = cell_logits_reference(x, weight, bias, cell)
    return logits >= 0 if as_mask else logits


def _macs(x: Tensor, weight: Tensor, *_: Any, out: Any = None) -> int:
    """Pooling costs nothing by the course's convention; then each cell multiplies each weight once."""
    return out.numel() * x.shape[1]


register_macs(torch.ops.course_lib.cell_logits, _macs)
