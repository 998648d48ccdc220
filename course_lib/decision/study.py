"""Anytime and budgeted evaluation as one thing: the stored logits of a network with exits, and what is asked of them.

Thresholds are set on validation samples, costs and accuracies are those of test samples; nothing here runs a network.
Source: MSDNet (arXiv 1703.09844) section 4 and its published evaluation, which sweeps rho = p / 20 for p = 1..39.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from course_lib.decision.budget import exit_shares, find_thresholds, mean_cost
from course_lib.decision.confidence import answers_at, as_thresholds, choose_exit, confidence

#: The settings of the published evaluation.
RHOS = tuple(p / 20 for p in range(1, 40))


@dataclass(frozen=True)
class OperatingPoint:
    """One setting of the dial: thresholds from held-out data, and what they did on test data."""

    rho: float  #: ratio of neighbouring shares; NaN where the thresholds came from elsewhere
    thresholds: tuple[float, ...]
    planned: tuple[float, ...]  #: shares wanted, one an exit: by rho, or those that leave on the validation data
    realised: tuple[float, ...]  #: shares that left there on the test data
    cost: float  #: mean cost a test sample, in the unit of the costs given
    accuracy: float  #: on the test data, in [0, 1]


@dataclass(frozen=True, eq=False)
class ExitStudy:
    """Logits of every exit on validation and on test samples, kept to answer every question without the network.

    `train.study` makes one. Confidence is the largest class probability.

    >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.1, 0.0]])
    >>> exits = (torch.cat([sure, unsure]), torch.cat([sure, sure]))
    >>> labels = torch.tensor([0, 0])
    >>> study = ExitStudy((1.0, 3.0), exits, labels, exits, labels)
    >>> study.at([0.9, 0.0]).realised
    (0.5, 0.5)
    """

    costs: tuple[float, ...]  #: (K,) cumulative cost of each exit
    validation_logits: tuple[Tensor, ...]  #: K tensors (N, classes)
    validation_labels: Tensor  #: (N,) int64
    test_logits: tuple[Tensor, ...]  #: K tensors (M, classes)
    test_labels: Tensor  #: (M,) int64

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            logits: tuple[Tensor, ...] = getattr(self, f"{name}_logits")
            labels: Tensor = getattr(self, f"{name}_labels")
            if len(logits) != len(self.costs):
                raise ValueError(f"{name}_logits: got {len(logits)} exits, expected one for each of {self.exits} costs")
            if any(len(one) != len(labels) for one in logits):
                rows = [len(one) for one in logits]
                raise ValueError(f"{name}_logits: got {rows} rows, expected one for each of {len(labels)} labels")

    @property
    def exits(self) -> int:
        """K"""
        return len(self.costs)

    @cached_property
    def accuracies(self) -> tuple[float, ...]:
        """Of each exit alone on all test samples, in [0, 1]: anytime prediction's curve."""
        return tuple(_accuracy(logits, self.test_labels) for logits in self.test_logits)

    @cached_property
    def validation_accuracy(self) -> float:
        """Of the last exit on all validation samples, in [0, 1]: what choices of thresholds are held against."""
        return _accuracy(self.validation_logits[-1], self.validation_labels)

    @cached_property
    def validation_confidence(self) -> Tensor:
        """(N, K)"""
        return torch.stack([confidence(logits) for logits in self.validation_logits], 1)

    @cached_property
    def test_confidence(self) -> Tensor:
        """(M, K)"""
        return torch.stack([confidence(logits) for logits in self.test_logits], 1)

    def thresholds(self, rho: float) -> Tensor:
        """(K,) thresholds that let the shares of `rho` leave on the validation samples."""
        return find_thresholds(self.validation_confidence, exit_shares(rho, self.exits))

    def exit_index(self, thresholds: Tensor | Sequence[float]) -> Tensor:
        """(M,) int64, the exit each test sample takes."""
        return choose_exit(self.test_confidence, thresholds)

    def at_rho(self, rho: float) -> OperatingPoint:
        """What the thresholds for the shares of `rho` do on the test samples."""
        return self._result(self._setting(self.thresholds(rho), rho))

    def at(self, thresholds: Tensor | Sequence[float]) -> OperatingPoint:
        """What given thresholds do on the test samples."""
        return self._result(self._setting(as_thresholds(thresholds, self.exits)))

    def sweep(self, rhos: Iterable[float] = RHOS) -> list[OperatingPoint]:
        """A point for every rho: the curve of accuracy against cost."""
        return [self.at_rho(rho) for rho in rhos]

    def cheapest(self, margin: float = 0.0025) -> OperatingPoint:
        """The cheapest setting that loses at most `margin` of the last exit's accuracy on the validation samples."""
        # the last digit: a setting that loses exactly the margin must not be lost to rounding
        least = self.validation_accuracy - margin - 1e-9
        good = [setting for setting in self._settings if setting.accuracy >= least]
        return self._result(min(good, key=lambda setting: setting.cost))

    def within(self, budget: float) -> OperatingPoint:
        """The setting of best accuracy on the validation samples whose mean cost there is at most `budget`.

        Raises:
            ValueError: even the first exit costs more.
        """
        affordable = [setting for setting in self._settings if setting.cost <= budget]
        if not affordable:
            raise ValueError(f"budget: got {budget:g}, expected at least the first exit's cost, {self.costs[0]:g}")
        return self._result(max(affordable, key=lambda setting: (setting.accuracy, -setting.cost)))

    @cached_property
    def _settings(self) -> list[_Setting]:
        """All that `cheapest` and `within` choose from: shares by rho, one bar for all exits, everybody at one end."""
        bars = [torch.full((self.exits,), bar) for bar in torch.linspace(0.3, 1.0, 71).tolist()]
        ends = [self._setting(self.thresholds(rho), rho) for rho in (0.0, float("inf"))]
        return [*ends, *(self._setting(self.thresholds(rho), rho) for rho in RHOS), *map(self._setting, bars)]

    def _setting(self, bar: Tensor, rho: float = float("nan")) -> _Setting:
        leaves = choose_exit(self.validation_confidence, bar)
        shares = _shares(leaves, self.exits)
        wanted = shares if math.isnan(rho) else tuple(exit_shares(rho, self.exits).tolist())
        accuracy = _accuracy(answers_at(self.validation_logits, leaves), self.validation_labels)
        return _Setting(bar, rho, wanted, mean_cost(shares, self.costs), accuracy)

    def _result(self, setting: _Setting) -> OperatingPoint:
        leaves = self.exit_index(setting.bar)
        shares = _shares(leaves, self.exits)
        accuracy = _accuracy(answers_at(self.test_logits, leaves), self.test_labels)
        bar = tuple(setting.bar.tolist())
        return OperatingPoint(setting.rho, bar, setting.wanted, shares, mean_cost(shares, self.costs), accuracy)


@dataclass(frozen=True)
class _Setting:
    """Thresholds and what they do on the validation samples."""

    bar: Tensor
    rho: float
    wanted: tuple[float, ...]
    cost: float
    accuracy: float


def _shares(exit_index: Tensor, exits: int) -> tuple[float, ...]:
    return tuple((exit_index.bincount(minlength=exits).double() / max(len(exit_index), 1)).tolist())


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
