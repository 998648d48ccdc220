"""The masked convolution as gather, product, scatter: only active positions are multiplied, on any device.

    cols[a, t, :] = x[n, ho * stride - pad + t * dilation]     the rows under tap t of active position a = (n, ho, wo)
    y[a, :]       = act(scale * (cols[a] @ W) + shift + residual[a])

This is what makes a masked convolution pay on a CPU: copying the rows costs a few per cent of the product. Reading
the number of active positions waits for a GPU, where this path serves float64 only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from course_lib.kernels.compaction import ActiveSet
from course_lib.kernels.geometry import Geometry

#: Numbers gathered before they are multiplied: 8 MiB of float32, which stays in a laptop's last cache.
_GATHERED = 1 << 21


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored."""

    scale: Tensor | None = None  #: (Cout,)
    shift: Tensor | None = None  #: (Cout,)
    residual: Tensor | None = None  #: (N, Cout, Ho, Wo)
    relu: bool = False


def forward(x: Tensor, weight: Tensor, active: ActiveSet, geometry: Geometry, epilogue: Epilogue, out: Tensor) -> None:
    """Write the active rows of `out` (N, Cout, Ho, Wo) and leave the others alone; see `masked_conv2d`."""
    positions = list_positions(active)
    table, offsets = _canvas(x, geometry), _tap_offsets(geometry, x.device)
    filters = _filters(weight, geometry, _computing(x))
    rows, residual = as_rows(out), None if epilogue.residual is None else as_rows(epilogue.residual)
    for chosen in _chunks(positions, len(offsets) * x.shape[1]):
        columns = _columns(table, chosen, offsets, geometry)
        y = _product(columns, filters, geometry, epilogue)
        if residual is not None:
            y = y.add_(residual.index_select(0, chosen))
            y = y.relu_() if epilogue.relu else y
        rows.index_copy_(0, chosen, y.to(rows.dtype))


def everywhere(x: Tensor, weight: Tensor, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """All positions of a convolution that is one product: 1x1, neither strided nor padded. (N, Cout, H, W)."""
    n, _, height, width = x.shape
    y = _product(as_rows(x), _filters(weight, geometry, _computing(x)), geometry, epilogue)
    if epilogue.residual is not None:
        y = y.add_(as_rows(epilogue.residual))
        y = y.relu_() if epilogue.relu else y
    return y.to(x.dtype).view(n, height, width, -1).permute(0, 3, 1, 2)


def input_grad(grad: Tensor, weight: Tensor, active: ActiveSet, geometry: Geometry) -> Tensor:
    """Gradient of the input from that of the sums; 0 where no active position reads. (N, Cin, H, W)."""
    positions, n, channels = list_positions(active), grad.shape[0], weight.shape[1] * geometry.groups
    (height, width), work = geometry.padded, _computing(grad)
    table = torch.zeros(n * height * width, channels, dtype=work, device=grad.device)
    offsets, filters, rows = _tap_offsets(geometry, grad.device), _filters(weight, geometry, work), as_rows(grad)
    for chosen in _chunks(positions, len(offsets) * channels):
        dy = _by_group(rows.index_select(0, chosen).to(work), geometry)
        columns = torch.bmm(dy, filters).view(geometry.groups, len(chosen), len(offsets), -1)
        table.index_add_(0, _reads(chosen, offsets, geometry), columns.permute(1, 2, 0, 3).reshape(-1, channels))
    (top, left), (h, w) = geometry.pad, geometry.in_size
    whole = table.view(n, height, width, channels)[:, top : top + h, left : left + w]
    return empty((n, channels, h, w), grad).copy_(whole.permute(0, 3, 1, 2))


def weight_grad(grad: Tensor, x: Tensor, active: ActiveSet, geometry: Geometry) -> Tensor:
    """Gradient of the weight from that of the sums. (Cout, Cin / groups, kh, kw)."""
    positions, table, offsets = list_positions(active), _canvas(x, geometry), _tap_offsets(geometry, x.device)
    rows, out_channels, groups = as_rows(grad), grad.shape[1], geometry.groups
    shape = (groups, out_channels // groups, len(offsets) * x.shape[1] // groups)
    total = torch.zeros(shape, dtype=_computing(x), device=x.device)
    for chosen in _chunks(positions, len(offsets) * x.shape[1]):
        dy = _by_group(rows.index_select(0, chosen).to(total.dtype), geometry)
        columns = _columns(table, chosen, offsets, geometry).to(total.dtype)
        total += torch.bmm(dy.transpose(1, 2), _columns_by_group(columns, geometry))
    total = total.view(out_channels, *geometry.kernel, -1).permute(0, 3, 1, 2)
    return empty(total.shape, grad).copy_(total)


def list_positions(active: ActiveSet) -> Tensor:
    """Flat output positions (A,) int64 in raster order. Waits for the device."""
    if active.granularity == 1 and len(active.idx):
        return active.idx[: int(active.cnt)].long()
    return active.to_mask().flatten().nonzero().view(-1)


def as_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N * H * W, C); without a copy where channels come last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised (N, C, H, W) tensor whose channels come last in memory, as every result here."""
    return torch.empty(*shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _computing(x: Tensor) -> torch.dtype:
    """The type to compute in: sums of half-precision numbers are taken in float32."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _canvas(x: Tensor, geometry: Geometry) -> Tensor:
    """The padded input as a table of rows (N * height * width, Cin)."""
    (height, width), (top, left), (h, w) = geometry.padded, geometry.pad, geometry.in_size
    image = x.permute(0, 2, 3, 1)
    if (height, width) != (h, w):
        canvas = x.new_zeros(x.shape[0], height, width, x.shape[1])
        canvas[:, top : top + h, left : left + w] = image
        image = canvas
    return image.reshape(-1, x.shape[1])


@lru_cache(maxsize=256)
def _tap_offsets(geometry: Geometry, device: torch.device) -> Tensor:
    """How many rows of the canvas lie between the first tap and each tap, in raster order."""
    (kh, kw), (dh, dw), width = geometry.kernel, geometry.dilation, geometry.padded[1]
    return torch.tensor([i * dh * width + j * dw for i in range(kh) for j in range(kw)], device=device)


def _reads(positions: Tensor, offsets: Tensor, geometry: Geometry) -> Tensor:
    """The canvas rows under all taps of the positions, position by position."""
    (height, width), (ho, wo), (sh, sw) = geometry.padded, geometry.out_size, geometry.stride
    first = positions  # what follows costs as much as the product where there are few positions
    if (sh, sw) != (1, 1):
        line = positions // wo
        first = (line // ho * height + line % ho * sh) * width + positions % wo * sw
    else:
        if width != wo:
            first = first + positions // wo * (width - wo)
        if height != ho:
            first = first + positions // (ho * wo) * ((height - ho) * width)
    return first if len(offsets) == 1 else (first[:, None] + offsets).view(-1)


def _chunks(positions: Tensor, width: int) -> Iterator[Tensor]:
    if len(positions):
        yield from positions.split(max(256, _GATHERED // max(width, 1)))


def _columns(table: Tensor, positions: Tensor, offsets: Tensor, geometry: Geometry) -> Tensor:
    """(A, taps * Cin)."""
    return table.index_select(0, _reads(positions, offsets, geometry)).view(len(positions), -1)


def _columns_by_group(columns: Tensor, geometry: Geometry) -> Tensor:
    """(A, taps * Cin) -> (groups, A, taps * Cin / groups)."""
    if geometry.groups == 1:
        return columns[None]
    taps = geometry.kernel[0] * geometry.kernel[1]
    return columns.view(len(columns), taps, geometry.groups, -1).permute(2, 0, 1, 3).flatten(2)


def _by_group(rows: Tensor, geometry: Geometry) -> Tensor:
    """(A, channels) -> (groups, A, channels / groups)."""
    return rows.view(len(rows), geometry.groups, -1).transpose(0, 1)


def _filters(weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """(groups, Cout / groups, taps * Cin / groups); a view where the weight's channels come last in memory."""
    return weight.permute(0, 2, 3, 1).reshape(geometry.groups, weight.shape[0] // geometry.groups, -1).to(dtype)


def _product(columns: Tensor, filters: Tensor, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """(A, taps * Cin) -> (A, Cout), scaled and shifted, and rectified unless a residual is still to come."""
    relu = epilogue.relu and epilogue.residual is None
    columns, taps = columns.to(filters.dtype), geometry.kernel[0] * geometry.kernel[1]
    scale, shift = (None if v is None else v.to(filters.dtype) for v in (epilogue.scale, epilogue.shift))
    if geometry.groups == 1:
        y = _matmul(columns, filters[0], shift if scale is None else None, relu and scale is None)
        if scale is None:
            return y
    elif filters.shape[1:] == (1, taps):  # depthwise: no product of matrices, a weighted sum over the taps
        y = (columns.view(len(columns), taps, -1) * filters[:, 0].t()).sum(1)
    else:
        y = torch.bmm(_columns_by_group(columns, geometry), filters.transpose(1, 2)).transpose(0, 1).flatten(1)
    if scale is not None:
        y = y.mul_(scale)
    if shift is not None:
        y = y.add_(shift)
    return y.relu_() if relu else y


def _matmul(rows: Tensor, filters: Tensor, shift: Tensor | None, relu: bool) -> Tensor:
    """act(rows @ filters.T + shift), on the CPU with oneDNN, the library behind `conv2d`.

    torch's own product goes to another library, at half the speed on some processors, and then skipping half of the
    positions gains nothing.
    """
    if rows.dtype == torch.float32 and rows.device.type == "cpu" and _onednn():
        activation = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(rows, filters.contiguous(), shift, activation, [], "")
    y = rows @ filters.t() if shift is None else torch.addmm(shift, rows, filters.t())
    return y.relu_() if relu else y


def _onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
