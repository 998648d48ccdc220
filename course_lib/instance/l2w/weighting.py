"""What a sample weighs at an exit, and at which exit it is judged: the two ends of the meta objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.decision import confidence, exit_shares

#: Over what raw weights are averaged when they are centred; see `center_weights`.
Centring = Literal["mat", "col", "row"]

_AXES: dict[str, tuple[int, ...]] = {"mat": (0, 1), "col": (1,), "row": (0,)}


class WeightPredictionNetwork(nn.Module):
    """From a sample's K losses to K raw weights in (-1, 1): one hidden layer, ReLU, tanh.

    The losses are detached: a gradient that went through them would teach the *network with exits* to look hard.
    The output layer starts at zero, so training starts from equal weights (the released code keeps PyTorch's random
    initialisation, whose constant preference for some exits takes a short training too long to undo).

    Args:
        exits: K, at least 1.
        hidden: width of the hidden layer.

    >>> sum(p.numel() for p in WeightPredictionNetwork(5).parameters())
    5505
    """

    def __init__(self, exits: int, hidden: int = 500) -> None:
        super().__init__()
        for name, got in (("exits", exits), ("hidden", hidden)):
            if got < 1:
                raise ValueError(f"{name}: got {got}, expected at least 1")
        self.exits = exits
        self.layers = nn.Sequential(nn.Linear(exits, hidden), nn.ReLU(), nn.Linear(hidden, exits), nn.Tanh())
        output: Any = self.layers[2]
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, losses: Tensor) -> Tensor:
        """losses: (B, K), of any precision -> raw weights (B, K) in (-1, 1), of this network's."""
        if losses.ndim != 2 or losses.shape[1] != self.exits:
            raise ValueError(f"losses: got shape {tuple(losses.shape)}, expected (B, {self.exits})")
        first: Any = self.layers[0]
        return self.layers(losses.detach().to(first.weight.dtype))


def center_weights(raw: Tensor, epsilon: float, mode: Centring) -> Tensor:
    """Weights around 1: w = 1 + epsilon (t - mean t), so that their average is exactly 1.

    The mean is taken over "mat", the whole matrix; "col", the K exits of each sample, so every sample keeps total
    weight K; "row", the samples at each exit, so every exit keeps mean weight 1. The last two names are the released
    code's, and the other way round than one would read them: "col" averages along a row of the matrix. Centring widens
    the range, so weights may be negative, and they stay so; see `weight_range`.

    Args:
        raw: (B, K) in [-1, 1].
        epsilon: strength of the perturbation, 0 or more; 0 gives ones, exactly. Published: 0.8 ("col"), 0.3 ("mat").

    Returns:
        (B, K).

    >>> center_weights(torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0]]), 0.8, "col")
    tensor([[2.2800, 0.6800, 0.6800, 0.6800, 0.6800]])
    """
    if raw.ndim != 2:
        raise ValueError(f"raw: got shape {tuple(raw.shape)}, expected (B, K)")
    check_mode(mode)
    check_epsilon(epsilon)
    return 1 + epsilon * (raw - raw.mean(_AXES[mode], keepdim=True))


def weight_range(epsilon: float, averaged: int) -> tuple[float, float]:
    """Smallest and largest weight that can occur when raw weights are centred over `averaged` entries.

    For "col" that is K, for "row" B, for "mat" B times K. The smallest is 0 or more exactly if
    epsilon <= n / (2 (n - 1)); 0.5 is safe for every n.

    >>> [round(end, 2) for end in weight_range(0.8, 5)]
    [-0.28, 2.28]
    """
    check_epsilon(epsilon)
    if averaged < 1:
        raise ValueError(f"averaged: got {averaged}, expected at least 1")
    reach = epsilon * 2 * (averaged - 1) / averaged
    return 1 - reach, 1 + reach


def allocate(confidence: Tensor, rho: float) -> Tensor:
    """At which exit each sample of a batch would leave, if the shares were those of rho in this very batch.

    For k = 1..K-1 the floor(q_k n) most confident samples at exit k *that have not been taken before* get exit k; the
    last exit takes the rest. Unlike thresholds, samples that tie do not leave together: the sizes are exact.

    Args:
        confidence: (n, K), how sure each exit is of each sample.
        rho: ratio of neighbouring shares, in [0, inf], see `decision.exit_shares`: 0 sends all to the first exit.

    Returns:
        (n,) int64 in 0..K-1.

    Raises:
        ValueError: rho below 0, or a confidence that is NaN, which could not be ranked.

    >>> torch.bincount(allocate(torch.rand(512, 5), 0.75)).tolist()
    [167, 125, 94, 70, 56]
    """
    if confidence.ndim != 2 or confidence.shape[1] < 1:
        raise ValueError(f"confidence: got shape {tuple(confidence.shape)}, expected (n, exits)")
    if confidence.isnan().any():
        raise ValueError("confidence: got NaN, expected numbers that can be ranked")
    number, exits = confidence.shape
    taken = torch.full((number,), exits - 1, dtype=torch.int64, device=confidence.device)
    here = torch.arange(number, device=confidence.device)
    for k, share in enumerate(exit_shares(rho, exits).tolist()[:-1]):
        wanted = math.floor(share * number * (1 + 1e-6))  # float32's rounding of a share
        order = confidence[here, k].argsort(descending=True, stable=True)
        taken[here[order[:wanted]]] = k
        here = here[order[wanted:]]
    return taken


def exit_losses(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of every sample at every exit: K logits (B, C) and labels (B,) -> (B, K).

    Logits of half precision are lifted to float32 first, in which a bin can be counted. `ValueError` for labels
    outside 0..C-1 or not one a sample.
    """
    number, classes = outputs[0].shape
    if labels.shape != (number,):
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, expected ({number},)")
    if number and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        got = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels: got values {got}, expected 0..{classes - 1}, as the model has {classes} classes")
    full = [logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in outputs]
    return torch.stack([F.cross_entropy(logits, labels, reduction="none") for logits in full], 1)


def meta_objective(outputs: Sequence[Tensor], labels: Tensor, rho: float) -> Tensor:
    """L_meta: each sample judged only where it would leave; the mean over each exit's samples, summed over the exits.

    An exit that nobody leaves at adds nothing; no gradient flows through the allocation.

    Args:
        outputs: K logits (n, C); labels: (n,); rho: see `allocate`.
    """
    losses = exit_losses(outputs, labels)
    with torch.no_grad():
        sure = torch.stack([confidence(logits) for logits in outputs], 1)
        served = F.one_hot(allocate(sure, rho), len(outputs)).to(losses)
    return ((losses * served).sum(0) / served.sum(0).clamp_min(1)).sum()


def check_mode(mode: str) -> None:
    """Raise `ValueError` unless mode is one of the three ways of centring."""
    if mode not in _AXES:
        raise ValueError(f"mode: got {mode!r}, expected 'mat', 'col' or 'row'")


def check_epsilon(epsilon: float) -> None:
    """Raise `ValueError` unless epsilon is a strength, finite and not negative."""
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon: got {epsilon}, expected a number >= 0")
