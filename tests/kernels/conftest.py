"""What the tests of the kernels share. Needs only torch, numpy and pytest beside the package."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels import masked_conv2d

# Triton 3.10 will change what it does by default, and 3.9 says so at the first compilation.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run in Triton's interpreter during this test."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated without a value holds NaN, or a number no list should hold."""

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            return made.fill_(float("nan") if made.is_floating_point() else 1 if made.dtype == torch.bool else 99)

        return call

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@dataclass
class Problem:
    """Random arguments of `masked_conv2d` and what must come out, computed densely in float64 on the CPU."""

    tensors: dict[str, Tensor]
    mask: Tensor
    options: dict[str, Any]
    granularity: int = 1
    relu: bool = True
    names: tuple[str, ...] = field(default=("input", "weight", "bias", "scale", "shift", "residual"))

    def run(self, backend: str, **changed: Any) -> Tensor:
        """`masked_conv2d` with these arguments."""
        arguments = {**self.tensors, "mask": self.mask, **self.options, "granularity": self.granularity}
        return masked_conv2d(
            **{**arguments, "activation": "relu" if self.relu else None, "backend": backend, **changed}
        )

    def full(self) -> Tensor:
        """The mask position by position, on the CPU."""
        s, (height, width) = self.granularity, self.tensors["residual"].shape[2:]
        rows, columns = torch.arange(height) // s, torch.arange(width) // s
        return self.mask.cpu()[:, :, rows[:, None], columns]

    def expected(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The result, and the float64 leaves it was computed from."""
        leaves = {name: t.detach().cpu().double().requires_grad_() for name, t in self.tensors.items()}
        x, weight, bias, scale, shift, residual = (leaves[name] for name in self.names)
        y = F.conv2d(x, weight, bias, **self.options)
        y = y * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1) + residual
        return torch.where(self.full(), y.relu() if self.relu else y, 0), leaves

    def to(self, device: str, dtype: torch.dtype) -> Problem:
        """The same, rounded to another type, elsewhere."""
        moved = {name: t.to(device, dtype) for name, t in self.tensors.items()}
        return Problem(moved, self.mask.to(device), self.options, self.granularity, self.relu)


def make_problem(
    n: int = 2,
    cin: int = 8,
    cout: int = 16,
    size: tuple[int, int] = (9, 7),
    kernel: int = 3,
    *,
    granularity: int = 1,
    density: float = 0.4,
    relu: bool = True,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """A problem with random numbers and a random mask; channels first in memory, as a beginner would have it."""
    g = torch.Generator().manual_seed(seed)
    options = {"padding": kernel // 2, **options}
    groups = options.get("groups", 1)
    x, weight = torch.randn(n, cin, *size, generator=g), torch.randn(cout, cin // groups, kernel, kernel, generator=g)
    shape = F.conv2d(x[:1], weight, **options).shape[1:]
    bias, shift = torch.randn(2, cout, generator=g)
    tensors = {"input": x, "weight": weight, "bias": bias, "scale": torch.rand(cout, generator=g) + 0.5}
    tensors |= {"shift": shift, "residual": torch.randn(n, *shape, generator=g)}
    cells = (n, 1, -(-shape[1] // granularity), -(-shape[2] // granularity))
    return Problem(tensors, torch.rand(cells, generator=g) < density, options, granularity, relu)


@pytest.fixture
def problem() -> Callable[..., Problem]:
    """`make_problem`."""
    return make_problem


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; NaN where anything is NaN."""
    error, norm = (got.detach().cpu().double() - want.detach().double()).norm(), want.detach().double().norm()
    return float(error / norm) if norm > 0 else float(error)


@pytest.fixture
def error_of() -> Callable[[Tensor, Tensor], float]:
    """`relative_error`."""
    return relative_error
