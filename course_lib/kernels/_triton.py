"""Handing kernels to Triton: only when one is launched, compiled on a GPU or step by step in Triton's interpreter.

`@kernel` stands where `@triton.jit` would. It keeps the function as it is until the first launch, so that this package
needs no Triton before, and works where there is none (it is a Linux package).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, ...]


#: Whether Triton can be imported.
INSTALLED = importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether `TRITON_INTERPRET` asks for the interpreter; looked up at each launch."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on")


def runs_on(device: torch.device) -> bool:
    """Whether a launch with tensors on `device` would work."""
    return INSTALLED and (device.type == "cuda" or interpreting())


def require(backend: str, *tensors: Tensor) -> None:
    """Raise RuntimeError where `backend="triton"` cannot run on these tensors, saying what would."""
    device = tensors[0].device
    if not INSTALLED:
        raise RuntimeError(f"backend: got {backend!r}, but Triton is not installed; use 'gather' or 'auto'")
    if not runs_on(device):
        raise RuntimeError(
            f"backend: got {backend!r} with tensors on {device}, expected a CUDA device, or Triton's interpreter "
            "(environment variable TRITON_INTERPRET=1); on the CPU use 'gather' or 'auto'"
        )
    if interpreting():
        _refuse_bfloat16(tensors)


def _refuse_bfloat16(values: Any) -> None:
    if any(isinstance(v, Tensor) and v.dtype == torch.bfloat16 for v in values):
        raise RuntimeError(
            "Triton's interpreter computes bfloat16 wrongly without saying so; use float32 or float16 there"
        )


class Kernel:
    """A kernel that Triton gets to see when it is first launched."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    @property
    def source(self) -> Callable[..., Any]:
        """The Python function, with `tl` and the device functions it calls in place."""
        import triton.language

        # Where annotations are strings, not every version of Triton sees which arguments are constants.
        self.fn.__annotations__ = dict.fromkeys(self.fn.__annotations__, triton.language.constexpr)
        names = self.fn.__globals__
        names["tl"] = triton.language
        for name in self.fn.__code__.co_names:
            if isinstance(names.get(name), Kernel):
                names[name] = names[name].compiled
        return self.fn

    def __call__(self, *args: Any) -> Any:
        """What a kernel writes to call a device function; anywhere else a mistake."""
        raise TypeError(f"{self.fn.__name__}: called like a function; it runs inside a kernel, or by launch(grid, ...)")

    @property
    def compiled(self) -> Any:
        """What Triton compiles: a `JITFunction`, also while the interpreter is asked for."""
        return _jit(self)

    def launch(self, grid: Grid, *args: Any, **options: Any) -> None:
        """Run one program for each point of `grid`, compiled or interpreted as `interpreting()` says."""
        if 0 in grid:
            return
        if interpreting():
            interpreted(self.source)[grid](*args, **options)
            return
        device = next(a.device for a in args if isinstance(a, Tensor))
        with torch.cuda.device(device):
            self.compiled[grid](*args, **options)


@cache
def _jit(kernel: Kernel) -> Any:
    from triton.runtime.jit import JITFunction

    return JITFunction(kernel.source)


def kernel(fn: Callable[..., Any]) -> Kernel:
    """Mark a function as a Triton kernel, or as a device function another kernel calls."""
    return Kernel(fn)


class Interpreted:
    """A kernel to be launched as `interpreted(fn)[grid](...)`; see `interpreted`."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    def __getitem__(self, grid: Grid | Callable[..., Grid]) -> Callable[..., None]:
        from triton.runtime.interpreter import InterpretedFunction

        def launch(*args: Any, **options: Any) -> None:
            _refuse_bfloat16([*args, *options.values()])
            with _device_functions_interpreted():
                InterpretedFunction(self.fn)[grid](*args, **options)

        return launch


def interpreted(fn: Any) -> Interpreted:
    """Run a Triton kernel in Triton's interpreter, on CPU tensors, without a GPU and without an environment variable.

    Every program of the grid runs one after the other in numpy, about 4 ms for each step of an inner loop: made for
    reading, printing and testing small cases. Unlike `TRITON_INTERPRET=1` it concerns this kernel alone, and the
    same process can still compile others.

    Args:
        fn: a function decorated with `@triton.jit`, or the plain function. `triton.language` must be visible in it,
            usually as `tl`.

    Returns:
        What is launched as usual: `interpreted(fn)[grid](*args, **meta)`. bfloat16 tensors: RuntimeError, the
        interpreter computes them wrongly.
    """
    while not hasattr(fn, "__code__"):
        if not hasattr(fn, "fn"):
            raise TypeError(f"fn: got {type(fn).__name__}, expected a function or one decorated with triton.jit")
        fn = fn.source if isinstance(fn, Kernel) else fn.fn
    return Interpreted(fn)


@contextmanager
def _device_functions_interpreted() -> Iterator[None]:
    """Let interpreted kernels call functions that were decorated for compilation, `tl.zeros` and `tl.sum` among them.

    Triton decides at decoration whether a function is for the interpreter; this makes it a matter of the launch.
    """
    import triton.language
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return interpreter.InterpretedFunction(self.fn).rewrite()(*args, **kwargs)

    before = JITFunction.__call__
    JITFunction.__call__ = call
    # Triton's own device functions live in a module that knows the language by another name.
    patched = interpreter._patch_lang(triton.language.standard.zeros.fn)
    try:
        yield
    finally:
        if patched is not None:
            patched.restore()
        JITFunction.__call__ = before
