"""SACT and DynConv: networks that decide pixel by pixel how much to compute.

SACT (arXiv 1612.02297): inside a stage every position halts by itself; a halted position keeps its features, so that
its neighbours can still read them. DynConv (arXiv 1912.03203): every block has a small unit that draws a mask.
Kept: the halting rule with its ponder cost; the mask unit, its Gumbel noise with straight-through gradient, the budget
loss with bounds that open over the first third of training.
Different: the published code of SACT computes everything and multiplies; here both run on `course_lib.kernels` in
eval mode and compute active positions only. Networks are the ResNets for small images (3 stages of 5 blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.decision.estimators import gumbel_sigmoid, straight_through
from course_lib.kernels import ActiveSet
from course_lib.spatial._masks import budget_distance, opening_bounds
from course_lib.spatial.sparse_conv import Backend, conv_norm, positions_of


class MaskedBasicBlock(nn.Module):
    """Two 3x3 convolutions whose sum with the shortcut is masked: y = relu(identity + mask * F(x)).

    The first convolution runs on the mask dilated by the second one's window; what it reads itself is unrestricted.
    """

    backend: Backend = "auto"

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, lists: tuple[ActiveSet, ActiveSet] | None = None
    ) -> Tensor:
        """x: (N, C, H, W); mask: (N, 1, Ho, Wo) bool or 0 and 1, None for everywhere.

        Everything is computed and multiplied while training and where the mask requires a gradient.

        lists: what `lists_of` makes of the mask, from whoever has it already.
        """
        identity = x if self.shortcut is None else self.shortcut(x)
        if mask is None or mask.requires_grad or self.training:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if mask is not None:
                y = y * positions_of(mask, 1, y.shape, y.dtype)
            return functional.relu(identity + y)
        active, halo = lists or self.lists_of(mask, size=identity.shape[2:])
        h = conv_norm(self.conv1, self.bn1, x, halo, relu=True, backend=self.backend)
        return functional.relu(identity + conv_norm(self.conv2, self.bn2, h, active, backend=self.backend))

    @staticmethod
    def lists_of(mask: Tensor, size: Sequence[int] | None = None) -> tuple[ActiveSet, ActiveSet]:
        """The active positions of a mask, and their halo: where the first convolution must run for them."""
        active = ActiveSet.from_mask(mask.detach(), size=size)
        return active, active.dilate(3, 1, 1)

    def macs(self, side: int) -> tuple[int, int, int]:
        """Multiply-adds at every position of a map of `side` x `side` inputs: conv1, conv2, shortcut."""
        positions = (-(-side // self.stride)) ** 2
        fixed = 0 if self.shortcut is None else self.shortcut[0].weight.numel()  # type: ignore[index]
        return self.conv1.weight.numel() * positions, self.conv2.weight.numel() * positions, fixed * positions


# SACT ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halting:
    """How far each position of one stage went; maps are (N, 1, H, W)."""

    units: Tensor  #: number of units evaluated, 1 to L
    remainder: Tensor  #: weight of the last of them, in (0, 1]; carries a gradient
    weights: Tensor  #: (L, N, 1, H, W), sum to 1 over L

    @property
    def ponder(self) -> Tensor:
        """units + remainder: what the loss charges. Its gradient is the remainder's."""
        return self.units + self.remainder


class HaltingUnit(nn.Module):
    """The chance to halt after a unit: sigma(conv3x3(BN(x)) + linear(BN(mean of x)) + b), (N, C, H, W) -> (N, 1, H, W).

    b starts at -3: at first nearly everything runs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local_norm, self.local = nn.BatchNorm2d(channels), nn.Conv2d(channels, 1, 3, padding=1)
        self.pooled_norm, self.pooled = nn.BatchNorm1d(channels), nn.Linear(channels, 1, bias=False)
        assert self.local.bias is not None
        nn.init.constant_(self.local.bias, -3.0)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        whole = self.pooled(self.pooled_norm(x.mean((2, 3))))
        return (self.local(self.local_norm(x)) + whole[:, :, None, None]).sigmoid()


class SACTStage(nn.Module):
    """Units of one size with a halting map behind each but the last.

    Args:
        blocks: called as block(x, mask); the first may have a stride and always runs everywhere.
        channels: of their outputs.
        epsilon: a position halts when its chances sum to 1 - epsilon.
    """

    def __init__(self, blocks: Sequence[nn.Module], channels: int, *, epsilon: float = 0.01) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks: got none, expected at least one")
        self.blocks = nn.ModuleList(blocks)
        self.halting = nn.ModuleList(HaltingUnit(channels) for _ in blocks[1:])
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Halting]:
        """The mean of the units' outputs, weighted position by position, and how far each position went.

        A halted position keeps its features. In eval mode units compute the positions still active, in training all.
        """
        x = self.blocks[0](x, None)
        total = x.new_zeros(len(x), 1, *x.shape[2:])
        active = torch.ones_like(total, dtype=torch.bool)
        result, units, remainder, weights = torch.zeros_like(x), total, total, []
        for k, block in enumerate(self.blocks):
            if k:
                x = block(x, active)
            last = k == len(self.blocks) - 1
            chance = torch.ones_like(total) if last else self.halting[k](x)
            stops = active & (total + chance >= 1 - self.epsilon)
            goes_on = active & ~stops
            weight = torch.where(stops, 1 - total, torch.where(goes_on, chance, 0))
            remainder = torch.where(stops, 1 - total, remainder)
            units = units + active.to(x.dtype)
            total = total + torch.where(goes_on, chance, 0)
            result = result + weight * x
            weights.append(weight)
            active = goes_on
        return result, Halting(units, remainder, torch.stack(weights))


class SACT(nn.Module):
    """A residual network for small images in which every position of a stage halts by itself.

    Args:
        classes: number of classes.
        widths: channels of the stages; each but the first halves the map.
        units: residual units a stage; 5 with three stages is ResNet-32.
        in_channels: of the images.

    >>> logits, halting = SACT(10, units=2).eval()(torch.zeros(1, 3, 8, 8))
    >>> tuple(logits.shape), [tuple(one.units.shape) for one in halting]
    ((1, 10), [(1, 1, 8, 8), (1, 1, 4, 4), (1, 1, 2, 2)])
    """

    def __init__(
        self, classes: int, *, widths: Sequence[int] = (16, 32, 64), units: int = 5, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, widths[0])
        self.stages = nn.ModuleList(
            SACTStage(blocks, width) for blocks, width in zip(_stages(widths, units), widths, strict=True)
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Halting]]:
        """(N, C, H, W) -> logits (N, classes) and what happened in each stage."""
        h, halting = self.stem(x), []
        for stage in self.stages:
            h, one = stage(h)
            halting.append(one)
        return self.head(h.mean((2, 3))), halting


def ponder_cost(halting: Sequence[Halting]) -> Tensor:
    """Sum over stages of the mean of units + remainder: add tau times it to the loss (tau 0.01 on CIFAR)."""
    return torch.stack([one.ponder.mean() for one in halting]).sum()


# DynConv -------------------------------------------------------------------------------------------------------------


class MaskUnit(nn.Module):
    """Logits of a mask: conv3x3(x) + linear(mean of x), 10 C + 2 parameters.  (N, C, H, W) -> (N, 1, Ho, Wo)."""

    def __init__(self, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, 1, 3, stride, 1)
        self.pooled = nn.Linear(channels, 1)

    def logits(self, x: Tensor) -> Tensor:
        """See the class; positive says compute."""
        return self.local(x) + self.pooled(x.mean((2, 3)))[:, :, None, None]

    def forward(self, x: Tensor, *, noise: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Training: 0.0 or 1.0, drawn (or, without `noise`, decided) with the gradient of the soft gate. Eval: bool."""
        logits = self.logits(x)
        if not self.training:
            return logits >= 0
        if noise:
            return gumbel_sigmoid(logits, tau=1.0, hard=True, generator=generator)
        return straight_through(logits >= 0, logits.sigmoid())


@dataclass(frozen=True)
class DynConvOutput:
    """What a forward pass gives; shares are means over the batch."""

    logits: Tensor  #: (N, classes)
    masks: tuple[Tensor, ...]  #: L of (N, 1, Ho, Wo)
    costs: Tensor  #: (L,) multiply-adds an image of each block's convolutions, on mask and halo; carries gradients
    totals: Tensor  #: (L,) the same with everything active

    @property
    def share(self) -> Tensor:
        """Multiply-adds of all blocks over those with everything active."""
        return self.costs.sum() / self.totals.sum()


class DynConv(nn.Module):
    """A residual network for small images in which every block draws a mask of the pixels it computes.

    Args:
        classes: number of classes.
        widths, units, in_channels: as for `SACT`.
    """

    def __init__(
        self, classes: int, *, widths: Sequence[int] = (16, 32, 64), units: int = 5, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, widths[0])
        blocks = [block for stage in _stages(widths, units) for block in stage]
        self.blocks = nn.ModuleList(blocks)
        self.mask_units = nn.ModuleList(MaskUnit(b.conv1.in_channels, stride=b.stride) for b in blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, *, noise: bool = True, generator: torch.Generator | None = None) -> DynConvOutput:
        """Training: everything computed and multiplied by drawn masks. Eval: active positions only, no noise.

        Args:
            x: (N, C, H, W), square.
            noise: whether to draw; the paper stops drawing for the last fifth of the epochs.
        """
        h, masks, costs, totals = self.stem(x), [], [], []
        for block, unit in zip(self.blocks, self.mask_units, strict=True):
            mask = unit(h, noise=noise, generator=generator)
            numbers = mask.to(h.dtype)
            active, halo = block.lists_of(mask)  # type: ignore[operator]
            conv1, conv2, _ = block.macs(h.shape[-1])  # type: ignore[operator]
            costs.append(halo.mask.to(h.dtype).mean() * conv1 + numbers.mean() * conv2)
            totals.append(conv1 + conv2)
            h = block(h, mask, lists=(active, halo))
            masks.append(mask)
        total = torch.tensor(totals, dtype=h.dtype, device=h.device)
        return DynConvOutput(self.head(h.mean((2, 3))), tuple(masks), torch.stack(costs), total)


def sparsity_loss(costs: Tensor, totals: Tensor, theta: float, *, epoch: float, epochs: float) -> Tensor:
    """Distance of the network from its budget, and of each block from bounds that open while training goes on.

    (sum costs / sum totals - theta)^2 + mean over blocks of max(0, share - upper)^2 + max(0, lower - share)^2 with
    lower = p theta, upper = 1 - p (1 - theta), p = cos^2(pi/2 min(1, epoch / (0.33 epochs))). The paper adds it to the
    loss ten times. Without the bounds blocks die at the start and never wake up.

    Args:
        costs, totals: (L,) as in `DynConvOutput`.
        theta: the budget, a share in [0, 1].

    >>> on_target = torch.tensor([0.3, 0.3])
    >>> float(sparsity_loss(on_target, torch.ones(2), 0.3, epoch=0, epochs=10))
    0.0
    """
    if not 0 <= theta <= 1:
        raise ValueError(f"theta: got {theta}, expected a share in [0, 1]")
    bounds = opening_bounds(epoch, epochs, theta)
    return budget_distance(costs.sum() / totals.sum(), costs / totals, theta, bounds)


def _stem(in_channels: int, width: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _stages(widths: Sequence[int], units: int) -> list[list[MaskedBasicBlock]]:
    """Blocks of each stage; the first of every stage but the first has stride 2."""
    if units < 1 or not widths:
        raise ValueError(f"widths, units: got {tuple(widths)} and {units}, expected at least one stage of one unit")
    stages, channels = [], widths[0]
    for number, width in enumerate(widths):
        strides = [2 if number else 1] + [1] * (units - 1)
        stages.append(
            [MaskedBasicBlock(channels if k == 0 else width, width, stride=stride) for k, stride in enumerate(strides)]
        )
        channels = width
    return stages
