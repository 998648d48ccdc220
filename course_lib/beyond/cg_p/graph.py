"""The connection graph: which trip may follow which, on flat arrays sorted for the labelling and for the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib.beyond.cg_p.rules import CrewRules, rules_for
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, repr=False)
class DutyGraph:
    """n trips in the timetable's order, m arcs i -> j with i < j, D sources and sinks.  All arrays read-only.

    Arcs are sorted by head, then tail: the arcs into trip j are `in_start[j]:in_start[j + 1]`, so trips processed in
    order find the labels they extend final. `out_arcs[out_start[i]:out_start[i + 1]]` are the arcs out of trip i.

    A duty through depot d is legal if its source, its arcs and its sink are there and the resources allow it: duty
    length, driving, stretch and, with a window, the meal. Its cost is `rules.fixed_cost`, plus `rules.minute_cost` from
    sign-on to sign-off, plus `source_cost`, the arcs' `cost` and `sink_cost`.
    """

    timetable: Timetable
    rules: CrewRules
    tail: NDArray[np.int64]  #: (m,) trip before
    head: NDArray[np.int64]  #: (m,) trip after
    in_start: NDArray[np.int64]  #: (n + 1,)
    out_arcs: NDArray[np.int64]  #: (m,) arcs by tail, then head
    out_start: NDArray[np.int64]  #: (n + 1,)
    gap: NDArray[np.int64]  #: (m,) minutes from the arrival to the departure
    ride: NDArray[np.int64]  #: (m,) minutes of them spent on a deadhead
    rests: NDArray[np.bool_]  #: (m,) the wait is a break: a new stretch begins `ride` before the departure
    meals: NDArray[np.bool_]  #: (m,) a break that may begin within the meal window; False without one
    cost: NDArray[np.float64]  #: (m,) of the ride, or of the transition as listed
    sources: NDArray[np.int64]  #: (D, n) minutes from depot d to the trip's origin, or `NO_WAY`
    sinks: NDArray[np.int64]  #: (D, n) minutes from the trip's destination to depot d, or `NO_WAY`

    @classmethod
    def of(cls, timetable: Timetable, rules: CrewRules | None = None) -> DutyGraph:
        """Every connection the rules allow; `rules=None` are the defaults, or those of the OR-Library file.

        Where duties may end at another depot than they began at (`same_depot=False`), D is 1: the nearest depot of each
        trip stands for all. So it is where there is no depot, and then no trip has a way to it.

        Raises:
            ValueError: a timetable that lists its transitions without the rules of that form, or the other way round.
        """
        rules = rules_for(timetable, rules)
        tail, head, cost = _listed(timetable) if rules.explicit else _connections(timetable, rules)
        on_board = timetable.follows[tail] == head
        gap = timetable.departure[head] - timetable.arrival[tail]
        ride = timetable.deadhead[timetable.destination[tail], timetable.origin[head]]
        ride = np.where(on_board | rules.explicit, 0, ride)
        rests = (gap - ride >= rules.break_minutes) & ~on_board
        sources, sinks = _ends(timetable, rules)
        order = np.lexsort((tail, head))
        arrays = {
            "tail": tail, "head": head, "gap": gap, "ride": ride, "rests": rests,
            "meals": rests & _meets_window(timetable.arrival[tail], gap - ride, rules),
            "cost": cost if rules.explicit else rules.deadhead_cost * ride,
        }  # fmt: skip
        return cls(timetable, rules, **_sorted(arrays, order, len(timetable)), sources=sources, sinks=sinks)

    def __len__(self) -> int:
        """The number of arcs."""
        return len(self.tail)

    def __repr__(self) -> str:
        return f"DutyGraph({len(self.timetable)} trips, {len(self)} arcs, {len(self.sources)} depots)"

    @property
    def edge_index(self) -> NDArray[np.int64]:
        """(2, m) tails and heads, as graph networks want them."""
        return np.stack([self.tail, self.head])

    def keep(self, kept: NDArray[np.bool_]) -> DutyGraph:
        """The graph with some of its arcs, and all of its sources and sinks.

        Args:
            kept: (m,) bool.
        """
        if kept.shape != self.tail.shape or kept.dtype != np.bool_:
            raise ValueError(f"kept: got {kept.dtype} of shape {kept.shape}, expected bool of shape {self.tail.shape}")
        names = ("tail", "head", "gap", "ride", "rests", "meals", "cost")
        arrays = {name: getattr(self, name)[kept] for name in names}
        changed: dict[str, Any] = _sorted(arrays, np.arange(int(kept.sum())), len(self.timetable))
        return replace(self, **changed)

    def arcs_along(self, trips: Sequence[int]) -> NDArray[np.int64]:
        """The arcs a duty uses, in its order.  trips (k,) -> (k - 1,).

        Raises:
            ValueError: two of them are not connected here.
        """
        path = np.asarray(trips, dtype=np.int64)
        n = len(self.timetable)
        keys, wanted = self.head * n + self.tail, path[1:] * n + path[:-1]
        found = np.searchsorted(keys, wanted)
        there = np.append(keys, -1)[found] == wanted
        if not there.all():
            first = int(np.flatnonzero(~there)[0])
            raise ValueError(f"trips: got {path[first]} before {path[first + 1]}, expected trips connected by an arc")
        return found

    def unused_depots(self) -> tuple[str, ...]:
        """The depots at which no duty can begin or none can end, by name."""
        if not self.rules.same_depot or self.rules.explicit or not self.timetable.depots:
            return ()
        dead: NDArray[np.bool_] = np.all(self.sources >= NO_WAY, axis=1) | np.all(self.sinks >= NO_WAY, axis=1)
        return tuple(self.timetable.stations[d] for d, idle in zip(self.timetable.depots, dead, strict=True) if idle)

    def obstacle(self, trip: int) -> str:
        """Why no duty covers a trip that none can cover, in a sentence: the first of the plain reasons that holds."""
        t, rules, who = self.timetable, self.rules, self.timetable.describe(trip)
        most = min(
            rules.max_driving, rules.max_stretch - rules.sign_on, rules.max_duty - rules.sign_on - rules.sign_off
        )
        if t.duration[trip] > most:
            return f"{who} takes {t.duration[trip]} min; a crew may drive {most} at a time."
        ways = [
            (self.sources, self.in_start, "has no way to its origin", "earlier"),
            (self.sinks, self.out_start, "has no way home from its destination", "later"),
        ]
        for ends, start, missing, other in ways:
            if np.all(ends[:, trip] >= NO_WAY) and start[trip] == start[trip + 1]:
                return (
                    f"{who}: a crew {missing}: no depot is within {rules.max_deadhead} min, no {other} trip connects."
                )
        return f"{who}: every way from a depot through it and back breaks a limit."


def _listed(timetable: Timetable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The transitions the file names, with their costs.  Never derived from times: about half of those are absent."""
    assert timetable.links is not None
    return timetable.links[:, 0], timetable.links[:, 1], timetable.links[:, 2].astype(np.float64)


def _connections(timetable: Timetable, rules: CrewRules) -> tuple[NDArray[np.int64], NDArray[np.int64], None]:
    """Pairs of trips with time enough, and not too much, between them; pieces of one train always."""
    n, departure, arrival = len(timetable), timetable.departure, timetable.arrival
    first = np.searchsorted(departure, arrival + rules.min_connection)
    last = np.searchsorted(departure, arrival + rules.max_wait, side="right")
    count = np.maximum(last - first, 0)
    tail = np.repeat(np.arange(n), count)
    head = np.arange(len(tail)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    ride = timetable.deadhead[timetable.destination[tail], timetable.origin[head]]
    gap = departure[head] - arrival[tail]
    legal = (ride <= rules.max_deadhead) & (gap >= ride + rules.min_connection) & (timetable.follows[tail] != head)
    train = np.flatnonzero(timetable.follows >= 0)
    return np.concatenate([tail[legal], train]), np.concatenate([head[legal], timetable.follows[train]]), None


def _ends(timetable: Timetable, rules: CrewRules) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Minutes from each depot to each trip's origin, and from its destination back: (D, n) each."""
    if rules.explicit:
        zeros = np.zeros((1, len(timetable)), dtype=np.int64)
        return _frozen(zeros), _frozen(zeros)
    depots = np.array(timetable.depots, dtype=np.int64)
    sources = timetable.deadhead[depots[:, None], timetable.origin]
    sinks = timetable.deadhead[timetable.destination[:, None], depots].T
    if not rules.same_depot or not len(depots):
        sources, sinks = (ends.min(0, keepdims=True, initial=NO_WAY) for ends in (sources, sinks))
    return tuple(_frozen(np.where(ends <= rules.max_deadhead, ends, NO_WAY)) for ends in (sources, sinks))  # type: ignore[return-value]


def _meets_window(arrival: NDArray[np.int64], wait: NDArray[np.int64], rules: CrewRules) -> NDArray[np.bool_]:
    """Whether a break of full length can begin within both the wait and the meal window."""
    if rules.meal_window is None:
        return np.zeros(len(wait), dtype=bool)
    earliest, latest = rules.meal_window
    return np.maximum(arrival, earliest) <= np.minimum(arrival + wait - rules.break_minutes, latest)


def _sorted(arrays: dict[str, NDArray], order: NDArray[np.int64], n: int) -> dict[str, NDArray]:
    """The arcs' arrays in the given order, with the ranges of arcs into and out of each of n trips."""
    result = {name: array[order] for name, array in arrays.items()}
    out = np.lexsort((result["head"], result["tail"]))
    result["out_arcs"] = out
    result["in_start"] = np.searchsorted(result["head"], np.arange(n + 1))
    result["out_start"] = np.searchsorted(result["tail"][out], np.arange(n + 1))
    return {name: _frozen(array) for name, array in result.items()}


def _frozen(array: NDArray) -> NDArray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
