"""Making a function an operator of torch: one opaque step for the compiler, for counters and for autograd.

`torch.library.custom_op` would do the same; it imports the compiler at the first call, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def operator(schema: str, *, fake: Callable[..., Any]) -> Callable[[Function], Function]:
    """Register the decorated function as `torch.ops.course_lib.<name>`, for tensors on any device.

    Args:
        schema: name, arguments and results in torch's notation; `Tensor(a!)` is written to.
        fake: called with tensors without data, gives results without data but of the right shape, type and strides.
    """
    name = f"course_lib::{schema.split('(')[0]}"

    def register(fn: Function) -> Function:
        torch.library.define(name, schema.removeprefix(schema.split("(")[0]))
        torch.library.impl(name, "CompositeExplicitAutograd")(fn)
        torch.library.register_fake(name)(fake)
        return fn

    return register


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Give an operator its gradient; see `torch.library.register_autograd`."""
    torch.library.register_autograd(f"course_lib::{name}", backward, setup_context=save)


def once_only(name: str) -> None:
    """Make a gradient's own gradient an error that says so."""

    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"course_lib::{name} has no gradient: second derivatives of a kernel are not supported")

    differentiate(name, backward, lambda ctx, inputs, output: None)


def written(tensor: Tensor) -> None:
    """Tell autograd that a kernel wrote to `tensor`, so that whoever needs its old value learns of it."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)
