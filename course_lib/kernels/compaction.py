"""From a mask to a list: which positions are active, counted and listed where the mask lives.

The list has room for every position and the count stays on the device, so nothing waits for the host: the same code
runs under `torch.compile(fullgraph=True)` and in a CUDA graph that is replayed with another mask.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_lib.kernels._triton import kernel, runs_on
from course_lib.kernels.geometry import Padding, Pair, pads, pair
from course_lib.kernels.operators import operator

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """The active positions of a batch of maps (N, 1, Ho, Wo), as a list.

    With granularity S > 1 the list holds cells of S x S positions; cells on the lower and right edge are cropped
    where S does not divide the map.
    """

    idx: Tensor  #: (N * cells,) int32; the first `cnt` entries are the active cells in raster order, the rest undefined
    cnt: Tensor  #: (1,) int32
    mask: Tensor  #: (N, 1, ceil(Ho / S), ceil(Wo / S)) bool, contiguous
    size: Pair  #: (Ho, Wo)
    granularity: int = 1  #: S

    @classmethod
    def from_mask(cls, mask: Tensor, *, granularity: int = 1, size: Sequence[int] | None = None) -> ActiveSet:
        """List the active cells of `mask`, without waiting for the device.

        Args:
            mask: (N, 1, ceil(Ho / S), ceil(Wo / S)) bool, or real numbers of which those >= 0.5 are active.
            granularity: S, the side of a cell in positions.
            size: (Ho, Wo); by default S times the mask's own.

        Raises:
            ValueError: a wrong shape, a granularity below 1, or a mask that requires a gradient, which a list
                cannot pass on.

        >>> mask = torch.tensor([[0, 1, 1], [0, 0, 1]]).view(1, 1, 2, 3)
        >>> active = ActiveSet.from_mask(mask)
        >>> active.idx[: active.cnt].tolist()
        [1, 2, 5]
        >>> ActiveSet.from_mask(mask, granularity=2, size=(3, 5)).to_mask().int().tolist()
        [[[[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]]]
        """
        flags, out = _checked(mask, granularity, size)
        idx, cnt = torch.ops.course_lib.compact_mask(flags)
        return cls(idx, cnt, flags, out, granularity)

    def dilate(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        in_size: Sequence[int] | None = None,
    ) -> ActiveSet:
        """The input positions that a convolution reads for these output positions: D(m), position by position.

        This is the set the layer before must have computed. Padding is not part of it.

        Args:
            kernel_size, stride, padding, dilation: of the convolution whose output this set describes.
            in_size: (H, W) of its input; by default the smallest that gives this output.

        >>> centre = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
        >>> centre[0, 0, 1, 1] = True
        >>> ActiveSet.from_mask(centre).dilate(2).to_mask().int().tolist()
        [[[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]]
        """
        window, step = pair(kernel_size, "kernel_size", least=1), pair(stride, "stride", least=1)
        spread = pair(dilation, "dilation", least=1)
        pad, both = pads(padding, window, step, spread)
        reach = tuple(spread[i] * (window[i] - 1) + 1 for i in (0, 1))
        least = tuple((self.size[i] - 1) * step[i] + reach[i] - both[i] for i in (0, 1))
        target = least if in_size is None else pair(tuple(in_size), "in_size", least=0)
        if any(not least[i] <= target[i] < least[i] + step[i] for i in (0, 1)):
            raise ValueError(
                f"in_size: got {target}, expected ({least[0]}, {least[1]}) or up to stride - 1 more, for an output of "
                f"{self.size} positions"
            )
        touched, idx, cnt = torch.ops.course_lib.dilate_mask(
            self.mask, self.size, self.granularity, window, step, pad, spread, target
        )
        return ActiveSet(idx, cnt, touched, (target[0], target[1]))

    def to_mask(self) -> Tensor:
        """(N, 1, Ho, Wo) bool."""
        return expand(self.mask, self.size, self.granularity)

    def density(self) -> float:
        """Share of active positions in [0, 1]; 0 for an empty batch. Waits for the device."""
        mask = self.to_mask()
        return int(mask.sum()) / mask.numel() if mask.numel() else 0.0


def unlisted(mask: Tensor, *, granularity: int, size: Sequence[int]) -> ActiveSet:
    """As `ActiveSet.from_mask`, counted but with an empty `idx`: the list is a price that computing all need not pay.

    Only for the paths on a CPU, which never look at the list or make their own.
    """
    flags, out = _checked(mask, granularity, size)
    count = flags.count_nonzero().int().view(1)
    return ActiveSet(count[:0], count, flags, out, granularity)


def _checked(mask: Tensor, granularity: int, size: Sequence[int] | None) -> tuple[Tensor, Pair]:
    """A mask of cells as bool, and the size of the maps it is for; errors as `ActiveSet.from_mask` says."""
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask: got {got}, expected a tensor of shape (N, 1, rows, columns)")
    if not isinstance(granularity, int) or granularity < 1:
        raise ValueError(f"granularity: got {granularity!r}, expected a whole number, 1 or more")
    n, _, rows, columns = mask.shape
    out = (rows * granularity, columns * granularity) if size is None else pair(tuple(size), "size", least=0)
    wanted = tuple(-(-extent // granularity) for extent in out)
    if (rows, columns) != wanted:
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, expected {(n, 1, *wanted)} for maps of {out[0]} x {out[1]} "
            f"positions with granularity={granularity}"
        )
    if n * rows * columns * granularity**2 >= 2**31:
        raise ValueError(f"mask: got {n * rows * columns * granularity**2} positions, expected fewer than 2**31")
    return as_bool(mask), out


def as_bool(mask: Tensor) -> Tensor:
    """`mask` as contiguous bool: real numbers count from 0.5. Raises where the mask wants a gradient or is complex."""
    if mask.requires_grad:
        raise ValueError(
            "mask: got one that requires a gradient, which skipped positions cannot give; train on the dense path, "
            "mask * conv2d(input), or detach the mask"
        )
    if mask.is_complex():
        raise TypeError(f"mask: got {mask.dtype}, expected bool or real numbers")
    return (mask if mask.dtype == torch.bool else mask >= 0.5).contiguous()


def expand(mask: Tensor, size: Sequence[int], granularity: int) -> Tensor:
    """A mask of cells as a mask of positions, cropped to `size`."""
    if granularity > 1:
        n, _, rows, columns = mask.shape
        cells = mask[:, :, :, None, :, None].expand(n, 1, rows, granularity, columns, granularity)
        mask = cells.reshape(n, 1, rows * granularity, columns * granularity)
    return mask[:, :, : size[0], : size[1]]


def compact_reference(mask: Tensor) -> tuple[Tensor, Tensor]:
    """What compaction means, in plain PyTorch and without waiting for the device. mask: any shape, bool."""
    flat = mask.flatten()
    return torch.nonzero_static(flat, size=flat.numel()).view(-1).int(), flat.sum(dtype=torch.int32).view(1)


def dilate_reference(
    mask: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, in_size: Pair
) -> Tensor:
    """What dilation means: every output marks the inputs under its taps. mask: (N, 1, Ho, Wo) -> (N, 1, H, W)."""
    for axis in (0, 1):  # the taps form a rectangle: rows first, then columns
        k, step, pad, spread, extent = (v[axis] for v in (kernel_size, stride, padding, dilation, in_size))
        shape, outputs = list(mask.shape), mask.shape[2 + axis]
        last = max(outputs - 1, 0) * step + 1
        shape[2 + axis] = max(pad + extent, last + (k - 1) * spread)
        touched = mask.new_zeros(shape)
        for tap in range(k if outputs else 0):
            reads = touched.narrow(2 + axis, tap * spread, last)
            (reads[:, :, ::step] if axis == 0 else reads[..., ::step]).logical_or_(mask)
        mask = touched.narrow(2 + axis, pad, extent)
    return mask.contiguous()


@kernel
def _count(
    mask,
    flags,
    counts,
    L,
    H,
    W,
    Ho,
    Wo,
    Hc,
    Wc,
    S: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of input positions: is any output active that reads them, and how many are there?"""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < L
    w = rows % W
    h = (rows // W) % H
    n = rows // (W * H)
    found = tl.zeros((BLOCK,), tl.int32)
    for tap in range(KH * KW):
        up = h + PH - (tap // KW) * DH
        left = w + PW - (tap % KW) * DW
        read = inside & (up >= 0) & (left >= 0) & (up % SH == 0) & (left % SW == 0)
        read = read & (up // SH < Ho) & (left // SW < Wo)
        cell = (n * Hc + up // SH // S) * Wc + left // SW // S
        found = found | tl.load(mask + cell, mask=read, other=0).to(tl.int32)
    found = (found != 0).to(tl.int32)
    tl.store(flags + rows, found.to(tl.int8), mask=inside)
    tl.store(counts + tl.program_id(0), tl.sum(found, 0))


@kernel
def _count_flags(flags, counts, L, BLOCK: tl.constexpr):
    """One program a block of flags: how many are set?"""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(flags + rows, mask=rows < L, other=0) != 0
    tl.store(counts + tl.program_id(0), tl.sum(found.to(tl.int32), 0))


@kernel
def _write(flags, counts, idx, cnt, L, BLOCK: tl.constexpr):
    """One program a block of flags: write its active positions behind those of all earlier blocks.

    No atomic counter hands out the places: the list would come in another order each run, and sums over it with it.
    """
    block = tl.program_id(0)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    base = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, block, BLOCK):
        before = start + tl.arange(0, BLOCK)
        base += tl.load(counts + before, mask=before < block, other=0)
    first = tl.sum(base, 0)
    found = (tl.load(flags + rows, mask=rows < L, other=0) != 0).to(tl.int32)
    place = first + tl.cumsum(found, 0) - 1
    tl.store(idx + place, rows, mask=found != 0)
    if block == tl.num_programs(0) - 1:
        tl.store(cnt, first + tl.sum(found, 0))


def compact_triton(mask: Tensor) -> tuple[Tensor, Tensor]:
    """`compact_reference` in two launches. mask: bool, contiguous."""
    idx, cnt, counts, blocks = _lists(mask)
    flags = mask.view(torch.int8)
    _count_flags.launch((blocks,), flags, counts, mask.numel(), BLOCK=_BLOCK)
    _write.launch((blocks,), flags, counts, idx, cnt, mask.numel(), BLOCK=_BLOCK)
    return idx, cnt


def _lists(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Room for the list, the count, and the counts of the blocks."""
    blocks = -(-mask.numel() // _BLOCK)
    idx = torch.empty(mask.numel(), dtype=torch.int32, device=mask.device)
    cnt = torch.empty(1, dtype=torch.int32, device=mask.device) if blocks else idx.new_zeros(1)
    return idx, cnt, torch.empty(blocks, dtype=torch.int32, device=mask.device), blocks


def dilate_triton(
    mask: Tensor,
    size: Pair,
    granularity: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    in_size: Pair,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dilation and compaction in the same two launches. mask: (N, 1, rows, columns) bool, contiguous."""
    touched = torch.empty((mask.shape[0], 1, *in_size), dtype=torch.bool, device=mask.device)
    idx, cnt, counts, blocks = _lists(touched)
    flags, length = touched.view(torch.int8), touched.numel()
    where = (length, *in_size, *size, *mask.shape[2:])
    names = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW")
    window = dict(zip(names, (*kernel_size, *stride, *padding, *dilation), strict=True))
    cells = mask.view(torch.int8)
    _count.launch((blocks,), cells, flags, counts, *where, S=granularity, **window, BLOCK=_BLOCK)
    _write.launch((blocks,), flags, counts, idx, cnt, length, BLOCK=_BLOCK)
    return touched, idx, cnt


def _fake_compact(mask: Tensor) -> tuple[Tensor, Tensor]:
    return mask.new_empty((mask.numel(),), dtype=torch.int32), mask.new_empty((1,), dtype=torch.int32)


@operator("compact_mask(Tensor mask) -> (Tensor, Tensor)", fake=_fake_compact)
def _compact_mask(mask: Tensor) -> tuple[Tensor, Tensor]:
    return (compact_triton if runs_on(mask.device) else compact_reference)(mask)


def _fake_dilate(mask, size, granularity, kernel_size, stride, padding, dilation, in_size):
    touched = mask.new_empty((mask.shape[0], 1, *in_size))
    return touched, touched.new_empty((touched.numel(),), dtype=torch.int32), mask.new_empty((1,), dtype=torch.int32)


@operator(
    "dilate_mask(Tensor mask, int[] size, int granularity, int[] kernel_size, int[] stride, int[] padding, "
    "int[] dilation, int[] in_size) -> (Tensor, Tensor, Tensor)",
    fake=_fake_dilate,
)
def _dilate_mask(mask, size, granularity, kernel_size, stride, padding, dilation, in_size):
    if runs_on(mask.device):
        return dilate_triton(mask, size, granularity, kernel_size, stride, padding, dilation, in_size)
    positions = expand(mask, size, granularity)
    touched = dilate_reference(positions, kernel_size, stride, padding, dilation, in_size)
    return touched, *compact_reference(touched)
