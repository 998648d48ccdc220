"""Pricing by label setting: the cheapest duty at given prices of the trips, among more duties than anyone can list.

A duty is a path through the connection graph, and a label is the beginning of one: what it has cost so far, and what
it has used up. Trips are processed by departure; each label of a trip is extended along the arcs to later ones, and a
label that is no better than another in any respect is dropped. This is the readable version, in plain Python;
`labelling_numba` has the same functions, compiled.

Source: resource constrained shortest paths as in Irnich and Desaulniers (2005); the duty rules are `rules.CrewRules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.timetable import NO_WAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: Minutes between the deadlines, and between the driving times, for which `completion` keeps a value of its own.
DEADLINE_STEP = 30
DRIVING_STEP = 30


class Flat(NamedTuple):
    """All that the labelling of one depot reads: n trips, m arcs by head, limits in minutes, prices."""

    departure: NDArray[np.int32]  #: (n,)
    arrival: NDArray[np.int32]  #: (n,)
    in_start: NDArray[np.int32]  #: (n + 1,) the arcs into trip j are in_start[j]:in_start[j + 1]
    tail: NDArray[np.int32]  #: (m,)
    head: NDArray[np.int32]  #: (m,)
    out_start: NDArray[np.int32]  #: (n + 1,) the arcs out of trip i are out_arcs[out_start[i]:out_start[i + 1]]
    out_arcs: NDArray[np.int32]  #: (m,)
    ride: NDArray[np.int32]  #: (m,)
    rests: NDArray[np.bool_]  #: (m,)
    meals: NDArray[np.bool_]  #: (m,)
    cost: NDArray[np.float64]  #: (m,)
    source: NDArray[np.int32]  #: (n,) minutes from the depot, -1 where there is no way
    sink: NDArray[np.int32]  #: (n,) minutes to the depot, -1 where there is no way
    sign_on: int
    sign_off: int
    max_duty: int
    max_driving: int
    max_stretch: int
    meal_from: int  #: who signs on after this, or off before `meal_to`, owes no meal
    meal_to: int
    fixed_cost: float
    minute_cost: float
    deadhead_cost: float
    first_deadline: int  #: the deadline with number 0
    deadline: NDArray[np.int32]  #: (n,) number of the first deadline that can be met after each trip
    deadlines: int  #: how many of them `completion` keeps a trip
    depot: int

    @classmethod
    def of(cls, graph: DutyGraph, depot: int) -> Flat:
        """The graph as depot number `depot` sees it."""
        rules, table = graph.rules, graph.timetable
        meal_from, meal_to = rules.meal_window or (-NO_WAY, NO_WAY)
        first = int(table.departure[0]) // DEADLINE_STEP * DEADLINE_STEP if len(table) else 0
        # Limits that no duty can reach would only make `completion` larger.
        day = int(table.arrival.max(initial=first)) - first
        max_duty = min(rules.max_duty, rules.sign_on + rules.sign_off + 2 * rules.max_deadhead + day)
        deadline = -(-(table.arrival + rules.sign_off - first) // DEADLINE_STEP)
        last = -(-(table.departure - rules.sign_on + max_duty - first) // DEADLINE_STEP)
        small = {
            name: array.astype(np.int32)
            for name, array in {
                "departure": table.departure,
                "arrival": table.arrival,
                "in_start": graph.in_start,
                "tail": graph.tail,
                "head": graph.head,
                "out_start": graph.out_start,
                "out_arcs": graph.out_arcs,
                "ride": graph.ride,
                "source": np.where(graph.sources[depot] >= NO_WAY, -1, graph.sources[depot]),
                "sink": np.where(graph.sinks[depot] >= NO_WAY, -1, graph.sinks[depot]),
                "deadline": deadline,
            }.items()
        }
        return cls(
            **small,
            rests=graph.rests.copy(),
            meals=graph.meals.copy(),
            cost=graph.cost.copy(),
            sign_on=rules.sign_on,
            sign_off=rules.sign_off,
            max_duty=max_duty,
            max_driving=min(rules.max_driving, max_duty),
            max_stretch=rules.max_stretch,
            meal_from=meal_from,
            meal_to=meal_to,
            fixed_cost=float(rules.fixed_cost),
            minute_cost=float(rules.minute_cost),
            deadhead_cost=float(rules.deadhead_cost),
            first_deadline=first,
            deadlines=int((last - deadline).max(initial=0)) + 1,
            depot=depot,
        )


class Label(NamedTuple):
    """The beginning of a duty, up to and including one trip."""

    cost: float  #: reduced cost so far: `paid`, less the start's price and the trips' duals
    start: int  #: sign-on
    driving: int  #: minutes, this trip included
    stretch: int  #: when the present stretch of work began
    fed: bool  #: no meal is owed any more
    paid: float  #: for rides and transitions, part of the duty's true cost
    parent: int  #: number of the label this one extends, -1 at the first trip


class Labels(NamedTuple):
    """The labels kept: those of trip j are first[j]:first[j + 1]."""

    first: NDArray[np.int64]  #: (n + 1,)
    cost: NDArray[np.float64]
    start: NDArray[np.int32]
    driving: NDArray[np.int32]
    stretch: NDArray[np.int32]
    fed: NDArray[np.bool_]
    paid: NDArray[np.float64]
    parent: NDArray[np.int32]
    key: NDArray[np.float64]  #: `cost` plus `completion`: no duty that begins like this ends with less
    truncated: NDArray[np.bool_]  #: (n,) a label was refused for want of room
    extensions: int  #: labels tried


Dominance = Callable[[Label, Label], bool]


def dominates(a: Label, b: Label) -> bool:
    """Whether a is at least as good as b in every respect: whatever b can still do, a can, and at no greater cost."""
    return (
        a.cost <= b.cost and a.start >= b.start and a.driving <= b.driving and a.stretch >= b.stretch and a.fed >= b.fed
    )


# Completion: what the rest of a duty costs at least ------------------------------------------------------------------


def completion(flat: Flat, duals: NDArray[np.float64]) -> NDArray[np.float64]:
    """A lower bound on the reduced cost of the rest of a duty, so that hopeless labels need not be extended.

    least[i, k, r] is the cheapest way on from trip i that signs off by deadline number `deadline[i] + k`, with at most
    r steps of driving left; breaks and meals are ignored and the driving of each trip is rounded down, so that no real
    rest of a duty is cheaper. A shortest path in a graph without circles, computed backwards.

    Args:
        flat: the graph.
        duals: (n,).

    Returns:
        (n, `flat.deadlines`, steps of driving + 1), inf where there is no way on.
    """
    n = len(flat.departure)
    deep = -(-flat.max_driving // DRIVING_STEP) + 1
    least = np.full((n, flat.deadlines, deep), np.inf)
    for j in range(n - 1, -1, -1):
        if flat.sink[j] >= 0:
            end = int(flat.arrival[j] + flat.sink[j]) + flat.sign_off
            k = -(-(end - flat.first_deadline) // DEADLINE_STEP) - int(flat.deadline[j])
            price = flat.fixed_cost + flat.minute_cost * end + flat.deadhead_cost * int(flat.sink[j])
            least[j, k:] = np.minimum(least[j, k:], price)
        used = int(flat.arrival[j] - flat.departure[j]) // DRIVING_STEP
        if used >= deep:
            continue
        for a in range(flat.in_start[j], flat.in_start[j + 1]):
            i = flat.tail[a]
            shift = int(flat.deadline[j] - flat.deadline[i])
            if shift < flat.deadlines:
                way = flat.cost[a] - duals[j] + least[j, : flat.deadlines - shift, : deep - used]
                np.minimum(least[i, shift:, used:], way, out=least[i, shift:, used:])
    return least


def rest(flat: Flat, least: NDArray[np.float64], trip: int, start: int, driving: int) -> float:
    """The entry of `completion` for a duty that signed on at `start` and has driven `driving` minutes."""
    k = -(-(start + flat.max_duty - flat.first_deadline) // DEADLINE_STEP) - flat.deadline[trip]
    return float(least[trip, k, -(-(flat.max_driving - driving) // DRIVING_STEP)])


# Labels --------------------------------------------------------------------------------------------------------------


def _begin(flat: Flat, j: int, dual: float) -> Label | None:
    """A duty that begins with trip j."""
    if flat.source[j] < 0:
        return None
    ride = int(flat.source[j])
    start = int(flat.departure[j]) - flat.sign_on - ride
    paid = flat.deadhead_cost * ride
    label = Label(
        cost=paid - flat.minute_cost * start - dual,
        start=start,
        driving=int(flat.arrival[j] - flat.departure[j]),
        stretch=start,
        fed=start > flat.meal_from,
        paid=paid,
        parent=-1,
    )
    return label if _legal(flat, j, label) else None


def _extend(flat: Flat, label: Label, parent: int, arc: int, j: int, dual: float) -> Label | None:
    """The label at trip j, reached along an arc; None if a rule forbids it."""
    longer = Label(
        cost=label.cost + flat.cost[arc] - dual,
        start=label.start,
        driving=label.driving + int(flat.arrival[j] - flat.departure[j]),
        stretch=int(flat.departure[j] - flat.ride[arc]) if flat.rests[arc] else label.stretch,
        fed=label.fed or bool(flat.meals[arc]),
        paid=label.paid + flat.cost[arc],
        parent=parent,
    )
    return longer if _legal(flat, j, longer) else None


def _legal(flat: Flat, j: int, label: Label) -> bool:
    arrival = int(flat.arrival[j])
    return (
        label.driving <= flat.max_driving
        and arrival - label.stretch <= flat.max_stretch
        and arrival + flat.sign_off - label.start <= flat.max_duty
    )


class _Bucket:
    """The labels of one trip: none dominates another; with a cap, those with the least `key` seen so far."""

    def __init__(self, cap: int, better: Dominance) -> None:
        self.cap, self.better = cap, better
        self.labels: list[Label] = []
        self.keys: list[float] = []
        self.truncated = False

    def offer(self, label: Label, key: float) -> None:
        full = self.cap > 0 and len(self.labels) >= self.cap
        if full and key >= max(self.keys):
            self.truncated = True
            return
        k = 0
        while k < len(self.labels):
            if self.better(self.labels[k], label):
                return
            if self.better(label, self.labels[k]):
                self._drop(k)
            else:
                k += 1
        if self.cap > 0 and len(self.labels) >= self.cap:
            self.truncated = True
            self._drop(self.keys.index(max(self.keys)))
        self.labels.append(label)
        self.keys.append(key)

    def _drop(self, k: int) -> None:
        """The last takes the place of the k-th."""
        self.labels[k], self.keys[k] = self.labels[-1], self.keys[-1]
        self.labels.pop()
        self.keys.pop()


def label(
    flat: Flat,
    duals: NDArray[np.float64],
    least: NDArray[np.float64] | None = None,
    *,
    threshold: float = np.inf,
    cap: int = 0,
    better: Dominance = dominates,
) -> Labels:
    """All labels that no other dominates, trip by trip.

    Args:
        flat: the graph.
        duals: (n,) prices of the trips.
        least: from `completion`; only labels that can still end below `threshold` are then kept. None keeps all.
        threshold: a reduced cost.
        cap: the most labels kept a trip, those with the least cost (completion included); 0 for no limit. With one
            the least reduced cost found may be too high wherever `truncated` is set.
        better: the dominance test.
    """
    n = len(flat.departure)
    kept: list[Label] = []
    keys: list[float] = []
    first = np.zeros(n + 1, dtype=np.int64)
    truncated = np.zeros(n, dtype=bool)
    extensions = 0
    for j in range(n):
        bucket = _Bucket(cap, better)
        found = [_begin(flat, j, float(duals[j]))]
        for a in range(flat.in_start[j], flat.in_start[j + 1]):
            i = flat.tail[a]
            found += [_extend(flat, kept[p], p, a, j, float(duals[j])) for p in range(first[i], first[i + 1])]
        for candidate in found:
            extensions += 1
            if candidate is None:
                continue
            key = candidate.cost
            if least is not None:
                key += rest(flat, least, j, candidate.start, candidate.driving)
                if not key < threshold:
                    continue
            bucket.offer(candidate, key)
        kept += bucket.labels
        keys += bucket.keys
        first[j + 1], truncated[j] = len(kept), bucket.truncated
    types = (np.float64, np.int32, np.int32, np.int32, np.bool_, np.float64, np.int32)
    fields = list(zip(*kept, strict=True)) or [()] * len(types)
    arrays: dict[str, Any] = {
        name: np.array(field, dtype=kind) for name, field, kind in zip(Label._fields, fields, types, strict=True)
    }
    return Labels(first=first, key=np.array(keys), truncated=truncated, extensions=extensions, **arrays)


# Enumeration ---------------------------------------------------------------------------------------------------------


def duties_within(
    flat: Flat, duals: NDArray[np.float64], least: NDArray[np.float64], *, bound: float, most: int
) -> tuple[Columns, bool]:
    """Every duty whose reduced cost is at most `bound`, by depth-first search; no dominance, so none is missed.

    Args:
        flat, duals, least: as for `label`.
        bound: inf gives every legal duty.
        most: where to stop.

    Returns:
        The duties, and whether they are all.
    """
    found: list[tuple[tuple[int, ...], float, int]] = []

    def visit(label: Label, trips: tuple[int, ...]) -> bool:
        """Whether there was room for all duties that begin with these trips."""
        j = trips[-1]
        if not label.cost + rest(flat, least, j, label.start, label.driving) <= bound:
            return True
        cost, reduced = home(flat, j, label)
        if cost < np.inf and reduced <= bound:
            if len(found) >= most:
                return False
            found.append((trips, cost, flat.depot))
        for arc in flat.out_arcs[flat.out_start[j] : flat.out_start[j + 1]]:
            to = int(flat.head[arc])
            longer = _extend(flat, label, -1, arc, to, float(duals[to]))
            if longer is not None and not visit(longer, (*trips, to)):
                return False
        return True

    begins = [(j, _begin(flat, j, float(duals[j]))) for j in range(len(flat.departure))]
    complete = all(visit(label, (j,)) for j, label in begins if label is not None)
    return Columns.of(found), complete


def home(flat: Flat, j: int, label: Label) -> tuple[float, float]:
    """True and reduced cost of a duty that ends after trip j; inf where it may not."""
    if flat.sink[j] < 0:
        return np.inf, np.inf
    ride = int(flat.sink[j])
    end = int(flat.arrival[j]) + ride + flat.sign_off
    if end - label.start > flat.max_duty or (end >= flat.meal_to and not label.fed):
        return np.inf, np.inf
    price = flat.fixed_cost + flat.minute_cost * end + flat.deadhead_cost * ride
    return label.paid + price - flat.minute_cost * label.start, label.cost + price


def homes(flat: Flat, labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`home` for all labels at once: (labels,) true costs and reduced costs, inf where a duty may not end."""
    trip = np.repeat(np.arange(len(flat.departure)), np.diff(labels.first))
    ride = flat.sink[trip].astype(np.float64)
    end = flat.arrival[trip] + ride + flat.sign_off
    legal = (ride >= 0) & (end - labels.start <= flat.max_duty) & ((end < flat.meal_to) | labels.fed)
    price = np.where(legal, flat.fixed_cost + flat.minute_cost * end + flat.deadhead_cost * ride, np.inf)
    return labels.paid + price - flat.minute_cost * labels.start, labels.cost + price


def trace(
    trip: NDArray[np.int64], parent: NDArray[np.integer], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The trips of many labels' duties, first to last.

    Args:
        trip: (labels,) where each label stands.
        parent: (labels,) the label it extends, -1 for none.
        ends: (k,) the labels wanted.

    Returns:
        (k + 1,) and flat: the trips of duty c are trips[first[c]:first[c + 1]].

    >>> trace(np.array([0, 1, 3]), np.array([-1, 0, 1]), np.array([2, 0]))[1].tolist()
    [0, 1, 3, 0]
    """
    steps, label = [], ends.astype(np.int64)
    while (label >= 0).any():
        steps.append(np.where(label >= 0, trip[label], -1))
        label = np.where(label >= 0, parent[label], -1)
    table = np.stack(steps[::-1], 1) if steps else np.zeros((0, 0), dtype=np.int64)
    return np.concatenate([[0], np.cumsum((table >= 0).sum(1))]), table[table >= 0].astype(np.int32)
