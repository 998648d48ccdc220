"""Which connections are worth looking at: scores for the arcs, and the small graph that is left of the best of them.

A predictor is anything with `scores(timetable, rules, graph) -> (arcs,)`, larger for arcs more likely in a good plan.
The graph network is one; here are the one-line rule it must beat, and chance.

Source: arXiv 2207.01411, graph reduction; the safeguard of the best arcs of each trip is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph
    from course_lib.beyond.cg_p.rules import CrewRules
    from course_lib.beyond.cg_p.timetable import Timetable


class Predictor(Protocol):
    """What `solve` asks of a predictor."""

    def scores(self, timetable: Timetable, rules: CrewRules, graph: DutyGraph) -> NDArray[np.floating]:
        """(arcs,) of the graph, larger is better."""


@dataclass(frozen=True)
class ShortGaps:
    """Short gaps first, and a minute's deadhead counts half as much again."""

    def scores(self, timetable: Timetable, rules: CrewRules, graph: DutyGraph) -> NDArray[np.floating]:
        """(arcs,) minus the minutes lost between two trips."""
        return -(graph.gap + 0.5 * graph.ride)


@dataclass(frozen=True)
class Chance:
    """Arcs in random order: what a predictor is worth that knows nothing."""

    seed: int = 0

    def scores(self, timetable: Timetable, rules: CrewRules, graph: DutyGraph) -> NDArray[np.floating]:
        """(arcs,) in [0, 1)."""
        return np.random.default_rng(self.seed).random(len(graph))


def best_arcs(graph: DutyGraph, scores: NDArray[np.floating], *, per_trip: float, safe: int = 2) -> NDArray[np.bool_]:
    """The arcs to keep: so many with the best scores, and the best few into and out of each trip.

    By rank, not by a threshold: probabilities are seldom calibrated, and few are above one half.

    Args:
        graph: of n trips and m arcs.
        scores: (m,).
        per_trip: arcs kept for each trip on average, before the safeguard.
        safe: arcs into and arcs out of every trip that are kept whatever their rank.

    Returns:
        (m,) bool.

    Raises:
        ValueError: scores of another shape, or that are not numbers.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != graph.tail.shape or np.isnan(values).any():
        raise ValueError(
            f"scores: got shape {values.shape} with {int(np.isnan(values).sum())} NaN, "
            f"expected a number for each of {len(graph)} arcs"
        )
    kept = np.zeros(len(graph), dtype=bool)
    count = min(per_trip * len(graph.timetable), len(graph)) if len(graph) else 0
    kept[np.argsort(-values, kind="stable")[: round(count)]] = True
    for end in (graph.tail, graph.head):
        order = np.lexsort((-values, end))
        first = np.searchsorted(end[order], end[order])
        kept[order[np.arange(len(order)) - first < safe]] = True
    return kept
