"""Accuracy against cost: the curve every adaptive network is judged by."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CostCurve:
    """Operating points of one network, sorted by cost: costs (multiply-adds, seconds, ...) and accuracies.

    Between neighbouring points the curve is a straight line, which random choice between the two really attains.

    >>> curve = CostCurve([3.0, 1.0], [0.9, 0.7])
    >>> curve.costs, round(curve.at_cost(2.0), 3), round(curve.cost_at_accuracy(0.8), 3)
    ((1.0, 3.0), 0.8, 2.0)
    """

    costs: Sequence[float]
    accuracies: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.costs) != len(self.accuracies) or not len(self.costs):
            raise ValueError(
                f"accuracies: got {len(self.accuracies)} for {len(self.costs)} costs, expected one each, at least one"
            )
        points = sorted((float(c), float(a)) for c, a in zip(self.costs, self.accuracies, strict=True))
        for point in points:
            if not all(math.isfinite(value) for value in point):
                raise ValueError(f"costs, accuracies: got the point {point}, expected finite numbers")
        object.__setattr__(self, "costs", tuple(c for c, _ in points))
        object.__setattr__(self, "accuracies", tuple(a for _, a in points))

    def at_cost(self, cost: float) -> float:
        """Accuracy at `cost`, interpolated; the best one where several points cost the same.

        Raises ValueError outside the costs of the curve.
        """
        if not self.costs[0] <= cost <= self.costs[-1]:
            raise ValueError(f"cost: got {cost}, expected one in [{self.costs[0]}, {self.costs[-1]}]")
        right = bisect_left(self.costs, cost)
        if self.costs[right] == cost:
            return max(a for c, a in zip(self.costs, self.accuracies, strict=True) if c == cost)
        share = (cost - self.costs[right - 1]) / (self.costs[right] - self.costs[right - 1])
        return self.accuracies[right - 1] + share * (self.accuracies[right] - self.accuracies[right - 1])

    def cost_at_accuracy(self, accuracy: float) -> float:
        """Least cost at which the interpolated curve reaches `accuracy`.

        Raises ValueError below the accuracy of the cheapest point (it may be had for less than the curve knows) and
        above the best one.
        """
        if not self.accuracies[0] <= accuracy <= max(self.accuracies):
            raise ValueError(
                f"accuracy: got {accuracy}, expected one in [{self.accuracies[0]}, {max(self.accuracies)}]"
            )
        right = next(i for i, a in enumerate(self.accuracies) if a >= accuracy)
        if right == 0 or self.accuracies[right] == accuracy:
            return self.costs[right]
        low, high = self.accuracies[right - 1], self.accuracies[right]
        return self.costs[right - 1] + (accuracy - low) / (high - low) * (self.costs[right] - self.costs[right - 1])

    def envelope(self) -> CostCurve:
        """The upper-left front: the points that are more accurate than every point that costs no more."""
        best, front = -math.inf, []
        for cost, accuracy in sorted(zip(self.costs, self.accuracies, strict=True), key=lambda p: (p[0], -p[1])):
            if accuracy > best:
                best = accuracy
                front.append((cost, accuracy))
        return CostCurve([c for c, _ in front], [a for _, a in front])
