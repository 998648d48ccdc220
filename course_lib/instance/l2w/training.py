"""The whole run: half-batches that exchange roles, and the equal-weights baseline on the same halves."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib.instance.l2w.step import LookAhead, Samples, check_settings, meta_step
from course_lib.instance.l2w.weighting import Centring, WeightPredictionNetwork, center_weights
from course_lib.train import Augment, Batches, Data, History, as_batches, cosine, epoch_order


@dataclass(frozen=True)
class L2WRun:
    """What `fit_l2w` did."""

    history: History  #: one loss a real step, that is a half-batch
    meta_losses: tuple[float, ...]  #: one a look-ahead
    wpn: WeightPredictionNetwork | None  #: None where the weights were equal; nobody needs it at test time
    epsilon: float
    mode: Centring

    def weigh(self, losses: Tensor) -> Tensor:
        """The weights of samples with these losses at the exits, centred among them: (N, K) -> (N, K), same device."""
        if self.wpn is None:
            return torch.ones_like(losses)
        with torch.no_grad():
            raw = self.wpn(losses.to(next(self.wpn.parameters()).device))
        return center_weights(raw, self.epsilon, self.mode).to(losses.device)


def fit_l2w(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 256,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    epsilon: float = 0.8,
    rho: float = 0.75,
    mode: Centring = "col",
    meta_interval: int = 1,
    lookahead: LookAhead = "optimizer",
    hidden: int = 500,
    wpn_lr: float = 1e-4,
    seed: int = 0,
    augment: Augment | None = None,
) -> L2WRun:
    """Train a network with exits and the network that weights its samples; the model ends in eval mode.

    Each mini-batch is cut in two halves. The first is trained on and the second judges, then they exchange roles: two
    steps of the model a mini-batch. Both learning rates fall to 0 by a cosine, step by step. With `epsilon=0` there is
    no weight network and every weight is 1: the baseline to compare with, on the same half-batches in the same order.
    It is `train.fit` with half the batch size, where that is a whole number and the batch size divides the number of
    samples. A last batch of fewer than four joins the one before it, for BatchNorm asks for two samples in a half.

    Args:
        data: as in `train.fit`; the order depends on (seed, epoch) alone, `augment` is called on every half.
        batch_size: samples of both halves together, at least 2. Small halves leave a handful of samples to the last
            exits' bins; 256 is a good least.
        meta_interval: look ahead and judge every so many mini-batches only; the weights are learned then and used
            always. Published: 1 (CIFAR), 100 (ImageNet).
        hidden, wpn_lr: width of the weight network, and the rate of its Adam, with weight decay 1e-4.
        seed: of the order, of dropout and of the weight network's first weights.

    Raises:
        FloatingPointError, ValueError: as `meta_step`.
    """
    batches, n = as_batches(data)
    check_settings(epsilon, rho, mode, lookahead)
    _at_least(("data", n, 1), ("epochs", epochs, 0), ("batch_size", batch_size, 2), ("meta_interval", meta_interval, 1))
    started, device = time.perf_counter(), next(model.parameters()).device
    first = batches(torch.arange(1))[0].to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
    wpn, wpn_optimizer, sizes = None, None, _sizes(n, batch_size)
    losses, meta_losses = list[float](), list[float]()
    total = epochs * sum(min(size, 2) for size in sizes)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if epsilon:
            wpn = WeightPredictionNetwork(_exits(model, first), hidden).to(device)
            wpn_optimizer = torch.optim.Adam(wpn.parameters(), wpn_lr, weight_decay=1e-4)
        model.train()
        for number, halves in enumerate(_halves(batches, sizes, epochs, seed, augment, device)):
            for half, judge in _judged(halves, wpn is not None and number % meta_interval == 0):
                falling = cosine(len(losses) / total)
                _set_rate(optimizer, lr * falling)
                _set_rate(wpn_optimizer, wpn_lr * falling)
                step = meta_step(
                    model, wpn, optimizer, wpn_optimizer, half, judge,
                    epsilon=epsilon, rho=rho, mode=mode, lookahead=lookahead,
                )  # fmt: skip
                losses.append(step.loss)
                meta_losses += [] if math.isnan(step.meta_loss) else [step.meta_loss]
    model.eval()
    history = History(tuple(losses), epochs, len(losses), time.perf_counter() - started)
    return L2WRun(history, tuple(meta_losses), wpn, epsilon, mode)


def _exits(model: nn.Module, inputs: Tensor) -> int:
    with torch.no_grad():
        return len(model.eval()(inputs))


def _at_least(*arguments: tuple[str, int, int]) -> None:
    for name, got, least in arguments:
        if got < least:
            raise ValueError(f"{name}: got {got}, expected at least {least}")


def _sizes(n: int, batch_size: int) -> list[int]:
    """Samples of each mini-batch of an epoch; a tail too small for two halves joins the batch before it."""
    whole, tail = divmod(n, batch_size)
    sizes = [batch_size] * whole + [tail] * (tail > 0)
    return [*sizes[:-2], batch_size + tail] if 0 < tail < 4 and whole else sizes


def _halves(
    batches: Batches, sizes: list[int], epochs: int, seed: int, augment: Augment | None, device: torch.device
) -> Iterator[list[Samples]]:
    """Every mini-batch of the whole run, cut in two; shuffled as `train.fit` does."""
    for epoch in range(epochs):
        order, generator = epoch_order(sum(sizes), seed, epoch)
        for indices in order.split(sizes):
            halves = []
            for half in indices.tensor_split(2):
                if len(half):
                    images, labels = batches(half)
                    images = images if augment is None else augment(images, generator)
                    halves.append((images.to(device), labels.to(device)))
            yield halves


def _judged(halves: list[Samples], wanted: bool) -> list[tuple[Samples, Samples | None]]:
    """Each half with the one that judges it, where judges are wanted; a single sample has nobody to judge it."""
    if wanted and len(halves) == 2:
        return [(halves[0], halves[1]), (halves[1], halves[0])]
    return [(half, None) for half in halves]


def _set_rate(optimizer: torch.optim.Optimizer | None, rate: float) -> None:
    for group in optimizer.param_groups if optimizer else ():
        group["lr"] = rate
