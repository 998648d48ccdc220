"""The masked convolution as an implicit matrix product in Triton: forward, gradient of the input, of the weight.

A tile of the result is BM active positions by BN channels. Its positions come from the list, so the addresses of the
input rows are known without a gathered copy; one flat loop runs over (tap, block of channels), since Triton overlaps
loads with products in the innermost loop only. The grid is fixed by the list's capacity; how many tiles there are is
read on the device, so the host never waits and a CUDA graph can be replayed with another mask.

Memory is channels last; weights are [Cout][kh][kw][Cin / groups], so that 16 bytes of the reduction lie together.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from course_lib.kernels._triton import interpreting, kernel
from course_lib.kernels.compaction import ActiveSet
from course_lib.kernels.conv_gather import Epilogue, empty
from course_lib.kernels.geometry import Geometry

if TYPE_CHECKING:
    import triton.language as tl

#: What the kernels compute in; float64 has no tensor cores and takes the gather path.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Config:
    """Tile sizes of one launch. None of those used spills registers on sm_80 or sm_90 (tests/kernels/test_ahead.py)."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    programs: int  #: how many fit on one multiprocessor


def pick_config(rows: int, columns: int, dtype: torch.dtype, capability: int) -> Config:
    """The tile for at most `rows` positions and `columns` channels of the result (of one group).

    Large tiles re-read less, but a result of few tiles leaves multiprocessors idle: then small ones. Before compute
    capability 9 the operands pass through registers, and the largest tile spills them.
    """
    depth = 64 if dtype.itemsize == 2 else 32
    if columns <= 16:
        return Config(64, 16, depth, 4, 3, 4)
    if columns <= 32:
        return Config(64, 32, depth, 4, 3, 4)
    if rows * -(-columns // 128) < 128 * 4 * 128:  # fewer than about four waves of large tiles
        return Config(64, 64, depth, 4, 4, 3)
    if columns <= 64 or capability < 9:
        return Config(128, 64, depth, 4, 4 if capability >= 9 else 3, 2)
    return Config(128, 128, depth, 8, 3, 1)


def forward(x: Tensor, weight: Tensor, active: ActiveSet, geometry: Geometry, epilogue: Epilogue, out: Tensor) -> None:
    """Write the active rows of `out` (N, Cout, Ho, Wo) and leave the others alone; see `masked_conv2d`."""
    groups, out_channels = geometry.groups, weight.shape[0]
    x, weight = _rowwise(x), weight.contiguous(memory_format=torch.channels_last)
    residual = None if epilogue.residual is None else _rowwise(epilogue.residual)
    capacity = active.idx.numel() * active.granularity**2
    scale, shift = (None if v is None else v.contiguous() for v in (epilogue.scale, epilogue.shift))
    pointers = (x, weight, active.idx, active.cnt, scale, shift, residual, out)
    sizes = (*geometry.in_size, *geometry.out_size, *active.mask.shape[2:])
    strides = (*_steps(x), *((0, 0, 0) if residual is None else _steps(residual)), *_steps(out))
    common = {**_constants(geometry), "S": active.granularity, "RELU": epilogue.relu}
    if weight.shape[1] == 1 and groups > 1:
        each = out_channels // groups
        tiles = -(-capacity // 64) * -(-out_channels // 64)
        _depthwise.launch(
            (_programs(tiles, 4, x),), *pointers, *sizes, *strides, CO=out_channels, EACH=each, **common, BM=64, BN=64
        )
        return
    config = pick_config(capacity, out_channels // groups, x.dtype, _capability(x))
    tiles = -(-capacity // config.rows) * -(-(out_channels // groups) // config.columns)
    _forward.launch(
        (_programs(tiles, config.programs, x), groups),
        *pointers,
        *sizes,
        *strides,
        CI=weight.shape[1],
        CO=out_channels // groups,
        **common,
        **_tiles(config, x.dtype),
    )


def input_grad(grad: Tensor, weight: Tensor, active: ActiveSet, geometry: Geometry) -> Tensor:
    """Gradient of the input from that of the sums; 0 where no active position reads. (N, Cin, H, W).

    Each program owns the rows it writes and looks which active outputs read them: no atomics, the same bits each run.
    """
    groups, channels = geometry.groups, weight.shape[1]
    grad, weight = _rowwise(grad), weight.contiguous(memory_format=torch.channels_last)
    result = empty((grad.shape[0], channels * groups, *geometry.in_size), grad).zero_()
    _, idx, cnt = torch.ops.course_lib.dilate_mask(
        active.mask,
        geometry.out_size,
        active.granularity,
        geometry.kernel,
        geometry.stride,
        geometry.pad,
        geometry.dilation,
        geometry.in_size,
    )
    config = pick_config(idx.numel(), channels, grad.dtype, _capability(grad))
    tiles = -(-idx.numel() // config.rows) * -(-channels // config.columns)
    _input_grad.launch(
        (_programs(tiles, config.programs, grad), groups),
        grad,
        weight,
        idx,
        cnt,
        active.mask.view(torch.int8),
        result,
        *geometry.in_size,
        *geometry.out_size,
        *active.mask.shape[2:],
        *_steps(grad),
        *_steps(result),
        CI=channels,
        CO=weight.shape[0] // groups,
        S=active.granularity,
        **_constants(geometry),
        **_tiles(config, grad.dtype),
    )
    return result


def weight_grad(grad: Tensor, x: Tensor, active: ActiveSet, geometry: Geometry) -> Tensor:
    """Gradient of the weight from that of the sums. (Cout, Cin / groups, kh, kw).

    The positions are dealt to several programs, each with a sum of its own, added in a fixed order: the same bits
    each run.
    """
    groups, (kh, kw) = geometry.groups, geometry.kernel
    rows_out, rows_in, taps = grad.shape[1] // groups, x.shape[1] // groups, kh * kw
    grad, x = _rowwise(grad), _rowwise(x)
    capacity = active.idx.numel() * active.granularity**2
    tile_out, tile_in = (16 if extent <= 16 else 32 if extent <= 32 else 64 for extent in (rows_out, rows_in))
    blocks = -(-rows_out // tile_out) * -(-rows_in // tile_in)
    # Two waves of programs, but no share smaller than a few blocks of 64 positions.
    splits = max(1, min(-(-2 * _multiprocessors(x) // (blocks * taps * groups)), capacity // 256))
    partial = torch.empty(splits, grad.shape[1], taps, rows_in, dtype=torch.float32, device=x.device)
    _weight_grad.launch(
        (blocks * taps, splits, groups),
        grad,
        x,
        active.idx,
        active.cnt,
        partial,
        *geometry.in_size,
        *geometry.out_size,
        *active.mask.shape[2:],
        *_steps(grad),
        *_steps(x),
        CI=rows_in,
        CO=rows_out,
        S=active.granularity,
        **_constants(geometry),
        PRECISION=_precision(x.dtype),
        BO=tile_out,
        BC=tile_in,
        BR=64,
        num_warps=4,
        num_stages=3,
    )
    total = partial.sum(0).view(grad.shape[1], kh, kw, rows_in).permute(0, 3, 1, 2)
    return empty(total.shape, grad).copy_(total)


def _rowwise(x: Tensor) -> Tensor:
    """`x` with its channels next to each other in memory, without a copy where they are."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)


def _steps(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(2), x.stride(3)


def _constants(geometry: Geometry) -> dict[str, Any]:
    numbers = (*geometry.kernel, *geometry.stride, *geometry.pad, *geometry.dilation)
    return dict(zip(("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW"), numbers, strict=True))


def _tiles(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    sizes = {"BM": config.rows, "BN": config.columns, "BK": config.depth, "PRECISION": _precision(dtype)}
    return {**sizes, "num_warps": config.warps, "num_stages": config.stages}


def _precision(dtype: torch.dtype) -> str:
    """float32 follows the switch for convolutions, `torch.backends.cudnn`; half precision has one way only."""
    allowed = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if dtype == torch.float32 and allowed == "tf32" else "ieee"


def _multiprocessors(x: Tensor) -> int:
    return 1 if interpreting() else torch.cuda.get_device_properties(x.device).multi_processor_count


def _capability(x: Tensor) -> int:
    return 9 if interpreting() else torch.cuda.get_device_capability(x.device)[0]


def _programs(tiles: int, resident: int, x: Tensor) -> int:
    """As many programs as run at once: each goes on to another tile when it is done."""
    return min(tiles, _multiprocessors(x) * resident)


@kernel
def _place(idx, rows, inside, Ho, Wo, Hc, Wc, S: tl.constexpr):
    """Image, row and column of entries of the list, and which of them exist: cells on the edge are cropped."""
    cell = tl.load(idx + rows // (S * S), mask=inside, other=0)
    n = cell // (Hc * Wc)
    ho = (cell // Wc) % Hc * S + rows % (S * S) // S
    wo = cell % Wc * S + rows % S
    return n, ho, wo, inside & (ho < Ho) & (wo < Wo)


@kernel
def _row(n, h, w, step_n, step_h, step_w):
    """Where a row of channels begins. In 64 bits, and before multiplying: large batches pass 2**31 elements."""
    return n.to(tl.int64) * step_n + h.to(tl.int64) * step_h + w.to(tl.int64) * step_w


@kernel
def _finish(acc, scale, shift, res, channels, exists, source, stored, RELU: tl.constexpr):
    """act(scale * acc + shift + residual) for a tile of sums; `source` are the addresses in the residual."""
    if scale is not None:
        acc = acc * tl.load(scale + channels, mask=exists, other=0).to(tl.float32)[None, :]
    if shift is not None:
        acc = acc + tl.load(shift + channels, mask=exists, other=0).to(tl.float32)[None, :]
    if res is not None:
        acc = acc + tl.load(res + source, mask=stored, other=0).to(tl.float32)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)  # unlike maximum, lets a NaN through, as torch does
    return acc


@kernel
def _forward(
    x, w, idx, cnt, scale, shift, res, y,
    H, W, Ho, Wo, Hc, Wc,
    x_n, x_h, x_w, r_n, r_h, r_w, y_n, y_h, y_w,
    CI: tl.constexpr, CO: tl.constexpr, S: tl.constexpr, RELU: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program every num_programs-th tile of BM positions x BN channels of one group."""
    group = tl.program_id(1)
    count = tl.load(cnt) * (S * S)
    across = tl.cdiv(CO, BN)
    blocks = tl.cdiv(CI, BK)
    # Neighbouring programs share their positions: the input rows are then read from the cache.
    for tile in range(tl.program_id(0), tl.cdiv(count, BM) * across, tl.num_programs(0)):
        rows = tile // across * BM + tl.arange(0, BM)
        columns = tile % across * BN + tl.arange(0, BN)
        exists = columns < CO
        n, ho, wo, inside = _place(idx, rows, rows < count, Ho, Wo, Hc, Wc, S)
        top = ho * SH - PH
        left = wo * SW - PW
        base = _row(n, top, left, x_n, x_h, x_w) + group * CI  # negative in the padding, where nothing is read
        filters = w + (group * CO + columns) * (KH * KW * CI)
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(KH * KW * blocks):
            tap = step // blocks
            k = step % blocks * BK + tl.arange(0, BK)
            down = (tap // KW * DH).to(tl.int64)
            right = (tap % KW * DW).to(tl.int64)
            h = top + down
            v = left + right
            read = inside & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            at = base + down * x_h + right * x_w
            if CI % BK == 0:
                a = tl.load(x + at[:, None] + k[None, :], mask=read[:, None], other=0)
                b = tl.load(filters[None, :] + tap * CI + k[:, None], mask=exists[None, :], other=0)
            else:
                real = k < CI
                a = tl.load(x + at[:, None] + k[None, :], mask=read[:, None] & real[None, :], other=0)
                b = tl.load(filters[None, :] + tap * CI + k[:, None], mask=exists[None, :] & real[:, None], other=0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        channels = group * CO + columns
        stored = inside[:, None] & exists[None, :]
        source = _row(n, ho, wo, r_n, r_h, r_w)[:, None] + channels[None, :]
        acc = _finish(acc, scale, shift, res, channels, exists, source, stored, RELU)
        target = _row(n, ho, wo, y_n, y_h, y_w)[:, None] + channels[None, :]
        tl.store(y + target, acc.to(y.dtype.element_ty), mask=stored)


@kernel
def _depthwise(
    x, w, idx, cnt, scale, shift, res, y,
    H, W, Ho, Wo, Hc, Wc,
    x_n, x_h, x_w, r_n, r_h, r_w, y_n, y_h, y_w,
    CO: tl.constexpr, EACH: tl.constexpr, S: tl.constexpr, RELU: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program every num_programs-th tile; every output channel reads one input channel, so nothing is shared."""
    count = tl.load(cnt) * (S * S)
    across = tl.cdiv(CO, BN)
    for tile in range(tl.program_id(0), tl.cdiv(count, BM) * across, tl.num_programs(0)):
        rows = tile // across * BM + tl.arange(0, BM)
        channels = tile % across * BN + tl.arange(0, BN)
        exists = channels < CO
        n, ho, wo, inside = _place(idx, rows, rows < count, Ho, Wo, Hc, Wc, S)
        acc = tl.zeros((BM, BN), tl.float32)
        for tap in range(KH * KW):
            h = ho * SH - PH + tap // KW * DH
            v = wo * SW - PW + tap % KW * DW
            read = inside & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            at = _row(n, h, v, x_n, x_h, x_w)
            a = tl.load(x + at[:, None] + (channels // EACH)[None, :], mask=read[:, None] & exists[None, :], other=0)
            b = tl.load(w + channels * (KH * KW) + tap, mask=exists, other=0)
            acc += a.to(tl.float32) * b.to(tl.float32)[None, :]
        stored = inside[:, None] & exists[None, :]
        source = _row(n, ho, wo, r_n, r_h, r_w)[:, None] + channels[None, :]
        acc = _finish(acc, scale, shift, res, channels, exists, source, stored, RELU)
        target = _row(n, ho, wo, y_n, y_h, y_w)[:, None] + channels[None, :]
        tl.store(y + target, acc.to(y.dtype.element_ty), mask=stored)


@kernel
def _input_grad(
    dy, w, idx, cnt, mask, dx,
    H, W, Ho, Wo, Hc, Wc,
    y_n, y_h, y_w, x_n, x_h, x_w,
    CI: tl.constexpr, CO: tl.constexpr, S: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program every num_programs-th tile of BM input positions, of those that are read, x BN input channels."""
    group = tl.program_id(1)
    count = tl.load(cnt)
    across = tl.cdiv(CI, BN)
    blocks = tl.cdiv(CO, BK)
    for tile in range(tl.program_id(0), tl.cdiv(count, BM) * across, tl.num_programs(0)):
        rows = tile // across * BM + tl.arange(0, BM)
        columns = tile % across * BN + tl.arange(0, BN)
        exists = columns < CI
        n, h, v, inside = _place(idx, rows, rows < count, H, W, H, W, 1)
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(KH * KW * blocks):
            tap = step // blocks
            k = step % blocks * BK + tl.arange(0, BK)
            # The output whose tap this input lies under: (input + pad - tap * dilation) / stride, if that is whole.
            down = h + PH - tap // KW * DH
            right = v + PW - tap % KW * DW
            ho = down // SH
            wo = right // SW
            read = inside & (down >= 0) & (right >= 0) & (down % SH == 0) & (right % SW == 0) & (ho < Ho) & (wo < Wo)
            read = read & (tl.load(mask + (n * Hc + ho // S) * Wc + wo // S, mask=read, other=0) != 0)
            at = _row(n, ho, wo, y_n, y_h, y_w) + group * CO
            a = tl.load(dy + at[:, None] + k[None, :], mask=read[:, None] & (k < CO)[None, :], other=0)
            filters = w + (group * CO + k) * (KH * KW * CI) + tap * CI
            b = tl.load(filters[:, None] + columns[None, :], mask=(k < CO)[:, None] & exists[None, :], other=0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        target = _row(n, h, v, x_n, x_h, x_w)[:, None] + (group * CI + columns)[None, :]
        tl.store(dx + target, acc.to(dx.dtype.element_ty), mask=inside[:, None] & exists[None, :])


@kernel
def _weight_grad(
    dy, x, idx, cnt, partial,
    H, W, Ho, Wo, Hc, Wc,
    y_n, y_h, y_w, x_n, x_h, x_w,
    CI: tl.constexpr, CO: tl.constexpr, S: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BO: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program one tap, BO x BC channels of one group, and its share of the active positions."""
    tap = tl.program_id(0) % (KH * KW)
    block = tl.program_id(0) // (KH * KW)
    share = tl.program_id(1)
    group = tl.program_id(2)
    outs = block % tl.cdiv(CO, BO) * BO + tl.arange(0, BO)
    ins = block // tl.cdiv(CO, BO) * BC + tl.arange(0, BC)
    count = tl.load(cnt) * (S * S)
    each = tl.cdiv(tl.cdiv(count, BR), tl.num_programs(1))
    acc = tl.zeros((BO, BC), tl.float32)
    for step in range(share * each, tl.minimum((share + 1) * each, tl.cdiv(count, BR))):
        rows = step * BR + tl.arange(0, BR)
        n, ho, wo, inside = _place(idx, rows, rows < count, Ho, Wo, Hc, Wc, S)
        h = ho * SH - PH + tap // KW * DH
        v = wo * SW - PW + tap % KW * DW
        read = inside & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        at = _row(n, ho, wo, y_n, y_h, y_w) + group * CO
        a = tl.load(dy + at[None, :] + outs[:, None], mask=inside[None, :] & (outs < CO)[:, None], other=0)
        at = _row(n, h, v, x_n, x_h, x_w) + group * CI
        b = tl.load(x + at[:, None] + ins[None, :], mask=read[:, None] & (ins < CI)[None, :], other=0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    target = share.to(tl.int64) * (tl.num_programs(2) * CO * KH * KW * CI)
    target += ((group * CO + outs) * (KH * KW) + tap)[:, None] * CI + ins[None, :]
    tl.store(partial + target, acc, mask=(outs < CO)[:, None] & (ins < CI)[None, :])
