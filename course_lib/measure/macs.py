"""Multiply-adds of a module: torch's flop counter, with what it leaves out put right.

What counts: every multiply-add of a convolution, a matrix product, attention, a recurrent layer. What counts 0: bias,
normalisation, activation, pooling, interpolation, embedding look-up. torch's counter gives 0 for `nn.LSTM` (one fused
operation without a formula), for `nn.TransformerEncoderLayer` in eval mode (the same) and for every custom operation;
a wrong 0 looks like a fast network, so here an operation with weights that contributes nothing is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from course_lib.measure.observe import observing, own_parameters, tensors_in

aten = torch.ops.aten
Formula = Callable[..., int]

_formulas: dict[Any, Formula] = {}


def register_macs(op: Any, formula: Formula) -> None:
    """Tell `count_macs` what one of our own operations costs.

    Args:
        op: `torch.ops.<namespace>.<name>`, or one of its overloads.
        formula: called as `formula(*args, out=result, **kwargs)` with what the operation was called with, tensors
            included, so that the cost may depend on values (active positions). Returns multiply-adds.
    """
    op = getattr(op, "overloadpacket", op)
    if not isinstance(op, torch._ops.OpOverloadPacket):
        raise TypeError(f"op: got {op!r}, expected an operation such as torch.ops.namespace.name")

    def flops(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return 2 * int(formula(*args, out=out_val, **kwargs))

    flops._get_raw = True  # type: ignore[attr-defined]  # torch then passes tensors instead of shapes
    _formulas[op] = flops


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of `module(*inputs)`, for the whole batch given; a batch of one gives the cost per sample.

    The module runs once, without gradients, in the mode it is in; its buffers and the random state are put back.

    Raises:
        NotImplementedError: an operation with weights ran whose cost is not known (see `register_macs`).

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 16, 16)) == 16 * 16 * 8 * 3 * 9
    True
    """
    return macs_per_module(module, *inputs)[""]


def macs_per_module(module: nn.Module, *inputs: Any) -> dict[str, int]:
    """Multiply-adds of every submodule that ran, by qualified name, summed over its calls; `""` is the whole.

    A module's number contains its children's. What did not run is absent. Raises as `count_macs` does.

    >>> macs_per_module(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4))
    {'': 12, '0': 12, '1': 0}
    """
    counter = FlopCounterMode(display=False, custom_mapping=_formulas)
    macs: dict[nn.Module, int] = {}
    counted: set[nn.Module] = set()
    entered: list[tuple[int, int]] = []

    def enter(_: nn.Module) -> None:
        entered.append((counter.get_total_flops(), witness.counted))

    def leave(m: nn.Module, *_: Any) -> None:
        flops, operations = entered.pop()
        spent = counter.get_total_flops() - flops
        macs[m] = macs.get(m, 0) + spent // 2
        if spent or witness.counted > operations:  # an empty batch costs 0 and is counted all the same
            counted.add(m)

    with observing(module, leave, enter), _fused_paths_off(), counter:
        witness = _Witness(module, known=set(counter.flop_registry))
        with witness:
            module(*inputs)
    for name, m in module.named_modules():
        if m in macs and m not in counted:
            witness.check(name, m)
    return {name: macs[m] for name, m in module.named_modules() if m in macs}


@contextmanager
def _fused_paths_off() -> Iterator[None]:
    """The fused transformer layer is one opaque operation; the ordinary path computes the same in parts that count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Where a weight matrix may legitimately go without a multiply-add being counted: look-ups, sums, scales, norms.
_FREE = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "lerp", "where", "cat", "stack", "_prelu_kernel"),
    *("embedding", "embedding_renorm_", "_embedding_bag", "_embedding_bag_forward_only", "index_select", "index"),
    *("gather", "native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm"),
}


class _Witness(TorchDispatchMode):
    """Sees which operations the weights (parameters with two dimensions or more) go into."""

    supports_higher_order_operators = True

    def __init__(self, module: nn.Module, known: set[Any]):
        super().__init__()
        self.known = known
        self.counted = 0
        self.used: set[int] = set()
        self.weights = {
            _storage(p): name for name, p in module.named_parameters() if not nn.parameter.is_lazy(p) and p.ndim >= 2
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "overloadpacket", func)
        if packet in self.known:
            self.counted += 1
            return out
        given = list(tensors_in((args, kwargs or {})))
        weights = [_storage(t) for t in given if _storage(t) in self.weights]
        if weights and getattr(func, "namespace", "") not in ("aten", "prims", "prim"):
            raise NotImplementedError(
                f"count_macs: the operation {func} ran with the weight {self.weights[weights[0]]!r} and has no "
                "formula; give it one with measure.register_macs(op, formula)"
            )
        if weights and str(packet).removeprefix("aten.") in _FREE:
            results = list(tensors_in(out))
            # An outer product summed afterwards is a matrix product in disguise; its result outgrows its arguments.
            if "mul" not in str(packet) or results[0].numel() <= max(t.numel() for t in given):
                self.used.update(weights)
        return out

    def check(self, name: str, module: nn.Module) -> None:
        """Raise if `module`, in which nothing was counted, has a weight whose use was not seen to be free."""
        for weight_name, weight in own_parameters(module):
            if _storage(weight) in self.weights and _storage(weight) not in self.used:
                raise NotImplementedError(
                    f"count_macs: {name or 'the module'} ({type(module).__name__}) ran, but no operation with its "
                    f"{weight_name!r} has a known formula; a custom operation gets one with "
                    "measure.register_macs(op, formula)"
                )


def _storage(tensor: Tensor) -> int:
    """What a weight and its views have in common, also on the meta device."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)


def _rnn_layer(x: Tensor, w_input: Tensor, w_hidden: Tensor, *_: Any, **__: Any) -> int:
    """One layer, one direction (CPU): each step multiplies its input and its state by one matrix each."""
    steps = math.prod(x.shape[:-1])  # (time, batch), or all steps of a packed sequence
    return steps * (w_input.numel() + w_hidden.numel())


def _cudnn_rnn(x: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    """All layers and directions (cuDNN): every matrix in the list is used once a step."""
    return math.prod(x.shape[:-1]) * sum(w.numel() for w in weights if w.ndim >= 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Every query meets every key, and every value once more; torch before 2.15 has no formula for it on the CPU."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


register_macs(aten._scaled_dot_product_flash_attention_for_cpu, _attention)
register_macs(aten.mkldnn_rnn_layer, _rnn_layer)
register_macs(aten._cudnn_rnn, _cudnn_rnn)
register_macs(aten.dot, lambda a, b, **_: a.numel())
register_macs(aten.mv, lambda matrix, vector, **_: matrix.numel())
for _op in (aten.addmv, aten.addmv_):
    register_macs(_op, lambda bias, matrix, vector, **_: matrix.numel())
for _op in (aten.addmm_, aten._addmm_activation, aten.addbmm, aten.addbmm_, aten.baddbmm_):
    register_macs(_op, lambda bias, a, b, **_: a.numel() * b.shape[-1])
