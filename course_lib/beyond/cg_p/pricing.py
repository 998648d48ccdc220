"""Pricing over all depots: the duties worth having at given prices of the trips, and what the search proves.

`Pricer` chooses between the compiled labelling and the readable one, and takes from the labels the columns the master
is given: for each last trip the best duty over all depots, the best ones first, no trip in too many of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.compiled import compiled
from course_lib.beyond.cg_p.labelling import Flat, Labels, homes, trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: A column must save at least this much: less is rounding, and rounding never ends.
WORTHWHILE = 1e-6


@cache
def engine() -> ModuleType:
    """The compiled labelling where numba is installed, else the readable one."""
    try:
        return importlib.import_module("course_lib.beyond.cg_p.labelling_numba")
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return importlib.import_module("course_lib.beyond.cg_p.labelling")


@dataclass(frozen=True)
class Pricing:
    """What one pricing found."""

    columns: Columns  #: to add, least reduced cost first
    least: float  #: least reduced cost found; the threshold, or 0, where none is below it
    through: NDArray[np.float64]  #: (n,) no duty through trip i has a reduced cost below this, if `exact`; at most 0
    exact: bool  #: nothing was truncated
    truncated: int  #: buckets that had to refuse a label
    labels: int
    extensions: int


class HeuristicPricer(Protocol):
    """Finds duties with a fixed number of labels a trip, as `pricing_torch.LayeredPricer` does."""

    def price(self, duals: NDArray[np.float64], *, labels: int, threshold: float, most: int, per_trip: int) -> Pricing:
        """As `Pricer.price`, never exact."""
        ...


class Pricer:
    """The labelling of one graph, depot by depot.

    Args:
        graph: of n trips.
        labelling: the readable module or the compiled one; None for the faster one there is.
        heuristic: who looks with few labels, for instance on a GPU; None for the labelling, whose exact pricing is.
    """

    def __init__(
        self, graph: DutyGraph, *, labelling: ModuleType | None = None, heuristic: HeuristicPricer | None = None
    ) -> None:
        self.graph, self.heuristic = graph, heuristic
        self.labelling = labelling or engine()
        self.flats = [Flat.of(graph, depot) for depot in range(len(graph.sources))]

    def price(
        self,
        duals: NDArray[np.float64],
        *,
        cap: int = 0,
        threshold: float = -WORTHWHILE,
        most: int = 150,
        per_trip: int = 10,
        proceed: Callable[[], object] = lambda: None,
    ) -> Pricing:
        """The duties with reduced cost below `threshold`, or enough of them.

        Args:
            duals: (n,) prices of the trips.
            cap: labels kept a trip and depot; 0 keeps all, which makes the pricing exact.
            threshold: only duties below this are looked for.
            most: columns taken.
            per_trip: columns of one pricing that may cover the same trip.
            proceed: called between two depots; may raise to stop.
        """
        if self.heuristic is not None and cap:
            proceed()
            return self.heuristic.price(duals, labels=cap, threshold=threshold, most=most, per_trip=per_trip)
        n = len(self.graph.timetable)
        best, chosen = np.full((len(self.flats), n), np.inf), np.zeros((len(self.flats), n), dtype=np.int64)
        through, results, costs = np.full(n, min(threshold, 0.0)), [], []
        for d, flat in enumerate(self.flats):
            proceed()
            least = self.labelling.completion(flat, duals)
            labels: Labels = self.labelling.label(flat, duals, least, threshold=threshold, cap=cap)
            results.append(labels)
            cost, reduced = homes(flat, labels)
            costs.append(cost)
            best[d], chosen[d] = _least_by_trip(reduced, labels.first)
            through = np.minimum(through, _least_by_trip(labels.key, labels.first)[0])
        depot = best.argmin(0) if n else np.zeros(0, dtype=np.int64)
        order = np.argsort(best[depot, np.arange(n)], kind="stable")
        order = order[best[depot[order], order] < threshold]
        columns = spread(self._duties(results, costs, chosen, depot, order), n, most=most, per_trip=per_trip)
        truncated = sum(int(labels.truncated.sum()) for labels in results)
        return Pricing(
            columns=columns,
            least=float(best[depot[order[0]], order[0]]) if len(order) else min(threshold, 0.0),
            through=through,
            exact=truncated == 0,
            truncated=truncated,
            labels=sum(len(labels.cost) for labels in results),
            extensions=sum(labels.extensions for labels in results),
        )

    def _duties(
        self,
        results: list[Labels],
        costs: list[NDArray[np.float64]],
        chosen: NDArray[np.int64],
        depot: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> Columns:
        """The duties that end at the trips in `order`, each from its own depot's labels."""
        n, parts, rank = len(self.graph.timetable), [], []
        for d, labels in enumerate(results):
            rank.append(np.flatnonzero(depot[order] == d))
            ends = chosen[d, order[rank[-1]]]
            first, trips = trace(np.repeat(np.arange(n), np.diff(labels.first)), labels.parent, ends)
            parts.append(Columns(first, trips, costs[d][ends], np.full(len(ends), d, dtype=np.int32)))
        return Columns.join(parts).take(np.argsort(np.concatenate(rank), kind="stable"))


def spread(columns: Columns, n: int, *, most: int, per_trip: int) -> Columns:
    """The first duties of which no trip is in more than `per_trip`: better spread, they tell the master more."""
    return columns.take(_spread(columns.first, columns.trips, n, most, per_trip))


@compiled
def _spread(first, trips, n, most, per_trip):  # type: ignore[no-untyped-def]
    """See `spread`."""
    count, taken = np.zeros(n, np.int64), np.empty(len(first), np.int64)
    size = 0
    for c in range(len(first) - 1):
        if size == most:
            break
        room = True
        for k in range(first[c], first[c + 1]):
            room = room and count[trips[k]] < per_trip
        if room:
            for k in range(first[c], first[c + 1]):
                count[trips[k]] += 1
            taken[size] = c
            size += 1
    return taken[:size]


def _least_by_trip(
    values: NDArray[np.float64], first: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The least of each trip's values, and where it stands; inf and 0 where a trip has none."""
    least, where = np.full(len(first) - 1, np.inf), np.zeros(len(first) - 1, dtype=np.int64)
    some = np.flatnonzero(np.diff(first))
    if len(some):
        least[some] = np.minimum.reduceat(values, first[some])
        trip = np.repeat(np.arange(len(first) - 1), np.diff(first))
        hits = np.flatnonzero(values == least[trip])
        where[trip[hits[::-1]]] = hits[::-1]  # the first of equals
    return least, where
