"""Convolutions and residual blocks that compute the positions a mask asks for, and equal the dense ones there.

A block with input x, mask m at the output's resolution and three convolutions F gives y = relu(identity + m F(x)).
conv1 runs on the positions that an active output looks at (the halo), conv2 and conv3 on the active ones.
As in DynConv (arXiv 1912.03203) and LASNet (arXiv 2210.06223), whose published code multiplies dense results by the
mask. Here the skipped work is skipped, on `course_lib.kernels`; one mask, one list, one dilation serve a whole block.

Learned masks are trained on dense features: the gradient of m[p] is <dL/dy[p], F(x)[p]> at every p, also where
nothing was computed, so a sparse forward could switch positions off but never on again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from course_lib import kernels
from course_lib.decision.estimators import gumbel_softmax
from course_lib.kernels import ActiveSet
from course_lib.kernels.compaction import expand
from course_lib.spatial._masks import BREAK_EVEN, DensityEstimate, random_mask

__all__ = [
    "BREAK_EVEN",
    "Backend",
    "DensityEstimate",
    "MaskedBottleneck",
    "MaskedConv2d",
    "SpatialMasker",
    "conv_norm",
    "positions_of",
    "random_mask",
    "sparse_branch",
]

_SMALL = 32e6  # multiply-adds of a block

Backend = kernels.Backend
Mask = Tensor | ActiveSet


class MaskedConv2d(nn.Conv2d):
    """`nn.Conv2d`, computed at active output positions only: exact there, exact 0 elsewhere. Same state dict.

    >>> conv = MaskedConv2d(3, 8, 3, padding=1)
    >>> corner = torch.zeros(1, 1, 2, 2)
    >>> corner[0, 0, 0, 0] = 1
    >>> y = conv(torch.randn(1, 3, 8, 8), corner, granularity=4)
    >>> int(y[0, 0].count_nonzero())
    16
    """

    backend: Backend = "auto"

    def forward(self, input: Tensor, mask: Mask | None = None, *, granularity: int = 1) -> Tensor:
        """Convolve where `mask` says.

        Args:
            input: (N, Cin, H, W), any strides.
            mask: (N, 1, ceil(Ho / S), ceil(Wo / S)) bool, or real numbers that count from 0.5; or an `ActiveSet`;
                None: everywhere. One that requires a gradient is multiplied with the dense result.
            granularity: S, the side of the mask's cells.

        Returns:
            (N, Cout, Ho, Wo). Raises as `kernels.masked_conv2d`.
        """
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        how = (self.stride, padding, self.dilation, self.groups)
        if mask is None:
            return functional.conv2d(input, self.weight, self.bias, *how)
        if isinstance(mask, Tensor) and mask.requires_grad:
            y = functional.conv2d(input, self.weight, self.bias, *how)
            return y * positions_of(mask, granularity, y.shape, y.dtype)
        return kernels.masked_conv2d(
            input, self.weight, self.bias, mask, *how, granularity=granularity, backend=self.backend
        )


class MaskedBottleneck(nn.Module):
    """The 1x1, 3x3, 1x1 block of a ResNet with a mask on its residual branch; made by `from_dense`.

    Attributes are named as in torchvision's `Bottleneck`, and so is the state dict. `backend`: "auto" skips work where
    that is faster (see `estimate`; small blocks on a CPU never do) and computes everything otherwise; "gather" and
    "triton" always skip, "dense" and "reference" never. Results agree to rounding, so that a switch of "auto" changes
    low bits: use a fixed one where that matters.
    """

    def __init__(self, block: nn.Module, *, backend: Backend = "auto", break_even: float = BREAK_EVEN) -> None:
        super().__init__()
        _check_block(block)
        own: Any = copy.deepcopy(block)
        self.conv1, self.bn1 = own.conv1, own.bn1
        self.conv2, self.bn2 = own.conv2, own.bn2
        self.conv3, self.bn3 = own.conv3, own.bn3
        self.downsample: nn.Module | None = own.downsample
        self.backend: Backend = backend
        self.estimate = DensityEstimate(break_even)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_dense(
        cls, block: nn.Module, *, backend: Backend = "auto", break_even: float = BREAK_EVEN
    ) -> MaskedBottleneck:
        """A masked copy of torchvision's `Bottleneck` (groups, width, stride and dilation as they are).

        Args:
            block: a module with conv1 (1x1), bn1, conv2 (3x3), bn2, conv3 (1x1), bn3 and downsample (or None).
            backend: see the class.
            break_even: share of active cells from which "auto" computes everything.

        Raises:
            TypeError: a part is missing. ValueError: conv1 or conv3 is not a plain 1x1 convolution.
        """
        return cls(block, backend=backend, break_even=break_even).train(block.training)

    def fold_bn_(self) -> MaskedBottleneck:
        """Fold every BatchNorm into the convolution before it, in place; RuntimeError in training mode."""
        if self.training:
            raise RuntimeError("fold_bn_: the block is in training mode; call eval() first")
        for k in (1, 2, 3):
            conv, norm = getattr(self, f"conv{k}"), getattr(self, f"bn{k}")
            if isinstance(norm, nn.BatchNorm2d):
                setattr(self, f"conv{k}", fuse_conv_bn_eval(conv, norm))
                setattr(self, f"bn{k}", nn.Identity())
        shortcut = self.downsample
        if isinstance(shortcut, nn.Sequential) and len(shortcut) == 2 and isinstance(shortcut[1], nn.BatchNorm2d):
            conv = shortcut[0]
            assert isinstance(conv, nn.Conv2d)
            self.downsample = nn.Sequential(fuse_conv_bn_eval(conv, shortcut[1]), nn.Identity())
        return self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, mask: Mask, *, granularity: int = 1, inplace: bool = False) -> Tensor:
        """relu(identity + mask * F(x)).

        Everything is computed and multiplied where the mask requires a gradient, and where a BatchNorm is in training
        mode: its statistics are those of the unmasked features.

        Args:
            x: (N, C, H, W), any values and strides.
            mask: (N, 1, ceil(Ho / S), ceil(Wo / S)) as for `kernels.masked_conv2d`, or an `ActiveSet`.
            granularity: S, the side of the mask's cells at the output's resolution.
            inplace: the result may overwrite `x`, which saves a pass over it. It does where work is skipped, there is
                no downsample branch and channels come last in memory.

        Returns:
            (N, Cout, Ho, Wo). Raises as `kernels.masked_conv2d`.
        """
        if x.ndim != 4:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, C, H, W)")
        size = self.out_size(x.shape[2:])
        learned = isinstance(mask, Tensor) and mask.requires_grad
        cells = _cells(mask, granularity, size, x)
        if learned or self.backend == "reference" or any(n.training for n in self._norms()):
            y = self._branch(x)
            return functional.relu(self._identity(x) + y * positions_of(mask, granularity, y.shape, y.dtype))
        # A given mask has no gradient to lose: the sparse path trains weights and inputs, too. What writes in place
        # does neither that, nor mix types as autocast wants.
        wanted = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        plain = wanted or torch.is_autocast_enabled(x.device.type)
        small = self._small(x)
        if self._computes_everything(cells.flags, small):
            return self._join(x, self._branch(x) if plain or small else self._everything(x), cells)
        active = cells.listed()
        halo = self._halo(active, x)
        if not plain:
            return self._sparse(x, active, halo, inplace)
        how = self._sparse_backend(x)
        h = conv_norm(self.conv1, self.bn1, x, halo, relu=True, backend=how)
        h = conv_norm(self.conv2, self.bn2, h, active, relu=True, backend=how)
        return functional.relu(self._identity(x) + conv_norm(self.conv3, self.bn3, h, active, backend=how))

    def _sparse(self, x: Tensor, active: ActiveSet, halo: ActiveSet, inplace: bool) -> Tensor:
        """Active positions only; may overwrite the identity where it is not the caller's `x`, or where he says so."""
        how = self._sparse_backend(x)
        rows = x.contiguous(memory_format=torch.channels_last)
        identity = self._identity(rows).contiguous(memory_format=torch.channels_last)
        owned = inplace or identity is not x
        out = identity if owned else identity.relu()
        nearly = self.backend == "auto" and _nearly_everywhere(halo)
        reads = _whole_map(x, x.shape[2:]) if nearly else halo
        first: Backend = "auto" if nearly else how
        layers = ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        sparse_branch(layers, rows, reads, active, residual=identity, out=out, backend=how, halo_backend=first)
        return out.relu_() if owned else out  # a second time changes nothing where it was computed

    def _halo(self, active: ActiveSet, x: Tensor) -> ActiveSet:
        """The positions of conv1's output that the active outputs look at."""
        window, stride, pad, spread = (_pair(v) for v in self._window())
        return active.dilate(window, stride, pad, spread, in_size=x.shape[2:])

    def _window(self) -> tuple[Any, ...]:
        conv = self.conv2
        return conv.kernel_size, conv.stride, conv.padding, conv.dilation

    def out_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(Ho, Wo) for an input of (H, W): the resolution of the mask."""
        kernel, stride, pad, spread = (_pair(v) for v in self._window())
        rows, columns = ((size[i] + 2 * pad[i] - spread[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
        return rows, columns

    def extra_repr(self) -> str:
        """Shown by `print`."""
        return f"backend={self.backend!r}, break_even={self.estimate.break_even}"

    def _norms(self) -> list[nn.Module]:
        return [norm for norm in (self.bn1, self.bn2, self.bn3) if not isinstance(norm, nn.Identity)]

    def _computes_everything(self, flags: Tensor, small: bool) -> bool:
        if self.backend != "auto":
            return self.backend == "dense"
        return small or (not torch.compiler.is_compiling() and self.estimate.prefers_dense(flags))

    def _small(self, x: Tensor) -> bool:
        """Whether a CPU has computed everything before it would have made a list of what to compute."""
        rows, columns = self.out_size(x.shape[2:])
        each = sum(conv.weight.numel() for conv in (self.conv1, self.conv2, self.conv3))
        return x.device.type == "cpu" and len(x) * rows * columns * each < _SMALL

    def _sparse_backend(self, x: Tensor) -> Backend:
        """The functional "auto" would weigh each convolution by itself, where the block has decided already."""
        wide = min(self.conv2.in_channels, self.conv2.out_channels) // self.conv2.groups >= 16
        return "gather" if self.backend == "auto" and x.device.type == "cpu" and wide else self.backend

    def _identity(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def _branch(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        h = functional.relu(self.bn2(self.conv2(h)))
        return self.bn3(self.conv3(h))

    def _everything(self, x: Tensor) -> Tensor:
        """`_branch` without gradients, BatchNorm as an epilogue."""
        before, after = _whole_map(x, x.shape[2:]), _whole_map(x, self.out_size(x.shape[2:]))
        h = conv_norm(self.conv1, self.bn1, x, before, relu=True)
        h = conv_norm(self.conv2, self.bn2, h, after, relu=True)
        return conv_norm(self.conv3, self.bn3, h, after)

    def _join(self, x: Tensor, y: Tensor, cells: _Cells) -> Tensor:
        identity = self._identity(x)
        if cells.everywhere():
            return functional.relu(identity + y) if y.requires_grad else y.add_(identity).relu_()
        whole = torch.addcmul(identity, y, cells.positions().to(y.dtype))  # the mask costs no pass of its own
        return functional.relu(whole) if whole.requires_grad else whole.relu_()


class SpatialMasker(nn.Module):
    """Decides for every cell of S x S output positions whether it is computed: pooling, then a 1x1 convolution.

    Args:
        in_channels: of the block's input.
        granularity: S.
        stride: of the block; S counts on its output map.
        groups: number of masks, one for each group of channels. A block here takes one.
        bias: of the logits "compute" at the start. Large: networks begin almost dense. The logits "skip" keep
            PyTorch's small random bias (LASNet, arXiv 2210.06223, does the same).
    """

    def __init__(
        self, in_channels: int, *, granularity: int, stride: int = 1, groups: int = 1, bias: float = 5.0
    ) -> None:
        super().__init__()
        for name, value in (("granularity", granularity), ("stride", stride), ("groups", groups)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a whole number, 1 or more")
        self.granularity, self.stride, self.groups = granularity, stride, groups
        self.conv = nn.Conv2d(in_channels, 2 * groups, 1)
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.bias[:groups] = bias

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 * groups, rows, columns): the first half says compute, the second skip."""
        weight = self.conv.weight.flatten(1)
        return kernels.cell_logits(x, weight, self.conv.bias, cell=self.granularity * self.stride).to(x.dtype)

    def forward(self, x: Tensor, tau: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        """The masks of cells (N, groups, rows, columns).

        Training: 0.0 or 1.0, a Gumbel sample at temperature `tau` with the gradient of the soft one. Otherwise bool,
        without noise, in one pass over `x`; where both logits are equal the cell is computed.
        """
        if self.training:
            logits = self.logits(x)
            pairs = logits.view(len(x), 2, self.groups, *logits.shape[2:])
            return gumbel_softmax(pairs, tau=tau, hard=True, dim=1, generator=generator)[:, 0]
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        assert bias is not None
        g = self.groups
        return kernels.cell_mask(x, weight[:g] - weight[g:], bias[:g] - bias[g:], cell=self.granularity * self.stride)


def conv_norm(
    conv: nn.Conv2d,
    norm: nn.Module,
    x: Tensor,
    active: ActiveSet | None,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """A convolution and the BatchNorm behind it (eval mode, or nn.Identity) at active positions, as one operation.

    active: None for everywhere. residual, out: as for `kernels.masked_conv2d`; relu: rectify at the end.
    """
    scale, shift = _affine(norm)
    padding: Any = conv.padding
    return kernels.masked_conv2d(
        x, conv.weight, conv.bias, active, conv.stride, padding, conv.dilation, conv.groups,
        scale=scale, shift=shift, residual=residual, activation="relu" if relu else None, out=out, backend=backend,
    )  # fmt: skip


def sparse_branch(
    layers: Sequence[tuple[nn.Conv2d, nn.Module]],
    x: Tensor,
    halo: ActiveSet | None,
    active: ActiveSet,
    *,
    residual: Tensor,
    out: Tensor,
    between: Callable[[Tensor], Tensor] | None = None,
    backend: Backend = "auto",
    halo_backend: Backend | None = None,
) -> Tensor:
    """relu(residual + F(x)) of a block, F a 1x1, a 3x3 and a 1x1 convolution, written to active positions of `out`.

    Maps between the layers stay uninitialised elsewhere: the 3x3 reads the halo, the last 1x1 what is active.

    Args:
        layers: each convolution with the BatchNorm behind it (eval mode, or nn.Identity).
        x: (N, C, H, W), channels last in memory.
        halo: the positions of x that `active` looks at, or more; None for all.
        residual, out: (N, Cout, Ho, Wo), which may be one and the same, and may be `x`.
        between: applied to the 3x3's whole map, which is then 0 where nothing was computed.
        backend, halo_backend: the second for the first convolution, where it differs.
    """
    (conv1, bn1), (conv2, bn2), (conv3, bn3) = layers
    h = _scratch(x, conv1.out_channels, x.shape[2:])
    conv_norm(conv1, bn1, x, halo, relu=True, out=h, backend=halo_backend or backend)
    g = None if between else _scratch(x, conv2.out_channels, active.size)
    g = conv_norm(conv2, bn2, h, active, relu=True, out=g, backend=backend)
    g = between(g) if between else g
    return conv_norm(conv3, bn3, g, active, relu=True, residual=residual, out=out, backend=backend)


def _scratch(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """An uninitialised map (N, channels, *size) of `like`'s type, channels last in memory."""
    return torch.empty(
        len(like), channels, *size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


class _Cells:
    """A mask checked against the map it is for, listed only when somebody asks."""

    def __init__(self, flags: Tensor, size: tuple[int, int], granularity: int, active: ActiveSet | None) -> None:
        self.flags, self.size, self.granularity, self._active = flags, size, granularity, active

    def listed(self) -> ActiveSet:
        if self._active is None:
            self._active = ActiveSet.from_mask(self.flags, granularity=self.granularity, size=self.size)
        return self._active

    def positions(self) -> Tensor:
        return expand(self.flags, self.size, self.granularity)

    def everywhere(self) -> bool:
        """Whether all are known to be active; a GPU is not asked."""
        return not self.flags.is_cuda and bool(self.flags.all())


def _cells(mask: Mask, granularity: int, size: tuple[int, int], x: Tensor) -> _Cells:
    if isinstance(mask, ActiveSet):
        if granularity not in (1, mask.granularity):
            raise ValueError(f"granularity: got {granularity}, but the ActiveSet given as mask has {mask.granularity}")
        found = _Cells(mask.mask, mask.size, mask.granularity, mask)
    else:
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask: got {got}, expected a tensor of shape (N, 1, rows, columns) or an ActiveSet")
        if mask.is_complex():
            raise TypeError(f"mask: got {mask.dtype}, expected bool or real numbers")
        flags = mask if mask.dtype == torch.bool else mask.detach() >= 0.5
        found = _Cells(flags.contiguous(), size, granularity, None)
    wanted = (len(x), 1, *(-(-extent // found.granularity) for extent in size))
    if tuple(found.flags.shape) != wanted or found.size != size:
        raise ValueError(
            f"mask: got shape {tuple(found.flags.shape)} for maps of {found.size}, expected {wanted} for an input of "
            f"shape {tuple(x.shape)}, whose output map is {size}, with granularity={found.granularity}"
        )
    if found.flags.device != x.device:
        raise ValueError(f"mask: got one on {found.flags.device}, expected it on the input's device {x.device}")
    return found


def positions_of(mask: Mask, granularity: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A mask of cells as numbers (N, 1, Ho, Wo) to multiply with; a learned one keeps its gradient."""
    if isinstance(mask, ActiveSet):
        granularity, mask = mask.granularity, mask.mask
    wanted = (shape[0], 1, *(-(-extent // granularity) for extent in shape[2:]))
    if tuple(mask.shape) != wanted:
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, expected {wanted} for an output of shape {tuple(shape)} with "
            f"granularity={granularity}"
        )
    if not mask.requires_grad and mask.dtype != torch.bool:
        mask = mask >= 0.5
    return expand(mask, shape[2:], granularity).to(dtype)


def _nearly_everywhere(halo: ActiveSet) -> bool:
    """Whether a 1x1 convolution is faster at all positions than at these. Known on the CPU only."""
    on_cpu = not halo.cnt.is_cuda and not torch.compiler.is_compiling()
    return on_cpu and int(halo.cnt) > 0.75 * halo.mask.numel()


def _whole_map(x: Tensor, size: Sequence[int]) -> ActiveSet | None:
    """Every position of a map. On the CPU as one cell, a list that costs nothing to make and is multiplied faster."""
    if x.device.type != "cpu" or 0 in size:
        return None
    every = torch.ones(len(x), 1, 1, 1, dtype=torch.bool)
    return ActiveSet.from_mask(every, granularity=max(size), size=size)


def _affine(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """BatchNorm in eval mode as scale and shift; none for what `fold_bn_` has left."""
    if isinstance(norm, nn.Identity):
        return None, None
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"norm: got {norm}, expected BatchNorm2d with running statistics, or nn.Identity")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is None:
        return scale, -norm.running_mean * scale
    scale = norm.weight * scale
    return scale, norm.bias - norm.running_mean * scale


def _check_block(block: nn.Module) -> None:
    """Raise unless the block is built like torchvision's Bottleneck."""
    for k, kind in ((1, "1x1"), (2, "3x3"), (3, "1x1")):
        conv, norm = getattr(block, f"conv{k}", None), getattr(block, f"bn{k}", None)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, (nn.BatchNorm2d, nn.Identity)):
            raise TypeError(
                f"block: got {type(block).__name__} with conv{k} {conv} and bn{k} {norm}, expected a {kind} Conv2d and "
                "a BatchNorm2d, as in torchvision's Bottleneck"
            )
        plain = (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        if conv.padding_mode != "zeros" or (k != 2 and not plain):
            raise ValueError(f"block: got conv{k} {conv}, expected a {kind} convolution padded with zeros")
    if not hasattr(block, "downsample"):
        raise TypeError(f"block: got {type(block).__name__} without downsample, expected a module or None there")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
