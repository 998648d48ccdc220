"""The encoders: torchvision's MobileNetV2 and ResNet-50 without their last layers, and two small ones for a laptop.

An encoder turns images (B, 3, h, w) into feature maps (B, C, h', w'). The published ones keep torchvision's names, so
that its state dicts can be loaded.

Sources: MobileNetV2 (arXiv 1801.04381) table 2; ResNet (arXiv 1512.03385) table 1.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from course_lib.instance.msdnet import conv_bn_relu


class Encoder(nn.Module):
    """A trunk that gives feature maps, and beside it the classifier that it was trained with, if that is kept.

    Args:
        trunk: (B, 3, h, w) -> (B, C, h', w').
        head: what stands behind the pooled maps in the encoder's own training; it does not run here.
    """

    def __init__(self, trunk: nn.Module, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        """The trunk's feature maps."""
        return self.trunk(x)


class Shrink(nn.Module):
    """Images made smaller, antialiased: what a cheap glance sees of them."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, side, side)."""
        return functional.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)


def small_convs(channels: int, widths: tuple[int, int, int], strides: tuple[int, int, int]) -> nn.Sequential:
    """Three 3x3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += conv_bn_relu(channels, width, 3, stride=stride)
        channels = width
    return nn.Sequential(*layers)


def tiny_glancer() -> nn.Sequential:
    """Frames shrunk to 12x12, in which a digit of 10 of 48 pixels can be found and not read; maps (B, 16, 6, 6)."""
    return nn.Sequential(Shrink(12), *small_convs(3, (8, 16, 16), (1, 2, 1)))


def tiny_settings(widths: tuple[int, int, int] = (16, 32, 64)) -> dict[str, Any]:
    """What both networks for a laptop are made of: frames of 48x48 pixels, and a focuser of these widths.

    The focuser's maps are (B, widths[-1], P / 4, P / 4) for windows of P pixels.
    """
    return {
        "glancer": tiny_glancer(),
        "focuser": small_convs(3, widths, (1, 2, 2)),
        "size": 48,
        "pool": "mean_max",
        "squeeze": 8,
        "policy_width": 64,
        "width": 64,
        "dropout": 0.0,
    }


def mobilenet_v2() -> nn.Module:
    """torchvision's, to the last convolution: (B, 3, h, w) -> (B, 1280, h/32, w/32), sides rounded up."""
    from torchvision import models

    return models.mobilenet_v2(weights=None).features


def resnet50() -> nn.Module:
    """torchvision's, to the last stage: (B, 3, h, w) -> (B, 2048, h/32, w/32), sides rounded up."""
    from torchvision import models

    trunk = models.resnet50(weights=None)
    del trunk.avgpool, trunk.fc
    return nn.Sequential(OrderedDict(trunk.named_children()))  # in the order of `forward`, under their own names
