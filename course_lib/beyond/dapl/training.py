"""Training of prompts on image features that were computed once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from course_lib.beyond.dapl.objective import Denominator, PseudoLabels, dapl_loss
from course_lib.beyond.dapl.prompts import DomainPrompts, scores
from course_lib.train import cosine, epoch_order

Source: TypeAlias = tuple[Tensor, Tensor]  #: image features (N, E) of length 1, and labels (N,)
Target: TypeAlias = tuple[Tensor, Tensor, Tensor]  #: image features (N, E), pseudo-labels (N,), confidence (N,)


@dataclass(frozen=True)
class PromptRun:
    """What a training of prompts did.

    `losses`: one a step; `held_out`: the loss on held-out samples after each epoch; `epoch`: the one that was kept,
    counted from 1; `seconds`: time spent.
    """

    losses: tuple[float, ...]
    held_out: tuple[float, ...]
    epoch: int
    seconds: float


def train_step(
    prompts: DomainPrompts, optimizer: torch.optim.Optimizer, source: Source, target: Target, **objective: Any
) -> Tensor:
    """One update of the prompts on a batch of each domain; returns the loss, detached.

    objective: `tau`, and as wanted `denominator` and `target_weight`, as in `dapl_loss`.
    """
    loss = _loss(prompts, source, target, objective)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def fit_prompts(
    prompts: DomainPrompts,
    source: Source,
    target: tuple[Tensor, PseudoLabels] | None,
    *,
    tau: float = 0.5,
    denominator: Denominator = "both",
    target_weight: float = 1.0,
    epochs: int = 25,
    batch_size: int = 32,
    lr: float = 3e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    held_out: float = 0.1,
    schedule: Callable[[float], float] = cosine,
    seed: int = 0,
) -> PromptRun:
    """Train prompts on image features computed beforehand, with SGD; they end as they were after the best epoch.

    The best epoch has the smallest `dapl_loss` on a share `held_out` of both domains, with the source's labels and the
    teacher's: no true label of the target is asked for. Nothing held out: the last epoch. An epoch is as many batches
    as the source has; the target's samples go round at their own pace.

    Args:
        source: features (N, E) of length 1, and labels (N,).
        target: features (N', E), and the teacher's verdict on them; None trains on the source alone, as CoOp does.
        lr: 3e-3 as published. For the tiny CLIP 6e-4 does at least as well; from 0.01 on its learned words leave the
            region in which the text tower has seen words.
        schedule: share of the training done -> factor of the learning rate, asked before every step.
        seed: of the samples held out and of the batches.

    Raises:
        ValueError: for a domain without samples, and numbers that make no training. FloatingPointError: where a loss is
            not finite, naming the step.
    """
    for argument, number, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        if number < least:
            raise ValueError(f"{argument}: got {number}, expected at least {least}")
    objective: dict[str, Any] = {"tau": tau, "denominator": denominator, "target_weight": target_weight}
    known, guessed = _pools(prompts, source, target)
    generator = torch.Generator().manual_seed(seed)
    judge, learn = _split(len(known[0]), held_out, generator)
    judge_target, learn_target = _split(len(guessed[0]), held_out, generator)
    feed = zip(_stream(learn, batch_size, 2 * seed), _stream(learn_target, batch_size, 2 * seed + 1), strict=True)
    optimizer = torch.optim.SGD(prompts.parameters(), lr, momentum, weight_decay=weight_decay)
    steps = -(-len(learn) // batch_size)
    losses, judged, best, started = list[float](), list[float](), (0, dict[str, Tensor]()), time.perf_counter()
    for epoch in range(epochs):
        made = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            optimizer.param_groups[0]["lr"] = lr * schedule(step / (epochs * steps))
            mine, theirs = next(feed)
            made.append(train_step(prompts, optimizer, _rows(known, mine), _rows(guessed, theirs), **objective))
        losses += _finite(torch.stack(made), len(losses))
        with torch.no_grad():
            judged.append(float(_loss(prompts, _rows(known, judge), _rows(guessed, judge_target), objective)))
        if judged[-1] <= min(judged):
            best = epoch + 1, {name: value.clone() for name, value in prompts.state_dict().items()}
    if best[0]:
        prompts.load_state_dict(best[1])
    return PromptRun(tuple(losses), tuple(judged), best[0], time.perf_counter() - started)


def _rows(pool: tuple[Tensor, ...], indices: Tensor) -> Any:
    return tuple(x[indices] for x in pool)


def _loss(prompts: DomainPrompts, source: Source, target: Target, objective: dict[str, Any]) -> Tensor:
    classifier = prompts()
    logits = [scores(prompts.clip, features, classifier) for features in (source[0], target[0])]
    return dapl_loss(logits[0], source[1], logits[1], target[1], target[2], **objective)


def _pools(prompts: DomainPrompts, source: Source, target: tuple[Tensor, PseudoLabels] | None) -> tuple[Source, Target]:
    if target is None:
        target = source[0][:0], PseudoLabels(source[1][:0], source[0].new_zeros(0))
    elif not len(target[0]):
        raise ValueError(f"target: got no samples of domain {prompts.domains[-1]!r}, expected at least one")
    if not len(source[0]):
        raise ValueError(f"source: got no samples of domain {prompts.domains[0]!r}, expected at least one")
    classes = len(prompts.classnames)
    for argument, labels in (("source", source[1]), ("target", target[1].labels)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            got = f"labels {int(labels.min())}..{int(labels.max())}"
            raise ValueError(f"{argument}: got {got}, expected 0..{classes - 1}, as there are {classes} classes")
    device = prompts.tokens.device
    features, verdict = target
    guessed = features.to(device), verdict.labels.to(device), verdict.confidence.to(device)
    return (source[0].to(device), source[1].to(device)), guessed


def _split(number: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices held out, and those learned from: at least one of these, where there is any."""
    if not 0 <= share < 1:
        raise ValueError(f"held_out: got {share}, expected at least 0 and less than 1")
    order = torch.randperm(number, generator=generator)
    apart = int(share * number)
    return order[:apart], order[apart:]


def _stream(indices: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices, shuffled anew each time round, for ever; empty ones of nothing."""
    for epoch in itertools.count():
        yield from indices[epoch_order(len(indices), seed, epoch)[0]].split(batch_size)


def _finite(losses: Tensor, before: int) -> list[float]:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise FloatingPointError(f"the loss is {float(losses[step])} at step {before + step}")
    return losses.tolist()
