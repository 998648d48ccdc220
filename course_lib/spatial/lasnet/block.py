"""A residual block that computes the cells its masker chose: dense and multiplied, or sparse, and what it costs.

With x the input, M the mask of 0 and 1 and F the three convolutions: y = ReLU(shortcut(x) + M * F(x)).
Source: LASNet (arXiv 2210.06223), section 3; see `course_lib.spatial.lasnet.network` for what is different here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from course_lib import kernels
from course_lib.kernels.compaction import expand
from course_lib.spatial.sparse_conv import SpatialMasker, sparse_branch


class BlockMacs(NamedTuple):
    """Multiply-adds of one image in the parts of a block whose price depends on different shares of the map."""

    masker: int
    conv1: int  #: at every position; a share of them is touched by the halo
    conv2_conv3: int  #: at every position; a share of them is active
    fixed: int  #: shortcut convolution, squeeze-and-excitation: always

    @property
    def static(self) -> int:
        """Everything active, masker included: the denominator of a block's rate."""
        return sum(self)

    def at(self, rate: Any, dilated_rate: Any) -> Any:
        """With a share `rate` of the positions active and `dilated_rate` in their halo; numbers or tensors."""
        return self.masker + dilated_rate * self.conv1 + rate * self.conv2_conv3 + self.fixed


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number between 0 and 1 that depends on its mean over the active positions."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (N, C, H, W); mask: (N, 1, H, W) of 0 and 1, without a gradient."""
        count = mask.sum((2, 3), keepdim=True).clamp(min=1)
        mean = (x * mask).sum((2, 3), keepdim=True) / count
        return x * self.fc2(self.fc1(mean).relu()).sigmoid()


class MaskedBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolution at the cells the masker chose, added to the shortcut.

    Args:
        cin, width, cout: channels of the input, of the 3x3 convolution and of the output.
        granularity: S, on the output map.
        stride: of the 3x3 convolution.
        groups: of the 3x3 convolution.
        squeeze: channels inside squeeze-and-excitation; 0: none.
        bias: see `SpatialMasker`.
    """

    def __init__(
        self,
        cin: int,
        width: int,
        cout: int,
        *,
        granularity: int,
        stride: int = 1,
        groups: int = 1,
        squeeze: int = 0,
        bias: float = 5.0,
    ) -> None:
        super().__init__()
        self.stride, self.width = stride, width
        self.masker = SpatialMasker(cin, granularity=granularity, stride=stride, bias=bias)
        self.a = conv_bn(cin, width, 1)
        self.b = conv_bn(width, width, 3, stride=stride, groups=groups)
        self.se: SqueezeExcitation | None = SqueezeExcitation(width, squeeze) if squeeze else None
        self.c = conv_bn(width, cout, 1)
        self.shortcut: nn.Sequential | None = None
        if stride > 1 or cin != cout:
            self.shortcut = conv_bn(cin, cout, 1, stride=stride)

    @property
    def granularity(self) -> int:
        """S."""
        return self.masker.granularity

    def active(self, mask: Tensor, x: Tensor) -> tuple[kernels.ActiveSet, kernels.ActiveSet]:
        """The active output positions of a mask of cells, and the positions of `x` that they look at."""
        size = self._out_size(x)
        if len(mask) != len(x):
            raise ValueError(f"mask: got one for {len(mask)} images, expected {len(x)}")
        cells = kernels.ActiveSet.from_mask(mask.detach(), granularity=self.granularity, size=size)
        return cells, cells.dilate(3, self.stride, 1, in_size=x.shape[2:])

    def _out_size(self, x: Tensor) -> tuple[int, int]:
        return -(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride)

    def dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """Everything computed, then multiplied: what is trained.  mask: (N, 1, rows, columns) of cells."""
        whole = expand(mask, self._out_size(x), self.granularity)  # nearest neighbour: stays 0 or 1
        h = self.b(self.a(x).relu()).relu()
        if self.se is not None:
            h = self.se(h, whole.detach())
        identity = x if self.shortcut is None else self.shortcut(x)
        return (identity + whole * self.c(h)).relu()

    def sparse(
        self, x: Tensor, cells: kernels.ActiveSet, halo: kernels.ActiveSet, *, backend: kernels.Backend = "auto"
    ) -> Tensor:
        """The same for eval mode, at the active positions only. Overwrites `x` where the block has no shortcut.

        `x` must be the output of a ReLU, as it is between blocks: a skipped position then keeps its value.
        """
        identity = x if self.shortcut is None else self.shortcut(x)
        out = x if self.shortcut is None else identity.relu()
        pairs: Any = [tuple(pair) for pair in (self.a, self.b, self.c)]
        se = None if self.se is None else partial(self.se, mask=cells.to_mask().to(x.dtype))
        return sparse_branch(pairs, x, halo, cells, residual=identity, out=out, between=se, backend=backend)

    def macs(self, size: int) -> BlockMacs:
        """Multiply-adds of one image for input maps of `size` x `size` positions. Normalisation counts 0."""
        side = -(-size // self.stride)
        fixed = 0 if self.shortcut is None else _weights(self.shortcut) * side**2
        if self.se is not None:
            fixed += self.se.fc1.weight.numel() + self.se.fc2.weight.numel()
        return BlockMacs(
            masker=self.masker.conv.weight.numel() * (-(-side // self.granularity)) ** 2,
            conv1=_weights(self.a) * size**2,
            conv2_conv3=(_weights(self.b) + _weights(self.c)) * side**2,
            fixed=fixed,
        )


def expected_halo(rate: float, granularity: int, stride: int = 1) -> float:
    """Share of the input positions that a 3x3 convolution reads when cells are active at random with chance `rate`.

    Borders are ignored. A position inside a cell is read by that cell alone, one at its edge by two, at a corner by
    four; for stride 2 a cell covers 2S x 2S inputs, and only two of its edges are shared.

    >>> [round(expected_halo(0.25, s), 2) for s in (1, 2, 4)]
    [0.92, 0.68, 0.45]
    """
    idle = 1 - rate
    if stride == 1 and granularity == 1:
        return 1 - idle**9
    side = stride * granularity
    shared = 2 if stride == 1 else 1  # rows of a cell that the neighbours above or below read, too
    own = side - shared
    some = 2 * shared * own * (1 - idle**2) + shared**2 * (1 - idle**4)
    return (own**2 * rate + some) / side**2


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the side (or divides it by `stride`), BatchNorm."""
    conv = nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


def _weights(pair: nn.Sequential) -> int:
    conv: Any = pair[0]
    return conv.weight.numel()
