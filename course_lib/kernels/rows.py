"""Rows of a table picked out and put back, by a list whose length only the device knows.

The building block of skipping tokens, samples or positions: gather the active rows, work on them, scatter them back.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from course_lib.kernels._triton import kernel, runs_on
from course_lib.kernels.operators import differentiate, operator, written

if TYPE_CHECKING:
    import triton.language as tl


def gather_rows(x: Tensor, idx: Tensor, cnt: Tensor) -> Tensor:
    """The rows `x[idx[:cnt]]`, in a table with room for all: rows from `cnt` on are 0. Does not wait for the device.

    Args:
        x: (L, C); gradients reach it.
        idx: (K,) int32 or int64, as in `ActiveSet`; entries from `cnt` on may be anything.
        cnt: (1,) int32 or int64, on the same device.

    Returns:
        (K, C). Raises ValueError or TypeError for other shapes, devices and types.

    >>> x = torch.arange(8.0).view(4, 2)
    >>> gather_rows(x, torch.tensor([3, 1, 0]), torch.tensor([2])).tolist()
    [[6.0, 7.0], [2.0, 3.0], [0.0, 0.0]]
    """
    _check("x", x, idx, cnt)
    if runs_on(x.device):
        return torch.ops.course_lib.gather_rows(x, idx, cnt)
    return gather_rows_reference(x, idx, cnt)


def scatter_rows_(out: Tensor, rows: Tensor, idx: Tensor, cnt: Tensor) -> Tensor:
    """`out[idx[:cnt]] = rows[:cnt]`, in place, without waiting for a GPU; other rows of `out` keep their bits.

    Args:
        out: (L, C).
        rows: (K, C), of out's type.
        idx: (K,) int32 or int64; the first `cnt` entries must differ from each other.
        cnt: (1,) int32 or int64.

    Returns:
        `out`. Raises ValueError or TypeError as `gather_rows`, RuntimeError where a gradient is wanted.

    >>> scatter_rows_(torch.zeros(3, 1), torch.ones(2, 1), torch.tensor([2, 0]), torch.tensor([1])).view(-1).tolist()
    [0.0, 0.0, 1.0]
    """
    _check("out", out, idx, cnt)
    if rows.shape != (len(idx), out.shape[1]):
        raise ValueError(f"rows: got shape {tuple(rows.shape)}, expected {(len(idx), out.shape[1])}")
    if rows.dtype != out.dtype or rows.device != out.device:
        raise TypeError(f"rows: got {rows.dtype} on {rows.device}, expected out's {out.dtype} on {out.device}")
    if torch.is_grad_enabled() and (out.requires_grad or rows.requires_grad):
        raise RuntimeError("scatter_rows_: out or rows requires a gradient, which it does not give; use index_copy")
    torch.ops.course_lib.scatter_rows_(out, rows, idx, cnt)
    return out


def gather_rows_reference(x: Tensor, idx: Tensor, cnt: Tensor) -> Tensor:
    """What `gather_rows` means, in plain PyTorch."""
    valid = torch.arange(len(idx), device=idx.device) < cnt
    if not len(x):
        return x.new_zeros(len(idx), x.shape[1])
    return torch.where(valid[:, None], x.index_select(0, torch.where(valid, idx, 0)), 0)


def scatter_rows_reference_(out: Tensor, rows: Tensor, idx: Tensor, cnt: Tensor) -> None:
    """What `scatter_rows_` means, in plain PyTorch; waits for the device."""
    count = int(cnt)
    out.index_copy_(0, idx[:count].long(), rows[:count])


@kernel
def _move(source, target, idx, cnt, K, C, s_row, s_column, t_row, t_column, GATHER: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):  # fmt: skip  # noqa: E501
    """One program BM rows of the list x BC columns: from the listed rows if GATHER, else to them."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BC + tl.arange(0, BC)
    valid = rows < tl.load(cnt)
    listed = tl.load(idx + rows, mask=valid, other=0).to(tl.int64)[:, None]
    packed = rows.to(tl.int64)[:, None]
    across = columns[None, :]
    moved = valid[:, None] & (across < C)
    if GATHER:
        values = tl.load(source + listed * s_row + across * s_column, mask=moved, other=0)
        tl.store(target + packed * t_row + across * t_column, values, mask=(packed < K) & (across < C))
    else:
        values = tl.load(source + packed * s_row + across * s_column, mask=moved, other=0)
        tl.store(target + listed * t_row + across * t_column, values, mask=moved)


def _launch(source: Tensor, target: Tensor, idx: Tensor, cnt: Tensor, *, gather: bool) -> None:
    width, count = source.shape[1], len(idx)
    block = 32 if width <= 32 else 128
    _move.launch(
        (-(-count // 32), -(-width // block)),
        source,
        target,
        idx.contiguous(),
        cnt,
        count,
        width,
        *source.stride(),
        *target.stride(),
        GATHER=gather,
        BM=32,
        BC=block,
    )


def _fake_rows(x: Tensor, idx: Tensor, cnt: Tensor) -> Tensor:
    return x.new_empty(len(idx), x.shape[1])


@operator("gather_rows(Tensor x, Tensor idx, Tensor cnt) -> Tensor", fake=_fake_rows)
def _gather_rows(x: Tensor, idx: Tensor, cnt: Tensor) -> Tensor:
    if not runs_on(x.device):
        return gather_rows_reference(x, idx, cnt)
    rows = torch.empty(len(idx), x.shape[1], dtype=x.dtype, device=x.device)
    _launch(x, rows, idx, cnt, gather=True)
    return rows


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    x, idx, cnt = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(idx, cnt)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    idx, cnt = ctx.saved_tensors
    valid = torch.arange(len(idx), device=idx.device) < cnt
    # Rows that are not valid add 0 to row 0: no host has to know how many there are.
    added = torch.where(valid[:, None], grad, 0)
    return grad.new_zeros(ctx.shape).index_add_(0, torch.where(valid, idx, 0), added), None, None


differentiate("gather_rows", _backward, _save)


@operator("scatter_rows_(Tensor(a!) out, Tensor rows, Tensor idx, Tensor cnt) -> ()", fake=lambda *_: None)
def _scatter_rows(out: Tensor, rows: Tensor, idx: Tensor, cnt: Tensor) -> None:
    if runs_on(out.device):
        _launch(rows, out, idx, cnt, gather=False)
    else:
        scatter_rows_reference_(out, rows, idx, cnt)
    written(out)


def _check(name: str, table: Tensor, idx: Tensor, cnt: Tensor) -> None:
    """Raise unless table, idx and cnt fit together."""
    if table.ndim != 2:
        raise ValueError(f"{name}: got shape {tuple(table.shape)}, expected (L, C)")
    if idx.ndim != 1:
        raise ValueError(f"idx: got shape {tuple(idx.shape)}, expected (K,)")
    if tuple(cnt.shape) != (1,):
        raise ValueError(f"cnt: got shape {tuple(cnt.shape)}, expected (1,)")
    for other, tensor in (("idx", idx), ("cnt", cnt)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{other}: got {tensor.dtype}, expected int32 or int64")
        if tensor.device != table.device:
            raise ValueError(f"{other}: got one on {tensor.device}, expected it on {name}'s device {table.device}")
