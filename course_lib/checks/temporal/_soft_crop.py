"""The check of `temporal/adafocus` on a differentiable crop; `adafocus` has it with the others.

The reference goes pixel row by pixel row in plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.checks import Case, Check

CHAPTER = "temporal/adafocus"

_RAMP = 0.5 * torch.arange(12.0)  # slope 0.5 a pixel


def _noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


_IMAGE = _noise(2, 3, 12, 9)
_CORNERS = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
_WHOLE = torch.tensor([[0.25, 0.4], [0.75, 0.8]])  # corners (2, 2) and (6, 4), at size 4
_BETWEEN = torch.tensor([[0.3, 0.55], [0.87, 0.1]])


def _soft_crop(
    x: Tensor,
    location: Tensor,
    size: int,
    *,
    rounds: Callable[[Tensor], Tensor] | None = None,
    room_of: Callable[[int, int], int] = lambda side, size: side - size,
    swapped: bool = False,
    nearest_side: bool = False,
    held: bool = True,
) -> Tensor:
    """Pixel by pixel; the flags are the planted mistakes."""
    height, width = x.shape[2:]
    crops = []
    for image, (a0, a1) in zip(x, location, strict=True):
        if swapped:
            a0, a1 = a1, a0
        top, left = a0 * room_of(height, size), a1 * room_of(width, size)
        if rounds is not None:
            top, left = rounds(top), rounds(left)
        r, c = math.floor(float(top.detach())), math.floor(float(left.detach()))
        below, right = top - r, left - c
        if nearest_side:
            below, right = 1 - below, 1 - right
        first, second = (_rows(image, r + k, size, height, held) for k in (0, 1))
        rows = first * (1 - below) + second * below
        one, two = (_rows(rows.transpose(1, 2), c + k, size, width, held) for k in (0, 1))
        crops.append((one * (1 - right) + two * right).transpose(1, 2))
    return torch.stack(crops)


def _rows(image: Tensor, start: int, size: int, height: int, held: bool) -> Tensor:
    """`size` rows of (C, height, W) from `start` on; those behind the last one repeat it, or are an error."""
    if not held and start + size > height:
        raise IndexError(f"index {start + size - 1} is out of bounds for dimension 0 with size {height}")
    return image[:, [min(start + i, height - 1) for i in range(size)]]


def _by_matrices(x: Tensor, location: Tensor, size: int) -> Tensor:
    """Interpolation is a matrix: tent-shaped weights of the rows to the left, of the columns to the right."""

    def weights(a: Tensor, side: int) -> Tensor:
        at = a[:, None] * (side - size) + torch.arange(size).to(a)
        return (1 - (at[..., None] - torch.arange(side).to(a)).abs()).clamp(min=0)

    down, across = weights(location[:, 0], x.shape[2]), weights(location[:, 1], x.shape[3])
    return torch.einsum("nph,nchw,nqw->ncpq", down, x, across)


def _by_index(x: Tensor, location: Tensor, size: int) -> Tensor:
    n, _, height, width = x.shape
    top, left = location[:, 0] * (height - size), location[:, 1] * (width - size)
    r = top.detach().floor().long().clamp(max=max(height - size - 1, 0))
    c = left.detach().floor().long().clamp(max=max(width - size - 1, 0))
    below, right = (top - r)[:, None, None, None], (left - c)[:, None, None, None]
    span = torch.arange(size)
    rows, columns = (r[:, None] + span)[:, :, None], (c[:, None] + span)[:, None, :]
    low, far = (rows + 1).clamp(max=height - 1), (columns + 1).clamp(max=width - 1)
    everyone = torch.arange(n)[:, None, None]

    def pixels(i: Tensor, j: Tensor) -> Tensor:
        return x[everyone, :, i, j].movedim(-1, 1)

    upper = pixels(rows, columns) * (1 - right) + pixels(rows, far) * right
    lower = pixels(low, columns) * (1 - right) + pixels(low, far) * right
    return upper * (1 - below) + lower * below


def _with_grid_sample(x: Tensor, location: Tensor, size: int, *, align: bool = False) -> Tensor:
    height, width = x.shape[2:]
    steps = torch.arange(size).to(location)
    if align:  # pixel centres at -1 and 1, positions still measured between the edges
        rows = -1 + 2 * (location[:, :1] * (height - size) + steps + 0.5) / height
        columns = -1 + 2 * (location[:, 1:] * (width - size) + steps + 0.5) / width
    else:
        rows = (2 * (location[:, :1] * (height - size) + steps) + 1) / height - 1
        columns = (2 * (location[:, 1:] * (width - size) + steps) + 1) / width - 1
    shape = (len(x), size, size)
    grid = torch.stack((columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)), -1)
    return functional.grid_sample(x, grid, align_corners=align)


def _gradient(x: Tensor, location: list[list[float]], size: int) -> Callable[[Callable[..., Any]], Any]:
    """The gradient of the crop's mean with respect to the location, or that there is none."""

    def run(answer: Callable[..., Any]) -> Any:
        a = torch.tensor(location, requires_grad=True)
        found = answer(x.clone(), a, size)
        if not isinstance(found, Tensor) or not found.requires_grad:
            return "no gradient reaches the location"
        (gradient,) = torch.autograd.grad(found.mean((1, 2, 3)).sum(), a, allow_unused=True)
        return "no gradient reaches the location" if gradient is None else gradient

    return run


def _slope(answer: Callable[..., Any]) -> Any:
    """Gradient of one pixel of the crop, so that nothing cancels."""
    a = _BETWEEN.clone().requires_grad_()
    found = answer(_IMAGE.clone(), a, 4)
    if not isinstance(found, Tensor) or not found.requires_grad:
        return "no gradient reaches the location"
    return torch.autograd.grad(found[:, 1, 2, 3].sum(), a)[0]


def _sampled(answer: Callable[..., Any]) -> int:
    """Calls of `grid_sample`, under both of its names."""
    calls = []
    real = torch.grid_sampler

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return real(*args)

    with mock.patch.object(torch, "grid_sampler", counted):
        answer(_IMAGE.clone(), _BETWEEN.clone(), 4)
    return len(calls)


_DOWN = _RAMP[:, None].expand(2, 1, 12, 9)
_ACROSS = _RAMP[None, :9].expand(2, 1, 12, 9)
_PLACES = [[0.3, 0.55], [0.87, 0.1]]


soft_crop = Check(
    "soft_crop",
    chapter=CHAPTER,
    title="a window that slides by fractions of a pixel",
    level=5,
    minutes=40,
    reference=_soft_crop,
    cases=[
        Case.of("whole pixels: location (0.25, 0.4) and (0.75, 0.8), size 4", _IMAGE, _WHOLE, 4, show="12x9 pixels"),
        Case.of("both corners: (0, 0) and (1, 1), size 4", _IMAGE, _CORNERS, 4, show="12x9 pixels"),
        Case.of("between pixels", _IMAGE, _BETWEEN, 4, show="12x9 pixels, locations (0.3, 0.55) and (0.87, 0.1)"),
        Case.of("the whole image", _IMAGE[..., :9, :], _BETWEEN, 9, show="9x9 pixels, size 9: nowhere to go"),
        Case(
            "gradient on a ramp, downwards",
            _gradient(_DOWN, _PLACES, 4),
            "slope 0.5 a pixel, H = 12, size 4",
        ),
        Case(
            "gradient on a ramp, to the right",
            _gradient(_ACROSS, _PLACES, 4),
            "slope 0.5 a pixel, W = 9, size 4",
        ),
        Case("gradient on a constant", _gradient(torch.full((2, 1, 12, 9), 0.7), _PLACES, 4), "all 0.7"),
        Case("gradient of a single pixel", _slope, "as differences of the crop by a small step say it"),
        Case("calls of grid_sample", _sampled, "the exercise is to do without"),
    ],
    wrong_answers={
        "rounds_the_location": lambda *args: _soft_crop(*args, rounds=torch.round).detach(),
        "rounds_in_the_graph": lambda *args: _soft_crop(*args, rounds=torch.round),
        "floors_the_location": lambda *args: _soft_crop(*args, rounds=torch.floor).detach(),
        "scales_by_H": lambda *args: _soft_crop(*args, room_of=lambda side, size: side, held=False),
        "swaps_axes": lambda *args: _soft_crop(*args, swapped=True),
        "reads_beyond_the_edge": lambda *args: _soft_crop(*args, held=False),
        "weighs_the_far_side": lambda *args: _soft_crop(*args, nearest_side=True),
        "detaches_the_weights": lambda x, location, size: _soft_crop(x, location.detach(), size),
        "leaves_it_to_grid_sample": _with_grid_sample,
        "aligns_the_corners": lambda *args: _with_grid_sample(*args, align=True),
    },
    diagnoses={
        "rounds_the_location": "Your crop is right at whole pixels and jumps between them. By how much does it change "
        "when the location moves by a tenth of a pixel, and what is its gradient then?",
        "rounds_in_the_graph": "Your crop jumps from pixel to pixel. The gradient reaches the location through a "
        "rounding: how large can it be?",
        "floors_the_location": "Your window stands on whole pixels, where the first version of AdaFocus cuts it. What "
        "of the pixels that it covers only in part?",
        "scales_by_H": "Your window leaves the image at location 1. How far can a window of 4 rows go down in 12?",
        "swaps_axes": "You take the first number of the location for the column. Which of the two is the row?",
        "reads_beyond_the_edge": "At location 1 you ask for the pixel behind the last one. What weight would it have "
        "there, and what could be read in its place?",
        "weighs_the_far_side": "A tenth of a pixel below a row you give that row a tenth. Which of two neighbours is "
        "the nearer one?",
        "detaches_the_weights": "Your values are right, and the location gets no gradient. Through which numbers of "
        "your formula can it flow: the whole part, or the fraction?",
        "leaves_it_to_grid_sample": "Your crop is right, and `grid_sample` made it. What are the four numbers that it "
        "weighs for each pixel?",
        "aligns_the_corners": "You sample with `align_corners=True` at places meant for False. Where is the middle of "
        "the first pixel, at -1 or half a pixel further in?",
    },
    accepted=[
        _by_matrices,
        _by_index,
        lambda x, location, size: _soft_crop(x, location, size).double(),
    ],
    hints=(
        "Whole part and fraction: the whole part says which pixels, the fraction weighs each with its neighbour. First "
        "between rows, then between columns.",
        "H = 12, size 4, location 0.3: top = 0.3 * 8 = 2.4, so row i of the crop is 0.6 of row 2 + i plus 0.4 of row "
        "3 + i. At location 1 the neighbour is row 12, which is not there and has weight 0.",
        "top = location[:, 0] * (H - size); r = top.floor().long(); f = top - r; rows = r[:, None] + arange(size); "
        "x[n, :, rows] * (1 - f) + x[n, :, (rows + 1).clamp(max=H - 1)] * f, then the same with columns.",
    ),
    shows="So a window can feel which way to move, by one pixel's worth of slope, and no further than that.",
    tolerance=1e-4,
)
