"""Checks of `spatial/sparse_conv`: the halo, break-even, a masked convolution in three steps, and one as a kernel.

References are written position by position and share nothing with `course_lib.kernels`. The kernel of the last task
runs in Triton's interpreter, which reads real memory: what it is given lies in the middle of larger buffers full of
NaN, and the list's tail holds valid positions, so that a wrong address gives a wrong number and ends nothing.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import kernels, measure
from course_lib.checks import Case, Check

if TYPE_CHECKING:
    import triton.language as tl

CHAPTER = "spatial/sparse_conv"

# The halo ------------------------------------------------------------------------------------------------------------


def _halo(mask: Tensor, stride: int) -> Tensor:
    """Output by output, tap by tap."""
    rows, columns = mask.shape
    touched = torch.zeros(rows * stride, columns * stride, dtype=torch.bool)
    for h, w in mask.nonzero().tolist():
        for i in range(h * stride - 1, h * stride + 2):
            for j in range(w * stride - 1, w * stride + 2):
                if 0 <= i < len(touched) and 0 <= j < touched.shape[1]:
                    touched[i, j] = True
    return touched


def _halo_by_shifts(mask: Tensor, stride: int, *, diagonals: bool = True, wrap: bool = False) -> Tensor:
    placed = torch.zeros(mask.shape[0] * stride, mask.shape[1] * stride, dtype=torch.bool)
    placed[::stride, ::stride] = mask
    found = torch.zeros_like(placed)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            if i and j and not diagonals:
                continue
            moved = placed.roll((i, j), (0, 1))
            if not wrap:
                if i:
                    moved[0 if i > 0 else -1] = False
                if j:
                    moved[:, 0 if j > 0 else -1] = False
            found |= moved
    return found


def _halo_of_upsampled(mask: Tensor, stride: int) -> Tensor:
    return _halo(mask.repeat_interleave(stride, 0).repeat_interleave(stride, 1), 1)


def _halo_by_transposed_convolution(mask: Tensor, stride: int) -> Tensor:
    ones = torch.ones(1, 1, 3, 3)
    return F.conv_transpose2d(mask[None, None].float(), ones, None, stride, 1, stride - 1)[0, 0] > 0


def _block(rows: int, columns: int, at: tuple[int, int]) -> Tensor:
    """A map with one group of 2 x 2 active positions."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[at[0] : at[0] + 2, at[1] : at[1] + 2] = True
    return mask


def _count(mask: Tensor, stride: int) -> Callable[[Callable[..., Any]], Any]:
    return lambda answer: int(answer(mask.clone(), stride).sum())


_SCATTERED = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.2

halo = Check(
    "halo",
    chapter=CHAPTER,
    title="the positions that active outputs look at",
    level=1,
    minutes=8,
    reference=_halo,
    cases=[
        Case("2x2 active, stride 1", _count(_block(8, 8, (3, 3)), 1), show="number of touched inputs, an 8x8 map"),
        Case("2x2 active, stride 2", _count(_block(4, 4, (1, 1)), 2), show="number of touched inputs, 4x4 outputs"),
        Case("2x2 in the corner", _count(_block(8, 8, (0, 0)), 1), show="number of touched inputs, an 8x8 map"),
        Case.of("where they are", _block(4, 5, (2, 0)), 1),
        Case.of("scattered, stride 2", _SCATTERED, 2),
        Case.of("nothing active", torch.zeros(3, 4, dtype=torch.bool), 1),
    ],
    wrong_answers={
        "no_diagonals": lambda mask, stride: _halo_by_shifts(mask, stride, diagonals=False),
        "wraps_around": lambda mask, stride: _halo_by_shifts(mask, stride, wrap=True),
        "upsamples_the_mask": _halo_of_upsampled,
    },
    diagnoses={
        "no_diagonals": "You marked the neighbours above, below, left and right. How many taps has a 3x3 kernel?",
        "wraps_around": "Your halo leaves the map on one side and comes back on the other. What does a convolution "
        "with padding read beyond the border?",
        "upsamples_the_mask": "You made every active output as large as its stride, and dilated that. Around which one "
        "input position is the kernel of output (h, w) centred?",
    },
    accepted=[
        lambda mask, stride: _halo_by_shifts(mask, stride),
        _halo_by_transposed_convolution,
    ],
    hints=(
        "Output (h, w) looks at the nine inputs around (h * stride, w * stride). Put the mask on the input's grid "
        "first.",
        "Stride 2, one active output (1, 1): its kernel is centred on input (2, 2) and touches rows 1 to 3 and columns "
        "1 to 3: nine positions.",
        "placed = zeros(stride * H, stride * W); placed[::stride, ::stride] = mask; then the maximum over each 3x3 "
        "window, which F.max_pool2d(..., 3, stride=1, padding=1) gives for floats.",
    ),
    shows="Four outputs side by side touch 16 inputs, four apart touch 36: the first layer pays for the difference.",
)

# Break-even ----------------------------------------------------------------------------------------------------------


def _break_even(t_dense: float, t_sparse_full: float, t_fixed: float) -> float:
    """By bisection: the density at which fixed + d (full - fixed) reaches dense."""
    low, high = 0.0, 1.0
    if t_fixed >= t_dense:
        return 0.0
    if t_sparse_full <= t_dense:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if t_fixed + middle * (t_sparse_full - t_fixed) < t_dense:
            low = middle
        else:
            high = middle
    return low


def _clamped(value: float) -> float:
    return min(1.0, max(0.0, value))


break_even = Check(
    "break_even",
    chapter=CHAPTER,
    title="the density below which skipping wins",
    level=2,
    minutes=12,
    reference=_break_even,
    cases=[
        Case.of("the chapter's example, microseconds", 53.5, 67.4, 5.0),
        Case.of("a laptop's block, milliseconds", 3.0, 4.5, 0.5),
        Case.of("fixed part as long as dense", 5.0, 20.0, 5.0),
        Case.of("fixed part longer than dense", 5.0, 20.0, 8.0),
        Case.of("skipping is faster even if nothing is skipped", 10.0, 9.0, 1.0),
        Case.of("nothing fixed, equally efficient", 10.0, 10.0, 0.0),
    ],
    wrong_answers={
        "ignores_efficiency": lambda t_dense, t_sparse_full, t_fixed: _clamped((t_dense - t_fixed) / t_dense),
        "ignores_fixed_part": lambda t_dense, t_sparse_full, t_fixed: _clamped(t_dense / t_sparse_full),
        "complement": lambda t_dense, t_sparse_full, t_fixed: 1 - _break_even(t_dense, t_sparse_full, t_fixed),
        "not_clamped": lambda t_dense, t_sparse_full, t_fixed: (t_dense - t_fixed) / (t_sparse_full - t_fixed),
    },
    diagnoses={
        "ignores_efficiency": "You let skipping work as fast as dense code once its fixed part is paid. What does it "
        "take when everything is active?",
        "ignores_fixed_part": "You drew the line from zero. How long does it take when nothing at all is active?",
        "complement": "You gave the share that must be skipped. Which share may at most be active?",
        "not_clamped": "Your line is right, and it leaves the range of densities. What is the answer if skipping never "
        "wins, and what if it always does?",
    },
    accepted=[
        lambda t_dense, t_sparse_full, t_fixed: _clamped((t_dense - t_fixed) / (t_sparse_full - t_fixed)),
        lambda t_dense, t_sparse_full, t_fixed: torch.tensor(
            _break_even(t_dense, t_sparse_full, t_fixed), dtype=torch.float64
        ),
    ],
    hints=(
        "Time over density is a straight line through (0, t_fixed) and (1, t_sparse_full). Where does it meet t_dense?",
        "53.5, 67.4 and 5: the line rises by 62.4 from 5; dense lies 48.5 above its start, 48.5 / 62.4 = 0.777.",
        "(t_dense - t_fixed) / (t_sparse_full - t_fixed), not below 0 and not above 1.",
    ),
    shows="Two timings tell beforehand which masks are worth skipping for.",
)

# Gather, product, scatter --------------------------------------------------------------------------------------------


def _masked_conv(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Position by position: the definition, without a product of matrices over rows that are not active."""
    n, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    y = x.new_zeros(n, len(weight), height, width)
    for i, h, w in mask[:, 0].nonzero().tolist():
        y[i, :, h, w] = weight.flatten(1) @ padded[i, :, h : h + 3, w : w + 3].flatten()
    return y


def _gathered(x: Tensor, weight: Tensor, mask: Tensor, *, submanifold: bool = False, first: bool = False) -> Tensor:
    if first:
        mask = mask[:1].expand(len(mask), -1, -1, -1)
    if submanifold:
        x = x * mask
    n, h, w = mask[:, 0].nonzero(as_tuple=True)
    padded = F.pad(x, (1, 1, 1, 1))
    columns = torch.stack([padded[n, :, h + i, w + j] for i in range(3) for j in range(3)], 1)
    y = x.new_zeros(len(x), *x.shape[2:], len(weight))
    y[n, h, w] = columns.flatten(1) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    return y.permute(0, 3, 1, 2)


def _unfolded(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    chosen = mask.flatten(1)
    columns = F.unfold(x, 3, padding=1).transpose(1, 2)[chosen]
    y = x.new_zeros(*chosen.shape, len(weight))
    y[chosen] = columns @ weight.flatten(1).t()
    return y.transpose(1, 2).unflatten(2, x.shape[2:])


class _Counted(nn.Module):
    """An answer as a module, to count what it multiplies."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *args: Tensor) -> None:
        self.found = self.answer(*args)


def _conv_case(name: str, n: int, size: tuple[int, int], density: float, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(n, 3, *size, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    mask = torch.rand(n, 1, *size, generator=generator) < density
    if name == "a border":
        mask[:] = False
        mask[0, 0, 0, :], mask[0, 0, :, -1] = True, True

    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        counted = _Counted(answer)
        macs = measure.count_macs(counted, x.clone(), weight.clone(), mask.clone())
        found = counted.found
        outside = (found * ~mask).abs().max() if found.numel() else torch.tensor(0.0)
        return {
            "rows in the product": macs / weight.numel(),
            "exact zeros where inactive": bool(outside == 0),
            "result": found,
        }

    share = f"{int(mask.sum())} of {mask.numel()} positions active"
    return Case(name, run, show=f"{n} maps of {size[0]}x{size[1]}, {share}")


masked_conv = Check(
    "masked_conv",
    chapter=CHAPTER,
    title="gather, product, scatter",
    level=4,
    minutes=25,
    reference=_masked_conv,
    cases=[
        _conv_case("one map", 1, (5, 6), 0.3, 1),
        _conv_case("three maps, three masks", 3, (4, 5), 0.4, 2),
        _conv_case("a border", 1, (4, 4), 0.0, 3),
        _conv_case("nothing active", 2, (3, 3), 0.0, 4),
        _conv_case("everything active", 1, (3, 4), 1.1, 5),
    ],
    wrong_answers={
        "dense_times_mask": lambda x, weight, mask: F.conv2d(x, weight, padding=1) * mask,
        "zeroes_inactive_inputs": lambda x, weight, mask: _gathered(x, weight, mask, submanifold=True),
        "first_mask_for_all": lambda x, weight, mask: _gathered(x, weight, mask, first=True),
        "forgets_the_scatter": lambda x, weight, mask: (
            _gathered(x, weight, mask).permute(0, 2, 3, 1)[mask[:, 0]].contiguous()
        ),
    },
    diagnoses={
        "dense_times_mask": "Every number is right, and every position was computed. How many rows should the product "
        "have seen?",
        "zeroes_inactive_inputs": "Your active outputs read zeros where a neighbour is inactive: that is submanifold "
        "convolution, another network. What stands in x at those places?",
        "first_mask_for_all": "You computed the positions of the first mask in every map. Which mask belongs to map n?",
        "forgets_the_scatter": "Your rows are right, and they come as a list. Where in a map of zeros do they belong?",
    },
    accepted=[_gathered, _unfolded],
    hints=(
        "`mask[:, 0].nonzero(as_tuple=True)` gives n, h and w of the active positions, A numbers each. On a map padded "
        "by one, position (h, w) finds its nine inputs at rows h to h + 2 and columns w to w + 2.",
        "For tap (0, 2) of all active positions at once: padded[n, :, h + 0, w + 2] has shape (A, C). Nine of them, "
        "side by side, are A rows of 9C numbers.",
        "columns = torch.stack([padded[n, :, h + i, w + j] for i in range(3) for j in range(3)], 1).flatten(1); rows = "
        "columns @ weight.permute(2, 3, 1, 0).flatten(0, 2); y = zeros (N, H, W, C'); y[n, h, w] = rows; permute.",
    ),
    shows="Work follows the active rows, and the result is that of the dense convolution where anybody looks.",
    tolerance=1e-4,
)

# A kernel ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variant:
    """A kernel with switches; stands for an answer."""

    fn: Callable[..., Any]
    flags: dict[str, bool] = field(default_factory=dict, hash=False)

    def __call__(self, *_: Any) -> Any:
        raise TypeError("a kernel is launched, not called")


@dataclass(frozen=True)
class _Plain:
    """The reference: what the launch must have written, computed by torch."""

    fn: Callable[..., None]

    def __call__(self, *_: Any) -> Any:
        raise TypeError("a kernel is launched, not called")


def _definition(x, w, idx, cnt, y, H, W, x_n, x_h, x_w, C, K, **_):
    """The arguments of the launch, worked off in plain Python."""
    maps = (int(idx.max()) // (H * W)) + 1
    images = torch.as_strided(x, (maps, C, H, W), (x_n, 1, x_h, x_w))
    weight = w.view(3, 3, C, K).permute(3, 2, 0, 1)
    dense = F.conv2d(images.float(), weight.float(), padding=1).permute(0, 2, 3, 1).reshape(-1, K)
    for position in idx[: int(cnt)].tolist():
        y.view(-1, K)[position] = dense[position].to(y.dtype)


def _kernel(
    x, w, idx, cnt, y, H, W, x_n, x_h, x_w,
    C: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    NO_COLUMN: tl.constexpr = False, TAIL: tl.constexpr = False, SWAPPED: tl.constexpr = False,
    ALL_COLUMNS: tl.constexpr = False,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    room = tl.num_programs(0) * BM
    listed = rows < (room if TAIL else tl.load(cnt))
    p = tl.load(idx + rows, mask=listed, other=0)
    n = p // (H * W)
    h = p // W % H
    v = p % W
    c = tl.arange(0, BC)
    k = tl.arange(0, BK)
    acc = tl.zeros((BM, BK), tl.float32)
    for tap in range(9):
        up = h + tap // 3 - 1
        left = v + tap % 3 - 1
        inside = listed & (up >= 0) & (up < H)
        if not NO_COLUMN:
            inside = inside & (left >= 0) & (left < W)
        at = n * x_n + (up * x_w + left * x_h if SWAPPED else up * x_h + left * x_w)
        a = tl.load(x + at[:, None] + c[None, :], mask=inside[:, None] & (c < C)[None, :], other=0)
        b = tl.load(w + (tap * C + c)[:, None] * K + k[None, :], mask=(c < C)[:, None] & (k < K)[None, :], other=0)
        acc = tl.dot(a, b, acc)
    stored = listed[:, None] & (k < (BK if ALL_COLUMNS else K))[None, :]
    tl.store(y + p[:, None] * K + k[None, :], acc.to(y.dtype.element_ty), mask=stored)


def _kernel_by_address(
    x, w, idx, cnt, y, H, W, x_n, x_h, x_w,
    C: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Written differently: one address moved from tap to tap, checks as comparisons of unsigned remainders."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    listed = rows < tl.load(cnt)
    p = tl.load(idx + rows, mask=listed, other=0)
    v = p % W
    h = (p // W) % H
    base = (p // (H * W)) * x_n + h * x_h + v * x_w
    c = tl.arange(0, BC)[None, :]
    k = tl.arange(0, BK)[None, :]
    acc = tl.zeros((BM, BK), tl.float32)
    for i in range(3):
        for j in range(3):
            a_row = (h + i - 1 != -1) & (h + i - 1 != H)
            a_column = (v + j - 1 != -1) & (v + j - 1 != W)
            ok = (listed & a_row & a_column)[:, None] & (c < C)
            a = tl.load(x + (base + (i - 1) * x_h + (j - 1) * x_w)[:, None] + c, mask=ok, other=0)
            within = (tl.arange(0, BC) < C)[:, None] & (k < K)
            b = tl.load(w + ((i * 3 + j) * C + tl.arange(0, BC))[:, None] * K + k, mask=within, other=0)
            acc += tl.dot(a, b)
    tl.store(y + p[:, None] * K + k, acc.to(y.dtype.element_ty), mask=listed[:, None] & (k < K))


def _launch(answer: Any, tensors: tuple[Tensor, ...], numbers: dict[str, Any], programs: int) -> None:
    if isinstance(answer, _Plain):
        answer.fn(*tensors, **numbers)
        return
    flags = answer.flags if isinstance(answer, _Variant) else {}
    fn: Any = (
        answer.fn if isinstance(answer, _Variant) else inspect.unwrap(answer) if inspect.isroutine(answer) else answer
    )
    if inspect.isroutine(fn) and any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(fn).parameters.values()):
        fn(*tensors, **numbers)  # no kernel: let it say what it has to say
        return
    source: Any = fn
    while hasattr(source, "fn"):
        source = source.fn
    if "raise NotImplementedError" in inspect.getsource(source):
        raise NotImplementedError
    if isinstance(answer, _Variant):
        import triton.language

        fn.__globals__["tl"] = triton.language
    kernels.interpreted(fn)[(programs,)](*tensors, **numbers, **flags)


_GUARD = 4096


def _in_the_middle(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values between two stretches of NaN: the whole buffer, and the part to pass on."""
    whole = torch.full((values.numel() + 2 * _GUARD,), float("nan"), dtype=values.dtype)
    part = whole[_GUARD : _GUARD + values.numel()]
    part.copy_(values.flatten())
    return whole, part


def _kernel_case(name: str, dtype: torch.dtype, n: int, size: tuple[int, int], active: list[int], gap: int = 0) -> Case:
    height, width = size
    channels, outputs, length = 5, 6, n * height * width
    generator = torch.Generator().manual_seed(len(active))
    images = torch.randn(n, height, width, channels, generator=generator)
    weight = (0.3 * torch.randn(9 * channels, outputs, generator=generator)).to(dtype)
    rest = [p for p in range(length) if p not in active]
    listed = torch.tensor((active + rest + rest[:1] * 16)[: -(-length // 16) * 16], dtype=torch.int32)

    def run(answer: Any) -> dict[str, Any]:
        strip = torch.full((n, height, width + gap, channels), float("nan"))
        strip[:, :, :width] = images
        _, x = _in_the_middle(strip.to(dtype))
        out, y = _in_the_middle(torch.full((length, outputs), -7.0, dtype=dtype))
        row = (width + gap) * channels
        numbers = {"H": height, "W": width, "x_n": height * row, "x_h": row, "x_w": channels}
        numbers |= {"C": channels, "K": outputs, "BM": 16, "BC": 8, "BK": 16}
        lent = (x, weight.clone(), listed.clone(), torch.tensor([len(active)], dtype=torch.int32), y)
        _launch(answer, lent, numbers, -(-length // 16))
        after = y.view(length, outputs)
        return {
            "active rows of y": after[active].float(),
            "inactive rows of y unchanged": bool((after[rest] == -7).all()),
            "nothing written beyond y": bool(out[:_GUARD].isnan().all() and out[-_GUARD:].isnan().all()),
        }

    return Case(name, run, show=f"{n} maps of {height}x{width}, positions {active} active")


masked_conv_kernel = Check(
    "masked_conv_kernel",
    chapter=CHAPTER,
    title="the addresses and masks of a Triton kernel",
    level=5,
    minutes=40,
    reference=_Plain(_definition),
    cases=[
        _kernel_case("the middle of a map", torch.float32, 1, (3, 5), [6, 7, 8]),
        _kernel_case("the left and the right border", torch.float32, 1, (3, 4), [3, 4, 7, 8]),
        _kernel_case("corners of two maps", torch.float32, 2, (3, 5), [0, 4, 10, 14, 15, 29]),
        _kernel_case("rows with a gap between them, float16", torch.float16, 1, (4, 6), [0, 5, 8, 17, 23], gap=2),
        _kernel_case("nothing active", torch.float32, 1, (3, 3), []),
    ],
    wrong_answers={
        "wraps_to_previous_row": _Variant(_kernel, {"NO_COLUMN": True}),
        "trusts_the_tail": _Variant(_kernel, {"TAIL": True}),
        "int_offsets_swapped": _Variant(_kernel, {"SWAPPED": True}),
        "stores_all_columns": _Variant(_kernel, {"ALL_COLUMNS": True}),
    },
    diagnoses={
        "wraps_to_previous_row": "Positions on the left or right border read a number from the row above or below. "
        "You checked the row of each tap: what else can leave the map?",
        "trusts_the_tail": "You stored rows that nobody asked for. Which entries of `idx` mean something, and who "
        "knows how many there are?",
        "int_offsets_swapped": "Your taps walk along the wrong axis. How many elements lie between a position and the "
        "one below it, and how many between it and its right neighbour?",
        "stores_all_columns": "Numbers of y that belong to other positions were overwritten. BK is larger than K: "
        "where do the extra columns go?",
    },
    accepted=[_Variant(_kernel), _Variant(_kernel_by_address)],
    hints=(
        "Three things in order: which of the BM rows are on the list at all, which position (n, h, v) each of them is, "
        "and for each tap where its input lies and whether it lies inside the map.",
        "Map 3x5, position 14: n = 0, h = 2, v = 4. Tap 5 (row 0, column +1) is at v = 5: outside, masked. Tap 3 is at "
        "2 * x_h + 3 * x_w.",
        "listed = rows < tl.load(cnt); p = tl.load(idx + rows, mask=listed, other=0); n, h, v = p // (H * W), "
        "p // W % H, p % W. In the loop: up = h + tap // 3 - 1, left = v + tap % 3 - 1, inside = listed & (up >= 0) & "
        "(up < H) & the same for left and W, at = n * x_n + up * x_h + left * x_w.",
    ),
    shows="With the border and the tail masked, the same lines run on a GPU, thousands of rows at a time.",
    tolerance=3e-3,
)

TASKS = (halo, break_even, masked_conv, masked_conv_kernel)
