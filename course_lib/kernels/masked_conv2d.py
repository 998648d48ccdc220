"""A convolution that computes only the output positions a mask asks for, exactly.

    y[p, :] = act(scale * (sum_t x[in(p, t), :] W_t + bias) + shift + residual[p, :])     where the mask is set
    y[p, :] = 0, or what `out` held                                                       elsewhere

This is no submanifold convolution: inactive *outputs* are skipped, no input is taken for zero, so the active outputs
are those of the dense convolution. It is what spatially adaptive inference needs (survey, arXiv 2102.04906, section
3.1; LASNet, arXiv 2210.06223; DynConv, arXiv 1912.03203), whose published code multiplies dense results by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from course_lib.kernels import _triton, conv_dense, conv_operators, conv_triton
from course_lib.kernels.compaction import ActiveSet, unlisted
from course_lib.kernels.conv_gather import Epilogue
from course_lib.kernels.geometry import Geometry, Padding, resolve

Backend = Literal["auto", "reference", "gather", "triton", "dense"]


def masked_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | ActiveSet | None = None,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    granularity: int = 1,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    activation: Literal["relu"] | None = None,
    out: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`conv2d`, computed at the active output positions only; exact 0 at the others.

    Gradients reach input, weight, bias, scale, shift and residual from active positions; there are no second
    derivatives. Under autocast it computes in autocast's type, as `conv2d` does.

    Args:
        input: (N, Cin, H, W), any strides; copied once unless its channels come last in memory. So is what follows.
        weight: (Cout, Cin / groups, kh, kw).
        bias: (Cout,)
        mask: active output positions: (N, 1, ceil(Ho / S), ceil(Wo / S)), bool, or real numbers that count from 0.5;
            or an `ActiveSet`, which a block's convolutions can share. None: all.
        stride, padding, dilation, groups: as for `conv2d`; padding may be "same" or "valid".
        granularity: S, the side of the mask's cells.
        scale, shift: (Cout,), a folded BatchNorm.
        residual: (N, Cout, Ho, Wo), added before the activation.
        activation: None or "relu".
        out: (N, Cout, Ho, Wo) to write the active positions to; the others keep their bits. It may be `residual`, not
            `input`. No gradients.
        backend: "reference" is the definition, dense and then masked; "dense" the same without waste; "gather" copies
            rows and multiplies them; "triton" is the GPU kernel. "auto" is triton on a GPU where it is made for the
            type and groups, and on a CPU gather or dense, whichever the number of active positions favours; to find
            that out takes up to 0.1 ms, which is what a mask costs where everything is active.

    Returns:
        (N, Cout, Ho, Wo), channels last in memory; or `out`.

    Raises:
        ValueError: sizes that do not fit, naming both; a mask that requires a gradient; `out` overlapping `input`.
        TypeError: types that do not fit. RuntimeError: triton where it cannot run; `out` together with gradients.

    >>> x, weight = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 3, 3)
    >>> corner = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0]]).view(1, 1, 3, 3)
    >>> masked_conv2d(x, weight, mask=corner, padding=1)[0, 0].tolist()
    [[8.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    geometry = resolve(input, weight, stride, padding, dilation, groups)
    input, weight, bias, scale, shift, residual = _autocast(input, weight, bias, scale, shift, residual)
    _check(geometry, input, weight, bias, scale, shift, residual, out, activation, backend)
    chosen = _choose(backend, input, weight, geometry)
    active = None if mask is None else _active(mask, granularity, geometry, input, chosen)
    epilogue = Epilogue(scale, _shift(bias, scale, shift), residual, activation == "relu")
    if active is None or chosen in ("reference", "dense"):
        return _everywhere(input, weight, active, geometry, epilogue, out, chosen)
    return _where_active(input, weight, active, geometry, epilogue, out, chosen)


def _everywhere(
    input: Tensor,
    weight: Tensor,
    active: ActiveSet | None,
    geometry: Geometry,
    epilogue: Epilogue,
    out: Tensor | None,
    backend: str,
) -> Tensor:
    """Compute every position, then choose."""
    compute = conv_dense.reference if backend == "reference" else conv_dense.dense
    whole = compute(input, weight, geometry, epilogue)
    if active is not None:
        whole = torch.where(active.to_mask(), whole, 0 if out is None else out)
    return whole.contiguous(memory_format=torch.channels_last) if out is None else out.copy_(whole)


def _where_active(
    input: Tensor,
    weight: Tensor,
    active: ActiveSet,
    geometry: Geometry,
    epilogue: Epilogue,
    out: Tensor | None,
    backend: str,
) -> Tensor:
    """Compute the active positions, through the operators."""
    tensors = (input, weight, active.idx, active.cnt, active.mask, epilogue.scale, epilogue.shift)
    how = (geometry.flat(), active.granularity, epilogue.relu, backend)
    if out is None:
        return conv_operators.functional(*tensors, epilogue.residual, *how)
    in_place = epilogue.residual is out
    conv_operators.into(out, *tensors, None if in_place else epilogue.residual, in_place, *how)
    return out


def _shift(bias: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor | None:
    """scale * (sum + bias) + shift is scale * sum + (scale * bias + shift): what stands in the last brackets.

    Not rounded to half precision on the way, for it decides what a rectifier lets through.
    """
    if bias is None or (scale is None and shift is None):
        return shift if bias is None else bias
    wide = bias.to(torch.promote_types(bias.dtype, torch.float32))
    wide = wide if scale is None else wide * scale
    return wide if shift is None else wide + shift


def _autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Input, weight, bias, scale, shift, residual as autocast wants them; scale and shift may stay float32."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.dtype == torch.float32 and i in (0, 1, 5) else t
        for i, t in enumerate(tensors)
    )


def _check(
    geometry: Geometry,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    out: Tensor | None,
    activation: str | None,
    backend: str,
) -> None:
    """Raise where the arguments do not fit together."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(get_args(Backend))}")
    if activation not in (None, "relu"):
        raise ValueError(f"activation: got {activation!r}, expected None or 'relu'")
    if not input.is_floating_point():
        raise TypeError(f"input: got {input.dtype}, expected a floating point type")
    channels = (weight.shape[0],)
    full = (input.shape[0], weight.shape[0], *geometry.out_size)
    shapes = {"weight": weight.shape, "bias": channels, "scale": channels, "shift": channels}
    tensors = {"weight": weight, "bias": bias, "scale": scale, "shift": shift, "residual": residual, "out": out}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shapes.get(name, full)):
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(shapes.get(name, full))}")
        if tensor.device != input.device:
            raise ValueError(f"{name}: got one on {tensor.device}, expected it on the input's device {input.device}")
        if name in ("weight", "residual", "out") and tensor.dtype != input.dtype:
            raise TypeError(f"{name}: got {tensor.dtype}, expected the input's {input.dtype}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: got {tensor.dtype}, expected a floating point type")
    given = [t for t in (input, *tensors.values()) if t is not None]
    if out is not None and torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise RuntimeError("out: given together with tensors that require a gradient; use torch.no_grad(), or no out")


def _active(mask: Tensor | ActiveSet, granularity: int, geometry: Geometry, input: Tensor, backend: str) -> ActiveSet:
    """The mask as an ActiveSet, checked against the input; listed where the backend reads the list."""
    if isinstance(mask, Tensor) and mask.device != input.device:
        raise ValueError(f"mask: got one on {mask.device}, expected it on the input's device {input.device}")
    if not isinstance(mask, ActiveSet):
        lists = backend == "triton" or input.is_cuda
        make = ActiveSet.from_mask if lists else unlisted
        mask = make(mask, granularity=granularity, size=geometry.out_size)
    elif granularity not in (1, mask.granularity):
        raise ValueError(f"granularity: got {granularity}, but the ActiveSet given as mask has {mask.granularity}")
    got, expected = (mask.mask.shape[0], 1, *mask.size), (input.shape[0], 1, *geometry.out_size)
    if got != expected:
        raise ValueError(f"mask: got one for outputs of shape {got}, expected {expected}")
    if mask.mask.device != input.device:
        raise ValueError(f"mask: got one on {mask.mask.device}, expected it on the input's device {input.device}")
    return mask


def _choose(backend: Backend, input: Tensor, weight: Tensor, geometry: Geometry) -> str:
    """The backend that will run; RuntimeError where a wanted one cannot."""
    if backend == "triton":
        _triton.require(backend, input, weight)
        if input.dtype not in conv_triton.DTYPES:
            raise TypeError(f"input: got {input.dtype}, backend 'triton' computes float16, bfloat16 and float32")
    if backend != "auto":
        return backend
    depthwise = weight.shape[1] == 1 and weight.shape[0] == geometry.groups
    narrow = geometry.groups > 1 and min(weight.shape[1], weight.shape[0] // geometry.groups) < 16
    if narrow and not depthwise:  # a tile would be mostly padding
        return "dense"
    if input.is_cuda:
        if input.dtype in conv_triton.DTYPES and _triton.runs_on(input.device):
            return "triton"
        return "gather" if input.dtype == torch.float64 else "dense"
    return "auto" if input.device.type == "cpu" else "dense"
