"""The masked convolution as operators of torch: forward, into a given tensor, and the two gradients.

Each hands over to the gather or the Triton implementation. Opaque to the compiler, they work under
`torch.compile(fullgraph=True)` on machines with and without a GPU, and the number of active positions stays on the
device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels import conv_dense, conv_gather, conv_triton
from course_lib.kernels.compaction import ActiveSet, expand
from course_lib.kernels.conv_gather import Epilogue, empty
from course_lib.kernels.geometry import Geometry
from course_lib.kernels.operators import differentiate, once_only, operator, written
from course_lib.measure.macs import register_macs


def _worth_skipping(active: ActiveSet, geometry: Geometry, weight: Tensor) -> bool:
    """On the CPU: whether to gather rather than to compute all, by the share of active positions.

    Break-even as measured on one core: a short product is over before its rows are copied.
    """
    total = active.mask.shape[0] * geometry.out_size[0] * geometry.out_size[1]
    reduction = weight[0].numel()
    share = 0.35 if reduction < 128 else 0.5 if reduction < 1024 else 0.6
    return int(active.cnt) * active.granularity**2 <= share * total


def _skipped(active: ActiveSet) -> Tensor:
    """Flat positions that are not active: where almost all are, writing these is cheaper than masking the rest."""
    return active.to_mask().logical_not().flatten().nonzero().view(-1)


def _fresh(
    input: Tensor, weight: Tensor, active: ActiveSet, epilogue: Epilogue, geometry: Geometry, backend: str
) -> Tensor:
    """A result with the active rows computed and the others 0."""
    shape = (input.shape[0], weight.shape[0], *geometry.out_size)
    if 0 not in shape and backend == "auto" and not _worth_skipping(active, geometry, weight):
        whole = conv_dense.everywhere(input, weight, geometry, epilogue)
        if int(active.cnt) < active.mask.numel():
            conv_gather.as_rows(whole).index_fill_(0, _skipped(active), 0)
        return whole
    out = empty(shape, input).zero_()
    _into(out, input, weight, active, epilogue, geometry, backend)
    return out


def _into(
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    active: ActiveSet,
    epilogue: Epilogue,
    geometry: Geometry,
    backend: str,
) -> None:
    """Write the active rows of `out`, whose channels come last."""
    if out.numel() == 0:
        return
    if backend == "auto" and not _worth_skipping(active, geometry, weight):
        whole, kept = conv_dense.everywhere(input, weight, geometry, epilogue), _skipped(active)
        conv_gather.as_rows(whole).index_copy_(0, kept, conv_gather.as_rows(out).index_select(0, kept))
        out.copy_(whole)
        return
    implementation = conv_triton if backend == "triton" else conv_gather
    implementation.forward(input, weight, active, geometry, epilogue, out)


_LISTS = "Tensor idx, Tensor cnt, Tensor mask"
_HOW = "int[] geometry, int granularity, str backend"


def _fake(input: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return empty((input.shape[0], weight.shape[0], *Geometry.of(rest[6]).out_size), input)


@operator(
    f"masked_conv2d(Tensor input, Tensor weight, {_LISTS}, Tensor? scale, Tensor? shift, Tensor? residual, "
    "int[] geometry, int granularity, bool relu, str backend) -> Tensor",
    fake=_fake,
)
def _masked_conv2d(
    input: Tensor,
    weight: Tensor,
    idx: Tensor,
    cnt: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    geometry: list[int],
    granularity: int,
    relu: bool,
    backend: str,
) -> Tensor:
    where = Geometry.of(geometry)
    active = ActiveSet(idx, cnt, mask, where.out_size, granularity)
    return _fresh(input, weight, active, Epilogue(scale, shift, residual, relu), where, backend)


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the stretches of memory the two lie in have anything in common."""
    first, second = (
        (
            t.data_ptr(),
            t.data_ptr() + (sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1) * t.itemsize,
        )
        for t in (a, b)
    )
    return bool(a.numel() and b.numel()) and first[0] < second[1] and second[0] < first[1]


@operator(
    f"masked_conv2d_out(Tensor(a!) out, Tensor input, Tensor weight, {_LISTS}, Tensor? scale, Tensor? shift, "
    "Tensor? residual, bool in_place, int[] geometry, int granularity, bool relu, str backend) -> ()",
    fake=lambda *_: None,
)
def _masked_conv2d_out(
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    idx: Tensor,
    cnt: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    in_place: bool,
    geometry: list[int],
    granularity: int,
    relu: bool,
    backend: str,
) -> None:
    if _overlap(out, input):
        raise ValueError("out: shares its memory with input, whose rows other positions still read; use another tensor")
    where = Geometry.of(geometry)
    active = ActiveSet(idx, cnt, mask, where.out_size, granularity)
    target = out.contiguous(memory_format=torch.channels_last)  # itself, where its channels come last
    epilogue = Epilogue(scale, shift, target if in_place else residual, relu)
    _into(target, input, weight, active, epilogue, where, backend)
    if target is not out:
        out.copy_(target)
    written(out)


def _fake_input(grad: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    geometry = Geometry.of(rest[3])
    return empty((grad.shape[0], weight.shape[1] * geometry.groups, *geometry.in_size), grad)


@operator(f"masked_conv2d_input_grad(Tensor grad, Tensor weight, {_LISTS}, {_HOW}) -> Tensor", fake=_fake_input)
def _input_grad(
    grad: Tensor,
    weight: Tensor,
    idx: Tensor,
    cnt: Tensor,
    mask: Tensor,
    geometry: list[int],
    granularity: int,
    backend: str,
) -> Tensor:
    where = Geometry.of(geometry)
    active = ActiveSet(idx, cnt, mask, where.out_size, granularity)
    return (conv_triton if backend == "triton" else conv_gather).input_grad(grad, weight, active, where)


def _fake_weight(grad: Tensor, input: Tensor, *rest: Any) -> Tensor:
    geometry = Geometry.of(rest[3])
    return empty((grad.shape[1], input.shape[1] // geometry.groups, *geometry.kernel), grad)


@operator(f"masked_conv2d_weight_grad(Tensor grad, Tensor input, {_LISTS}, {_HOW}) -> Tensor", fake=_fake_weight)
def _weight_grad(
    grad: Tensor,
    input: Tensor,
    idx: Tensor,
    cnt: Tensor,
    mask: Tensor,
    geometry: list[int],
    granularity: int,
    backend: str,
) -> Tensor:
    where = Geometry.of(geometry)
    active = ActiveSet(idx, cnt, mask, where.out_size, granularity)
    return (conv_triton if backend == "triton" else conv_gather).weight_grad(grad, input, active, where)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, idx, cnt, mask, scale, shift, _, ctx.geometry, ctx.granularity, relu, ctx.backend = inputs
    ctx.shift_dtype = None if shift is None else shift.dtype
    ctx.save_for_backward(input, weight, idx, cnt, mask, scale, output if relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, idx, cnt, mask, scale, output = ctx.saved_tensors
    kept = expand(mask, Geometry.of(ctx.geometry).out_size, ctx.granularity)
    if output is not None:
        kept = kept & (output > 0)
    grad = torch.where(kept, grad, 0)
    wanted = ctx.needs_input_grad
    d_input = d_weight = d_scale = d_shift = None
    how = (idx, cnt, mask, ctx.geometry, ctx.granularity, ctx.backend)
    if wanted[6]:
        d_shift = grad.sum((0, 2, 3), dtype=torch.promote_types(grad.dtype, ctx.shift_dtype)).to(ctx.shift_dtype)
    if wanted[1] or wanted[5]:
        of_sums = torch.ops.course_lib.masked_conv2d_weight_grad(grad, input, *how)
        if wanted[5]:  # sum_p grad[p] sum_k x[p, k] W[k], with the sums exchanged
            d_scale = (of_sums.to(scale.dtype) * weight).sum((1, 2, 3), dtype=scale.dtype)
        d_weight = of_sums if scale is None else (of_sums * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    if wanted[0]:
        scaled = grad if scale is None else grad * scale.to(grad.dtype).view(1, -1, 1, 1)
        d_input = torch.ops.course_lib.masked_conv2d_input_grad(scaled, weight, *how)
    d_residual = grad if wanted[7] else None
    return d_input, d_weight, None, None, None, d_scale, d_shift, d_residual, None, None, None, None


differentiate("masked_conv2d", _backward, _save)
once_only("masked_conv2d_input_grad")
once_only("masked_conv2d_weight_grad")


def _macs(weight: Tensor, mask: Tensor, geometry: list[int], granularity: int) -> int:
    """Every active position multiplies each weight once."""
    return int(expand(mask, Geometry.of(geometry).out_size, granularity).sum()) * weight.numel()


def _macs_forward(_: Tensor, weight: Tensor, *rest: Any, out: Any = None) -> int:
    return _macs(weight, rest[2], rest[6], rest[7])


def _macs_out(_: Tensor, input: Tensor, weight: Tensor, *rest: Any, out: Any = None) -> int:
    return _macs(weight, rest[2], rest[7], rest[8])


functional = torch.ops.course_lib.masked_conv2d
into = torch.ops.course_lib.masked_conv2d_out
register_macs(functional, _macs_forward)
register_macs(into, _macs_out)
