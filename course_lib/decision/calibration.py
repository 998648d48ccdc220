"""Is a confidence of 0.8 right eight times in ten? Measuring that, and mending it with one number.

Source: temperature scaling and expected calibration error as used with early exits; survey (arXiv 2102.04906)
section 5.1, Guo et al. (arXiv 1706.04599) section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.decision.confidence import check_logits


@dataclass(frozen=True)
class Reliability:
    """What a reliability diagram draws: confidence against accuracy in bins of equal width."""

    edges: Tensor  #: (bins + 1,) from 0 to 1
    counts: Tensor  #: (bins,) samples a bin
    confidence: Tensor  #: (bins,) mean confidence in the bin, NaN where it is empty
    accuracy: Tensor  #: (bins,) share of right answers in the bin, NaN where it is empty


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Group answers by confidence in (0, 1/bins], ..., ((bins-1)/bins, 1]; a confidence of 0 joins the first bin.

    Args:
        confidence: (N,) float in [0, 1].
        correct: (N,) bool, or 0 and 1.
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"correct: got shape {tuple(correct.shape)}, expected that of confidence, {tuple(confidence.shape)}, rank 1"
        )
    if bins < 1:
        raise ValueError(f"bins: got {bins}, expected at least 1")
    if len(confidence) and not (float(confidence.min()) >= 0 and float(confidence.max()) <= 1):  # NaN fails both
        low, high = float(confidence.min()), float(confidence.max())
        raise ValueError(f"confidence: got values from {low:g} to {high:g}, expected probabilities in [0, 1]")
    score = confidence.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=score.device)
    index = (torch.bucketize(score, edges, right=False) - 1).clamp(0, bins - 1)
    counts = torch.bincount(index, minlength=bins)
    total = counts.double()  # 0/0 gives the NaN an empty bin should show
    return Reliability(
        edges=edges,
        counts=counts,
        confidence=torch.bincount(index, weights=score, minlength=bins) / total,
        accuracy=torch.bincount(index, weights=correct.double(), minlength=bins) / total,
    )


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by how many answers each holds.

    Args:
        confidence: (N,) float in [0, 1].
        correct: (N,) bool.

    Returns:
        A number in [0, 1]; 0 for no answers at all.

    >>> round(expected_calibration_error(torch.full((4,), 0.8), torch.tensor([1, 1, 1, 0]), bins=10), 3)
    0.05
    """
    diagram = reliability(confidence, correct, bins)
    gap = (diagram.confidence - diagram.accuracy).abs().nan_to_num(0.0)
    return float((gap * diagram.counts).sum() / max(len(confidence), 1))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that makes softmax(logits / T) fit the labels best (least negative log-likelihood).

    One number for all samples: it changes how sure the answers are, never which class wins. The loss is convex in
    1/T, so bisection on its derivative finds the minimum.

    Args:
        logits: (N, classes) float, on held-out samples.
        labels: (N,) int64.

    Returns:
        T > 0, at most 1e4 (labels that the logits say nothing about) and at least 1e-4 (logits never wrong).
    """
    check_logits("logits", logits)
    if labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, expected ({len(logits)},) and at least one sample")
    scores = logits.detach().double()
    centred = scores - scores.mean(1, keepdim=True)
    low, high = 1e-4, 1e4  # of 1/T; the derivative of the loss rises with it, so its zero is bracketed
    for _ in range(100):
        middle = (low * high) ** 0.5
        p = (centred * middle).softmax(1)
        slope = ((p * centred).sum(1) - centred.gather(1, labels[:, None]).squeeze(1)).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / (low * high) ** 0.5
