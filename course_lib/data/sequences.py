"""The adding task: a long sequence of numbers of which two matter, and where they stand is known.

A memory task with a ground truth for reading: at every step comes a number and a marker, two markers are 1, and what is
asked for at the end is the sum of the two marked numbers. Whoever may leave steps unread can be held against
`markers`. Source: Hochreiter and Schmidhuber 1997 (section 5.4); placed as in Skip RNN (arXiv 1708.06834, section 4.1).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch

#: Mean squared error of answering 0, which is the best without reading: the variance of the sum of two U(-0.5, 0.5).
ADDING_VARIANCE = 1 / 6


@dataclass(frozen=True)
class Sequences:
    """What `adding` drew.

    inputs: (n, length, 2) float32, at each step the number, in [-0.5, 0.5), and the marker, 0 or 1;
    targets: (n,) float32, the sum of the two marked numbers; markers: (n, 2) int64, the steps they stand at.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    markers: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


def adding(n: int, *, length: int = 50, seed: int = 0) -> Sequences:
    """Draw `n` sequences of the adding task; the same arguments give the same bytes.

    The first marker is uniform over the first tenth of the steps (rounded up), the second over the last half.

    Args:
        n: number of sequences, 0 included.
        length: steps, at least 2.
        seed: a non-negative number.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> few = adding(3, length=20, seed=1)
    >>> tuple(few.inputs.shape), few.inputs[..., 1].sum(1).tolist()
    ((3, 20, 2), [2.0, 2.0, 2.0])
    """
    n, length, seed = (operator.index(value) for value in (n, length, seed))
    for name, got, least in (("n", n, 0), ("length", length, 2), ("seed", seed, 0)):
        if got < least:
            raise ValueError(f"{name}: got {got}, expected at least {least}")
    rng = np.random.default_rng(seed)
    numbers = rng.random((n, length), dtype=np.float32) - np.float32(0.5)
    early = rng.integers(0, -(-length // 10), n)
    late = rng.integers((length + 1) // 2, length, n)
    markers = np.stack([early, late], 1).astype(np.int64)
    marked = np.zeros((n, length), dtype=np.float32)
    np.put_along_axis(marked, markers, np.float32(1), 1)
    targets = np.take_along_axis(numbers, markers, 1).sum(1, dtype=np.float32)
    inputs = np.stack([numbers, marked], 2)
    return Sequences(*(torch.from_numpy(array) for array in (inputs, targets, markers)))
