"""Run a module once and look inside, leaving it as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OnCall = Callable[[nn.Module, tuple[Any, ...], Any], None]


@contextmanager
def observing(
    module: nn.Module, on_call: OnCall, on_enter: Callable[[nn.Module], None] = lambda _: None
) -> Iterator[None]:
    """Call `on_call(submodule, inputs, output)` after every submodule's forward, `module` itself included.

    `on_enter(submodule)` is called before it.

    No gradients are recorded. Buffers and random state are put back at the end, so that looking at a model in
    training mode changes neither its BatchNorm statistics nor the dropout of the next training step.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    saved = [(m, name, b, b.clone()) for m in module.modules() for name, b in m._buffers.items() if b is not None]

    def hook(submodule: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        on_call(submodule, (*args, *kwargs.values()), output)

    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in module.modules()]
    handles += [m.register_forward_pre_hook(lambda submodule, _: on_enter(submodule)) for m in module.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for owner, name, buffer, before in saved:
                owner._buffers[name] = buffer.copy_(before)


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that `module` uses itself, with their names: not those of submodules, which may have been skipped."""
    yield from module.named_parameters(recurse=False)
    for name, child in module.named_children():
        # Lists are never called, and attention reads its output projection's weight without calling it.
        if isinstance(child, (nn.ParameterList, nn.ParameterDict)) or isinstance(module, nn.MultiheadAttention):
            yield from child.named_parameters(prefix=name)


def is_layer(module: nn.Module, ran: set[nn.Module]) -> bool:
    """Whether `module` ran and computed something itself: nothing inside it ran, and it is no mere container.

    A block that skipped its submodules is a container; `nn.MultiheadAttention`, which has a child it never calls, is a
    layer because it has weights of its own.
    """
    inside = [m for m in module.modules() if m is not module]
    return (
        module in ran
        and not any(m in ran for m in inside)
        and (not inside or any(True for _ in own_parameters(module)))
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
