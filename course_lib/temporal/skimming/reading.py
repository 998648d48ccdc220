"""What the three readers share: marks on words, sizes of cells, checks of what comes in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Cell = Literal["gru", "lstm"]

#: Products with the state and the input in one step of a cell, each hidden_size * (hidden_size + input_size).
GATES = {"gru": 3, "lstm": 4}

#: What became of a word, as `Reading.marks` says it.
PADDING, UNREAD, SKIMMED, READ = -1, 0, 1, 2


@dataclass(frozen=True)
class Reading:
    """What the `infer` of a reader gives."""

    hidden: Tensor  #: (N, hidden) after the last step of each sequence
    marks: Tensor  #: (N, T) int8, `READ`, `SKIMMED`, `UNREAD`, and `PADDING` behind the end
    macs: Tensor  #: (N,) float64, multiply-adds the sequence needs: cells and decisions
    rows: int  #: rows that cells computed, in all
    launches: int  #: calls of a cell

    def share(self, mark: int = READ) -> float:
        """The share of the words, padding left out, that bear a mark; NaN where there is no word."""
        words = self.marks != PADDING
        return float((self.marks == mark).sum() / words.sum())


def recurrent_macs(cell: Cell, input_size: int, hidden_size: int, steps: int = 1) -> int:
    """Multiply-adds of `steps` steps of a plain cell, biases and the products of its gates left out.

    >>> recurrent_macs("lstm", 2, 110, 50), recurrent_macs("gru", 2, 110, 50), recurrent_macs("lstm", 1, 110, 784)
    (2464000, 1848000, 38290560)
    """
    one_of("cell", cell, GATES)
    return GATES[cell] * hidden_size * (hidden_size + input_size) * steps


def no_marks(inputs: Tensor, lengths: Tensor) -> Tensor:
    """(N, T) int8: `UNREAD` inside each sequence, `PADDING` behind its end."""
    inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
    return inside.to(torch.int8) - 1


def one_of(name: str, got: str, known: Collection[str]) -> None:
    """Raise `ValueError` unless `got` is a known word."""
    if got not in known:
        raise ValueError(f"{name}: got {got!r}, expected one of {', '.join(map(repr, known))}")


def at_least(least: int, **sizes: int) -> None:
    """Raise `ValueError` for a size below `least`."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name}: got {size}, expected at least {least}")


def checked(inputs: Tensor, lengths: Tensor | None, input_size: int) -> tuple[Tensor, Tensor]:
    """The inputs as they are, and their lengths, all T where none are given.

    Raises:
        ValueError: inputs are not (N, T, input_size), lengths not (N,) int64, or not within 0..T.
    """
    if inputs.ndim != 3 or inputs.shape[2] != input_size:
        raise ValueError(f"inputs: got shape {tuple(inputs.shape)}, expected (N, T, {input_size})")
    number, steps = inputs.shape[:2]
    if lengths is None:
        return inputs, torch.full((number,), steps, device=inputs.device)
    if lengths.shape != (number,) or lengths.dtype != torch.int64:
        got = f"{tuple(lengths.shape)} {lengths.dtype}"
        raise ValueError(f"lengths: got {got}, expected ({number},) torch.int64")
    if number and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise ValueError(f"lengths: got {int(lengths.min())} to {int(lengths.max())}, expected 0 to {steps}")
    return inputs, lengths
