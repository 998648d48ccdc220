"""The teacher, who labels the target's images, and the loss on them and on the source's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Denominator: TypeAlias = Literal["both", "own"]


@dataclass(frozen=True)
class PseudoLabels:
    """What the teacher says of unlabelled samples: `labels` (N,) int64, `confidence` (N,), its largest probability."""

    labels: Tensor
    confidence: Tensor

    def kept(self, tau: float) -> Tensor:
        """Whose confidence reaches `tau`: (N,) bool."""
        return self.confidence >= tau

    def coverage(self, tau: float) -> float:
        """The share that is kept; NaN of no samples."""
        return float(self.kept(tau).double().mean())

    def precision(self, tau: float, labels: Tensor) -> float:
        """How many of the kept are right, by the true labels (N,); NaN where none is kept."""
        kept = self.kept(tau)
        return float((self.labels == labels.to(self.labels))[kept].double().mean())


def pseudo_label(logits: Tensor, *, temperature: float = 1.0) -> PseudoLabels:
    """The teacher's verdict from its logits (N, K), which hold CLIP's scale already; a high temperature doubts more."""
    if temperature <= 0:
        raise ValueError(f"temperature: got {temperature}, expected more than 0")
    confidence, labels = (logits.detach() / temperature).softmax(-1).max(-1)
    return PseudoLabels(labels, confidence)


# The loss ------------------------------------------------------------------------------------------------------------


def dapl_log_prob(logits: Tensor, domain: int, denominator: Denominator = "both") -> Tensor:
    """log P of every class under one domain's prompts: (N, D, K) -> (N, K).

    "both": the prompts of all domains compete, so that a row holds log P(class, domain | image) and need not sum to 1
    over classes (the paper's equation). "own": a softmax within the domain (the released code).
    """
    if denominator not in get_args(Denominator):
        raise ValueError(f"denominator: got {denominator!r}, expected one of {', '.join(get_args(Denominator))}")
    over = logits if denominator == "both" else logits[:, domain, None]
    return logits[:, domain] - over.flatten(1).logsumexp(1, keepdim=True)


def pseudo_label_loss(log_prob: Tensor, labels: Tensor, confidence: Tensor, tau: float) -> Tensor:
    """Mean of -log P of the pseudo-labels that reach `tau`; exactly 0, with a gradient of 0, where none does.

    log_prob: (N, K); labels: (N,) int64; confidence: (N,). `tau` 0 keeps all, above 1 none.
    """
    kept = confidence >= tau
    wrong = -log_prob.gather(1, labels[:, None])[:, 0]
    return wrong[kept].sum() / kept.sum().clamp(min=1)


def dapl_loss(
    logits_source: Tensor,
    labels: Tensor,
    logits_target: Tensor,
    pseudo_labels: Tensor,
    pseudo_confidence: Tensor,
    *,
    tau: float,
    denominator: Denominator = "both",
    target_weight: float = 1.0,
) -> Tensor:
    """Source samples on the source's prompts, confident target samples on the target's; a scalar.

    L = mean of -log P(label, source | x) + target_weight * mean over the kept of -log P(pseudo-label, target | x)

    Args:
        logits_source, logits_target: (B, D, K) and (B', D, K), of all prompts; the source is the first domain, the
            target the last. With one domain both use its prompts: CoOp, where there are no target samples.
        labels, pseudo_labels: (B,) and (B',) int64.
        pseudo_confidence: (B',), in [0, 1].
        tau: a pseudo-label counts from this confidence on.
        denominator: see `dapl_log_prob`.

    No source samples, or no kept target samples, give a part of exactly 0.
    """
    for argument, logits, rows in (("labels", logits_source, labels), ("pseudo_labels", logits_target, pseudo_labels)):
        if logits.ndim != 3 or len(logits) != len(rows):
            got = f"shape {tuple(rows.shape)} for logits {tuple(logits.shape)}"
            raise ValueError(f"{argument}: got {got}, expected (B,) for logits (B, domains, classes)")
    certain = torch.ones_like(labels, dtype=logits_source.dtype)
    source = pseudo_label_loss(dapl_log_prob(logits_source, 0, denominator), labels, certain, 1.0)
    target_log_prob = dapl_log_prob(logits_target, -1, denominator)
    return source + target_weight * pseudo_label_loss(target_log_prob, pseudo_labels, pseudo_confidence, tau)


def accuracy(predicted: Tensor, labels: Tensor, *, average: Literal["overall", "class"] = "overall") -> float:
    """Share of right answers; NaN where there are no samples.

    "overall": over all samples, as for Office-Home. "class": mean over the classes that occur, as for VisDA, so that a
    rare class counts as much as a frequent one.
    """
    right = (predicted == labels.to(predicted)).double()
    if average == "overall":
        return float(right.mean())
    if average != "class":
        raise ValueError(f"average: got {average!r}, expected 'overall' or 'class'")
    return float(torch.stack([right[labels == k].mean() for k in labels.unique()] or [right.mean()]).mean())
