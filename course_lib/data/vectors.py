"""Vectors of two kinds, easy and hard, and each knows which it is: a task on which the depth of a network matters.

Ten classes in 64 dimensions. An easy vector is its class's prototype in noise. A hard one shows one of eight further
prototypes of its class, and a little of the *next* class's easy prototype with the wrong sign, so that whoever has
only learnt the ten easy prototypes is misled. Ten directions are enough for the easy vectors, a narrow layer can hold
them; the eighty others need width.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch

FEATURES, CLASSES = 64, 10

_EASY = 0.6  # share of the vectors
_NOISE = 1.2
_FURTHER, _OWN, _MISLEADING = 8, 0.8, 0.3  # further prototypes a class, and how much of each goes into a hard vector
_TASK = 2209  # the prototypes are part of the task, the same for every seed


@dataclass(frozen=True)
class Vectors:
    """What `two_difficulties` drew: inputs (n, 64) float32, labels (n,) int64, hard (n,) bool."""

    inputs: torch.Tensor
    labels: torch.Tensor
    hard: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def two_difficulties(n: int, *, seed: int = 0) -> Vectors:
    """Draw `n` vectors, each easy with probability 0.6; the same arguments give the same bytes.

    Different seeds give different vectors of the same task: the prototypes, entries of -1 and 1, never change.

    Args:
        n: number of vectors, 0 included; the classes are equally likely.
        seed: a non-negative number.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> few = two_difficulties(5, seed=1)
    >>> tuple(few.inputs.shape), few.inputs.dtype
    ((5, 64), torch.float32)
    """
    n, seed = operator.index(n), operator.index(seed)
    if n < 0:
        raise ValueError(f"n: got {n}, expected a number of vectors >= 0")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected a number >= 0")
    easy, further = _prototypes()
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    hard = rng.random(n) >= _EASY
    which = rng.integers(_FURTHER, size=n)
    misled = _OWN * further[labels, which] - _MISLEADING * easy[(labels + 1) % CLASSES]
    inputs = np.where(hard[:, None], misled, easy[labels]) + _NOISE * rng.standard_normal((n, FEATURES))
    return Vectors(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels), torch.from_numpy(hard))


def _prototypes() -> tuple[np.ndarray, np.ndarray]:
    """(classes, 64) of the easy vectors and (classes, 8, 64) of the hard ones."""
    rng = np.random.default_rng(_TASK)
    signs = rng.choice([-1.0, 1.0], size=(CLASSES, 1 + _FURTHER, FEATURES))
    return signs[:, 0], signs[:, 1:]
