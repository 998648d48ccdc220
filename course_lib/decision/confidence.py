"""How sure is an answer? Three scores read off the logits, and the rule that stops at the first sure exit.

Source: survey (arXiv 2102.04906) section 5.1, confidence-based criteria; MSDNet (arXiv 1703.09844) section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Confidence = Literal["max_softmax", "entropy", "margin"]


def confidence(logits: Tensor, kind: Confidence = "max_softmax") -> Tensor:
    """Score how sure each row of logits is; larger is surer for every kind.

    `max_softmax`: the largest class probability. `entropy`: minus the entropy in nats, so 0 is certain.
    `margin`: the largest minus the second largest probability; with one class it is the probability itself, 1.

    Args:
        logits: (N, classes) float.
        kind: which score.

    Returns:
        (N,) float.

    Raises:
        ValueError: wrong rank, no class, an unknown kind, or NaN among the logits.

    >>> confidence(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [0.8807970285415649, 0.5]
    """
    check_logits("logits", logits)
    if kind == "max_softmax":
        return logits.softmax(-1).amax(-1)
    if kind == "entropy":
        log_p = logits.log_softmax(-1)
        # xlogy-style: a class of probability 0 has log -inf and contributes nothing
        return (log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    if kind == "margin":
        top = logits.softmax(-1).topk(min(2, logits.shape[-1]), dim=-1).values
        return top[..., 0] - top[..., 1] if top.shape[-1] == 2 else top[..., 0]
    raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(get_args(Confidence))}")


def choose_exit(confidence: Tensor, thresholds: Tensor | Sequence[float]) -> Tensor:
    """Index of the first exit whose confidence reaches its threshold; the last exit answers whoever is left.

    Args:
        confidence: (N, K) float, one column an exit.
        thresholds: (K,) float; the last one is ignored.

    Returns:
        (N,) int64 in 0..K-1.

    >>> choose_exit(torch.tensor([[0.9, 0.2], [0.1, 0.2]]), [0.5, 0.5]).tolist()
    [0, 1]
    """
    check_confidence(confidence)
    bar = as_thresholds(thresholds, confidence.shape[1]).to(confidence)
    sure = confidence >= bar
    sure[:, -1] = True
    return sure.int().argmax(1)  # argmax gives the first of equal values


def simulate(
    logits: Sequence[Tensor], thresholds: Tensor | Sequence[float], *, confidence: Confidence = "max_softmax"
) -> tuple[Tensor, Tensor]:
    """What adaptive inference would answer, read off the logits of *all* exits after the fact.

    It computes nothing twice and saves nothing: it is how thresholds are compared quickly, and what real adaptive
    inference is tested against.

    Args:
        logits: K tensors (N, classes).
        thresholds: (K,) float; the last one is ignored.

    Returns:
        logits: (N, classes) of the exit each sample took, exit_index: (N,) int64.
    """
    scores = torch.stack([_score(one, confidence) for one in logits], dim=1)
    exit_index = choose_exit(scores, thresholds)
    return answers_at(logits, exit_index), exit_index


def answers_at(logits: Sequence[Tensor], exit_index: Tensor) -> Tensor:
    """Of K logits (N, classes) those of the exit each sample takes: (N, classes). exit_index: (N,) int64."""
    return torch.stack(list(logits))[exit_index, torch.arange(len(exit_index), device=exit_index.device)]


_score = confidence  # the name is an argument of `simulate` too


def as_thresholds(thresholds: Tensor | Sequence[float], exits: int) -> Tensor:
    """Check (K,) thresholds against the number of exits and give them as a float64 tensor on the CPU.

    Raises:
        ValueError: wrong rank or length, or NaN among them.
    """
    bar = torch.as_tensor(thresholds, dtype=torch.float64).cpu()
    if bar.ndim != 1 or len(bar) != exits:
        raise ValueError(f"thresholds: got shape {tuple(bar.shape)}, expected one value for each of {exits} exits")
    if bar.isnan().any():
        raise ValueError(f"thresholds: got {bar.tolist()}, expected numbers (-inf and inf are allowed), not NaN")
    return bar


def check_logits(name: str, logits: Tensor) -> None:
    """Raise `ValueError` unless `logits` is (N, classes >= 1) and free of NaN."""
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ValueError(f"{name}: got shape {tuple(logits.shape)}, expected (N, classes)")
    if logits.isnan().any():
        rows = logits.isnan().any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{name}: got NaN in {len(rows)} of {len(logits)} rows (first: row {rows[0]}), expected numbers"
        )


def check_confidence(confidence: Tensor) -> None:
    """Raise `ValueError` unless `confidence` is (N, K >= 1) and free of NaN."""
    if confidence.ndim != 2 or confidence.shape[1] < 1:
        raise ValueError(f"confidence: got shape {tuple(confidence.shape)}, expected (N, exits)")
    if confidence.isnan().any():
        raise ValueError("confidence: got NaN, expected numbers")
