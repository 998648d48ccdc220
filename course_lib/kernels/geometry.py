"""Where a convolution reads: sizes, strides and padding, checked once and passed around as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Pair = tuple[int, int]
Padding = int | Sequence[int] | Literal["same", "valid"]


@dataclass(frozen=True)
class Geometry:
    """A convolution's shape arithmetic; pairs are (rows, columns).

    Output (ho, wo) reads input (ho * stride - pad + tap * dilation, ...); what lies outside counts as 0.
    """

    kernel: Pair
    stride: Pair
    pad: Pair  #: above and left; below and right follow from `out_size`
    dilation: Pair
    groups: int
    in_size: Pair
    out_size: Pair

    @property
    def reach(self) -> Pair:
        """Rows and columns from the first tap to the last one, both included."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def padded(self) -> Pair:
        """Smallest padded input in which no tap of any output leaves the image."""
        return (
            max(self.pad[0] + self.in_size[0], (self.out_size[0] - 1) * self.stride[0] + self.reach[0]),
            max(self.pad[1] + self.in_size[1], (self.out_size[1] - 1) * self.stride[1] + self.reach[1]),
        )

    def flat(self) -> list[int]:
        """As the list of numbers that an operator of torch can take."""
        return [*self.kernel, *self.stride, *self.pad, *self.dilation, self.groups, *self.in_size, *self.out_size]

    @classmethod
    def of(cls, flat: Sequence[int]) -> Geometry:
        """The inverse of `flat`."""
        kh, kw, sh, sw, ph, pw, dh, dw, groups, height, width, out_height, out_width = flat
        return cls((kh, kw), (sh, sw), (ph, pw), (dh, dw), groups, (height, width), (out_height, out_width))


def pair(value: int | Sequence[int], name: str, *, least: int) -> Pair:
    """`value` as (rows, columns); ValueError unless it is one or two whole numbers of at least `least`."""
    got = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(got) == 1:
        got *= 2
    if len(got) != 2 or any(not isinstance(v, int) or v < least for v in got):
        raise ValueError(f"{name}: got {value!r}, expected one or two whole numbers, {least} or more")
    return got[0], got[1]


def resolve(
    input: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    """The geometry of `conv2d(input, weight, ...)`; ValueError where the arguments do not fit together."""
    if input.ndim != 4:
        raise ValueError(f"input: got shape {tuple(input.shape)}, expected (N, C, H, W)")
    if weight.ndim != 4:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected (Cout, Cin / groups, kh, kw)")
    if not isinstance(groups, int) or groups < 1 or input.shape[1] % groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups: got {groups!r}, expected a divisor of the input's {input.shape[1]} and the weight's "
            f"{weight.shape[0]} channels"
        )
    if weight.shape[1] * groups != input.shape[1]:
        raise ValueError(
            f"input: got {input.shape[1]} channels (shape {tuple(input.shape)}), expected {weight.shape[1] * groups} "
            f"for a weight of shape {tuple(weight.shape)} and groups={groups}"
        )
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    steps, spread = pair(stride, "stride", least=1), pair(dilation, "dilation", least=1)
    pad, total = pads(padding, kernel, steps, spread)
    in_size = (int(input.shape[2]), int(input.shape[3]))
    out = tuple((in_size[i] + total[i] - spread[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in (0, 1))
    if min(out) < 1:
        raise ValueError(f"input: got height and width {in_size}, too small for a {kernel} kernel and this padding")
    return Geometry(kernel, steps, pad, spread, groups, in_size, (out[0], out[1]))


def pads(padding: Padding, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Padding above and left, and both sides together."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"padding: got 'same' with stride {stride}, expected stride 1")
        rows, columns = (dilation[i] * (kernel[i] - 1) for i in (0, 1))
        return (rows // 2, columns // 2), (rows, columns)
    if isinstance(padding, str):
        raise ValueError(f"padding: got {padding!r}, expected numbers, 'same' or 'valid'")
    pad = pair(padding, "padding", least=0)
    return pad, (2 * pad[0], 2 * pad[1])
