"""DRNet: a small network glances at the image and picks the resolution at which a large one will look.

Paper: Dynamic Resolution Network (arXiv 2106.02898, NeurIPS 2021).
Kept: a residual predictor on a coarse copy, one choice an image by hard Gumbel-softmax, a network shared by all
resolutions with one BatchNorm for each, and a loss that charges multiply-adds above a target.
Different: laptop size; plain Gumbel-softmax at a fixed temperature, as the paper's schedule is not published. At
inference the batch is sorted by resolution, so that each image runs once, at its own resolution only.

RANet decides *after* looking coarsely, and keeps what it saw; DRNet decides before, and starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.decision import gumbel_softmax
from course_lib.instance.msdnet import conv_bn_relu, operations


@dataclass(frozen=True)
class DRNetOutput:
    """What training needs of a batch."""

    logits: Tensor  #: (N, classes), of the resolution chosen
    choice: Tensor  #: (N, R) one-hot; its gradient is that of the soft sample
    macs: Tensor  #: scalar, mean multiply-adds of the network over the batch, by the choice; differentiable


@dataclass(frozen=True)
class DRNetResult:
    """What inference answered, in the order of the input."""

    logits: Tensor  #: (N, classes)
    resolution: Tensor  #: (N,) int64, index into `resolutions`
    macs: Tensor  #: (N,) float64, multiply-adds spent, the predictor's included


class MultiResolutionNetwork(nn.Module):
    """One set of convolutions for all resolutions, and one BatchNorm a layer for each of them.

    The features of a smaller picture have other means and spreads, which the BatchNorm of another would get wrong.

    Args:
        resolutions: sides in pixels, fine to coarse.
        widths: channels after each convolution; all but the first halve the resolution.
    """

    def __init__(self, resolutions: Sequence[int], widths: Sequence[int], classes: int, in_channels: int) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for i, (cin, cout) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            self.convs.append(nn.Conv2d(cin, cout, 3, stride=2 if i else 1, padding=1, bias=False))
            self.norms.append(nn.ModuleList(nn.BatchNorm2d(cout) for _ in self.resolutions))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, which: int | None = None) -> Tensor | list[Tensor]:
        """x: (N, C, H, W), shrunk to resolution number `which` -> logits (N, classes); None: a list, all of them."""
        if which is None:
            return [self.at(x, j) for j in range(len(self.resolutions))]
        return self.at(x, which)

    def at(self, x: Tensor, which: int) -> Tensor:
        """Logits (N, classes) at resolution number `which`, for images of any size."""
        x = _shrink(x, self.resolutions[which])
        for conv, norms in zip(self.convs, self.norms, strict=True):
            x = norms[which](conv(x)).relu()  # type: ignore[index]
        return self.linear(x.mean((2, 3)))

    def cost(self, which: int) -> int:
        """Multiply-adds a sample at resolution number `which`."""
        spent, _ = operations(self.convs, self.resolutions[which], published=False)
        return spent + self.linear.weight.numel()


class ResolutionPredictor(nn.Module):
    """Glance at a small copy of the image: a strided convolution, one residual block, a linear layer.

    Args:
        side: of the copy, in pixels; width: channels; choices: resolutions to choose from.
    """

    def __init__(self, side: int, width: int, choices: int, in_channels: int) -> None:
        super().__init__()
        self.side = side
        self.stem = nn.Sequential(*conv_bn_relu(in_channels, width, 3, stride=2))
        self.residual = nn.Sequential(*conv_bn_relu(width, width, 3), *conv_bn_relu(width, width, 3)[:2])
        self.linear = nn.Linear(width, choices)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> logits (N, choices), the more of one the more that resolution is wanted."""
        x = self.stem(_shrink(x, self.side))
        x = (x + self.residual(x)).relu()
        return self.linear(x.mean((2, 3)))

    def cost(self) -> int:
        """Multiply-adds a sample."""
        spent, side = operations(self.stem, self.side, published=False)
        return spent + operations(self.residual, side, published=False)[0] + self.linear.weight.numel()


class DRNet(nn.Module):
    """A predictor and a network for several resolutions.

    Args:
        predictor: (N, C, H, W) -> (N, R), R the number of resolutions of the network.
        network: see `MultiResolutionNetwork`; train it alone first (`train.fit(model.network, ...)` trains all its
            resolutions at once), then the whole with `drnet_loss`.

    >>> model = DRNet.tiny().eval()
    >>> model.infer(torch.zeros(2, 3, 16, 16)).logits.shape
    torch.Size([2, 10])
    """

    def __init__(self, predictor: ResolutionPredictor, network: MultiResolutionNetwork) -> None:
        super().__init__()
        sides = network.resolutions
        if len(sides) < 2 or min(sides) < 1 or list(sides) != sorted(set(sides), reverse=True):
            raise ValueError(f"resolutions: got {sides}, expected two or more sides in pixels, fine to coarse")
        if predictor.linear.out_features != len(sides):
            got = predictor.linear.out_features
            raise ValueError(f"predictor: got {got} choices, expected one for each of {len(sides)} resolutions")
        self.predictor = predictor
        self.network = network
        self.classes = network.linear.out_features

    @classmethod
    def tiny(cls, classes: int = 10, *, resolutions: Sequence[int] = (16, 8), in_channels: int = 3) -> DRNet:
        """For images of 16 pixels: 16 or 8 of them, chosen on a copy of 8 (published: 224, 168, 112, on one of 128)."""
        predictor = ResolutionPredictor(8, 8, len(resolutions), in_channels)
        return cls(predictor, MultiResolutionNetwork(resolutions, (16, 32, 64), classes, in_channels))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides in pixels, fine to coarse."""
        return self.network.resolutions

    def costs(self) -> list[float]:
        """Multiply-adds of the network a sample at each resolution; the predictor's, which all images pay, are apart.

        A picture of half the side costs a quarter: the convolutions see a quarter of the pixels.
        """
        return [float(self.network.cost(j)) for j in range(len(self.resolutions))]

    def forward(self, x: Tensor, *, tau: float = 1.0, generator: torch.Generator | None = None) -> DRNetOutput:
        """All resolutions, weighted by the choice: for training, where every resolution must learn from every image.

        In training mode the choice is drawn by hard Gumbel-softmax; in eval mode it is the largest logit.

        Args:
            x: (N, C, H, W); tau: temperature above 0; generator: for the noise.
        """
        self._check(x)
        wanted = self.predictor(x)
        if self.training:
            choice = gumbel_softmax(wanted, tau=tau, hard=True, generator=generator)
        else:
            choice = F.one_hot(wanted.argmax(1), wanted.shape[1]).to(wanted.dtype)
        # y = sum_j h_j f(x_{r_j}); F = sum_j mean(h_j) C_j
        answers = torch.stack([self.network.at(x, j) for j in range(len(self.resolutions))], 1)
        logits = (choice[:, :, None] * answers).sum(1)
        macs = (choice.sum(0) / max(len(x), 1)) @ choice.new_tensor(self.costs())
        return DRNetOutput(logits, choice, macs)

    def infer(self, x: Tensor) -> DRNetResult:
        """Each image once, at the resolution the predictor wants: one call of the network for each one that occurs.

        Args:
            x: (N, C, H, W); N = 0 is legal.

        Raises:
            RuntimeError: the model is in training mode.
            ValueError: an image of the wrong shape.
        """
        if self.training:
            raise RuntimeError("the model is in training mode; call model.eval() first, or samples share statistics")
        self._check(x)
        with torch.inference_mode():
            wanted = self.predictor(x).argmax(1)
            order = wanted.argsort(stable=True)
            answers = x.new_zeros(len(x), self.classes)
            groups = order.split(wanted.bincount(minlength=len(self.resolutions)).tolist())
            for j, rows in enumerate(groups):
                if len(rows):
                    answers[rows] = self.network(x[rows], j)
            spent = torch.tensor(self.costs(), dtype=torch.float64, device=x.device) + self.predictor.cost()
            return DRNetResult(answers, wanted, spent[wanted])

    def _check(self, x: Tensor) -> None:
        channels = self.network.convs[0].in_channels
        side = self.resolutions[0]
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < side:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, {channels}, H, W) with H, W >= {side}")


def drnet_loss(output: DRNetOutput, labels: Tensor, costs: Sequence[float], *, target: float, eta: float) -> Tensor:
    """Cross-entropy, plus what the mean cost is above the target, as a share of the whole range; a scalar.

    Args:
        output: of the model in training mode; labels: (N,) int64.
        costs: of the model's resolutions, `DRNet.costs()`.
        target: mean multiply-adds an image that cost nothing extra; eta: weight of the charge, 0 or more.

    Raises:
        ValueError: a negative eta, equal costs, or a target below the cheapest resolution, which no choice can meet.
    """
    if eta < 0:
        raise ValueError(f"eta: got {eta}, expected 0 or more")
    if max(costs) == min(costs):
        raise ValueError(f"costs: got {list(costs)}, expected resolutions of different cost")
    if target < min(costs):
        raise ValueError(f"target: got {target:g}, expected at least {min(costs):g}, the cheapest resolution")
    # L = CE + eta max((F - alpha) / (F_max - F_min), 0)
    charge = ((output.macs - target) / (max(costs) - min(costs))).clamp(min=0)
    return F.cross_entropy(output.logits, labels) + eta * charge


def _shrink(x: Tensor, side: int) -> Tensor:
    """Bilinear, each new pixel an average over what it covers."""
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
