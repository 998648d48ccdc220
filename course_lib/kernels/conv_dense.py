"""The masked convolution computed at every position: what it means, and what it costs at least without a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels import conv_gather
from course_lib.kernels.conv_gather import Epilogue
from course_lib.kernels.geometry import Geometry


def _convolve(input: Tensor, weight: Tensor, shift: Tensor | None, geometry: Geometry) -> Tensor:
    """The dense convolution of this geometry."""
    (height, width), (top, left) = geometry.in_size, geometry.pad
    (ho, wo), (sh, sw), (reach_h, reach_w) = geometry.out_size, geometry.stride, geometry.reach
    below, right = (ho - 1) * sh + reach_h - height - top, (wo - 1) * sw + reach_w - width - left
    padding = (top, left)
    if below > top or right > left:  # an even kernel with padding="same"
        input, padding = F.pad(input, (left, max(right, 0), top, max(below, 0))), (0, 0)
    return F.conv2d(input, weight, shift, geometry.stride, padding, geometry.dilation, geometry.groups)


def reference(input: Tensor, weight: Tensor, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """The definition at every position; the caller masks it."""
    y = _convolve(input, weight, None, geometry)
    if epilogue.scale is not None:
        y = y * epilogue.scale.to(y.dtype).view(1, -1, 1, 1)
    if epilogue.shift is not None:
        y = y + epilogue.shift.to(y.dtype).view(1, -1, 1, 1)
    if epilogue.residual is not None:
        y = y + epilogue.residual
    return y.relu() if epilogue.relu else y


def dense(input: Tensor, weight: Tensor, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """As `reference`, with scale and shift inside the convolution: fewer passes over the result."""
    if epilogue.scale is not None:
        weight = weight * epilogue.scale.to(weight.dtype).view(-1, 1, 1, 1)
    y = _convolve(input, weight, None if epilogue.shift is None else epilogue.shift.to(input.dtype), geometry)
    if epilogue.residual is not None:
        y = y.add_(epilogue.residual)
    return y.relu_() if epilogue.relu else y


def everywhere(input: Tensor, weight: Tensor, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """`dense` without gradients, channels last; a 1x1 convolution takes the faster product."""
    one = geometry.kernel == geometry.stride == (1, 1) and geometry.in_size == geometry.out_size
    if one and geometry.groups == 1:
        return conv_gather.everywhere(input, weight, geometry, epilogue)
    whole = dense(input.contiguous(memory_format=torch.channels_last), weight, geometry, epilogue)
    return whole.contiguous(memory_format=torch.channels_last)
