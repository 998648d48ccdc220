"""Heuristic pricing in layers, for GPUs: all depots and all trips of a layer at once, a fixed number of labels each.

Trips that depart within the shortest trip's time of each other cannot follow one another, so that a day falls into a
few dozen layers. In each, the labels of all predecessors are gathered, the illegal ones struck out, and of the rest
the cheapest that no other dominates are kept. Truncation makes it a heuristic: only `Pricer` proves anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.labelling import trace
from course_lib.beyond.cg_p.pricing import WORTHWHILE, Pricing, spread
from course_lib.beyond.cg_p.timetable import NO_WAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: Fields of a label, the last axis, as in `labelling.Label`.
COST, START, DRIVING, STRETCH, FED, PAID, PARENT = range(7)


def layers(graph: DutyGraph) -> list[NDArray[np.int64]]:
    """The trips in groups, by departure, such that no arc joins two of the same group."""
    groups, begin = [], 0
    nearest = np.full(len(graph.timetable), -1)  # the last trip from which an arc comes
    np.maximum.at(nearest, graph.head, graph.tail)
    for j in range(1, len(graph.timetable) + 1):
        if j == len(graph.timetable) or nearest[j] >= begin:
            groups.append(np.arange(begin, j))
            begin = j
    return groups


def _predecessors(graph: DutyGraph, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """(trips, widest) arcs into each trip of a layer, -1 where there are fewer."""
    first, count = graph.in_start[group], np.diff(graph.in_start)[group]
    arcs = first[:, None] + np.arange(int(count.max(initial=0)))
    return np.where(np.arange(arcs.shape[1]) < count[:, None], arcs, -1)


class _Arrays:
    """The graph on the device, in float32 where it is minutes: small whole numbers, exact there."""

    def __init__(self, graph: DutyGraph, device: torch.device) -> None:
        def on(array: NDArray, kind: torch.dtype = torch.float64) -> Tensor:
            return torch.as_tensor(np.array(array), device=device).to(kind)

        table = graph.timetable
        self.departure, self.arrival = on(table.departure), on(table.arrival)
        self.tail, self.ride, self.cost = on(graph.tail, torch.int64), on(graph.ride), on(graph.cost)
        self.rests, self.meals = on(graph.rests, torch.bool), on(graph.meals)
        self.sources = on(np.where(graph.sources >= NO_WAY, np.inf, graph.sources))
        self.sinks = on(np.where(graph.sinks >= NO_WAY, np.inf, graph.sinks))


class LayeredPricer:
    """The heuristic pricing of one graph on one device.

    Args:
        graph: of n trips and D depots.
        device: to compute on.
    """

    def __init__(self, graph: DutyGraph, device: torch.device | str = "cpu") -> None:
        self.graph, self.arrays = graph, _Arrays(graph, torch.device(device))
        self.groups = layers(graph)

    def price(
        self,
        duals: NDArray[np.float64],
        *,
        labels: int = 8,
        threshold: float = -WORTHWHILE,
        most: int = 150,
        per_trip: int = 10,
    ) -> Pricing:
        """Duties with reduced cost below `threshold`, found with a fixed number of labels a trip and depot.

        Args:
            duals: (n,).
            labels: K, kept for each trip and depot.
            threshold, most, per_trip: as in `Pricer.price`.

        Returns:
            A `Pricing` that is never `exact`.
        """
        graph, arrays = self.graph, self.arrays
        n, depots, device = len(graph.timetable), len(graph.sources), arrays.departure.device
        price = torch.as_tensor(duals, device=device, dtype=torch.float64)
        table = torch.full((n, depots, labels, 7), torch.inf, device=device, dtype=torch.float64)
        for group in self.groups:
            table[group[0] : group[-1] + 1] = _extend_layer(graph, arrays, table, group, price, labels)
        reduced, true = _home(graph, arrays, table)
        flat = reduced.reshape(n, -1)
        best, where = flat.min(1) if n else (flat.sum(1), flat.sum(1).long())
        values, slots = best.cpu().numpy(), where.cpu().numpy()
        order = np.argsort(values, kind="stable")
        order = order[values[order] < threshold]
        ends = order * depots * labels + slots[order]
        found = self._duties(table, true.ravel().cpu().numpy(), ends)
        return Pricing(
            columns=spread(found, n, most=most, per_trip=per_trip),
            least=float(values[order[0]]) if len(order) else min(threshold, 0.0),
            through=np.full(n, -np.inf),
            exact=False,
            truncated=0,
            labels=int(torch.isfinite(table[..., COST]).sum()),
            extensions=len(graph) * depots * labels,
        )

    def _duties(self, table: Tensor, costs: NDArray[np.float64], ends: NDArray[np.int64]) -> Columns:
        """The duties that end with some labels, which are numbered through all trips, depots and slots."""
        n, depots, labels = table.shape[:3]
        parent = table[..., PARENT].ravel().cpu().numpy()
        trip, place = np.divmod(np.arange(n * depots * labels), depots * labels)
        depot = place // labels
        before = np.where(np.isfinite(parent), parent, -1.0).astype(np.int64)  # trip * K + slot, of the same depot
        before = np.where(before < 0, -1, before // labels * depots * labels + depot * labels + before % labels)
        first, trips = trace(trip, before, ends)
        return Columns(first, trips, costs[ends], depot[ends].astype(np.int32))


def _extend_layer(
    graph: DutyGraph, arrays: _Arrays, table: Tensor, group: NDArray[np.int64], price: Tensor, labels: int
) -> Tensor:
    """(trips of the layer, D, K, 7): the labels kept there."""
    rules, device = graph.rules, table.device
    trips = torch.as_tensor(group, device=device)
    arcs = torch.as_tensor(_predecessors(graph, group), device=device)  # (m, P)
    depots, wide = table.shape[1], arcs.shape[1]
    start = arrays.departure[trips] - rules.sign_on - arrays.sources[:, trips]  # (D, m)
    begin = torch.full((len(group), depots, 1, 7), -1.0, device=device, dtype=table.dtype)
    paid = rules.deadhead_cost * arrays.sources[:, trips]
    begin[..., 0, START] = begin[..., 0, STRETCH] = start.T
    begin[..., 0, PAID] = paid.T
    begin[..., 0, COST] = (paid - rules.minute_cost * start - price[trips]).T
    begin[..., 0, DRIVING] = (arrays.arrival - arrays.departure)[trips, None]
    begin[..., 0, FED] = (rules.meal_window[0] < start.T).double() if rules.meal_window else 1.0
    candidates = begin
    if wide:
        arc = arcs.clamp(min=0)
        tail = arrays.tail[arc]
        longer = table[tail].clone()  # (m, P, D, K, 7)
        slots = torch.arange(labels, device=device)
        longer[..., PARENT] = (tail[:, :, None, None] * labels + slots).double()
        longer[..., COST] += (arrays.cost[arc] - price[trips][:, None])[..., None, None]
        longer[..., PAID] += arrays.cost[arc][..., None, None]
        longer[..., DRIVING] += (arrays.arrival - arrays.departure)[trips][:, None, None, None]
        rested = arrays.departure[trips][:, None] - arrays.ride[arc]
        longer[..., STRETCH] = torch.where(
            arrays.rests[arc][..., None, None], rested[..., None, None], longer[..., STRETCH]
        )
        longer[..., FED] = torch.maximum(longer[..., FED], arrays.meals[arc][..., None, None])
        longer[..., COST].masked_fill_((arcs < 0)[..., None, None], torch.inf)
        longer = longer.permute(0, 2, 1, 3, 4).reshape(len(group), depots, wide * labels, 7)
        candidates = torch.cat([begin, longer], 2)
    arrival = arrays.arrival[trips][:, None, None]
    legal = (
        (candidates[..., DRIVING] <= rules.max_driving)
        & (arrival - candidates[..., STRETCH] <= rules.max_stretch)
        & (arrival + rules.sign_off - candidates[..., START] <= rules.max_duty)
    )
    candidates[..., COST] = torch.where(legal, candidates[..., COST], torch.inf)
    return _best(candidates, labels)


def _best(candidates: Tensor, labels: int) -> Tensor:
    """The cheapest K that no other of the cheapest 3 K dominates.  (m, D, C, 7) -> (m, D, K, 7)"""
    short = min(3 * labels, candidates.shape[2])
    order = candidates[..., COST].topk(short, largest=False, sorted=True).indices
    candidates = candidates.gather(2, order[..., None].expand(*order.shape, 7))
    a, b = candidates[..., :, None, :], candidates[..., None, :, :]  # does a dominate b?
    beats = (b[..., START] <= a[..., START]) & (a[..., DRIVING] <= b[..., DRIVING])
    beats &= (a[..., STRETCH] >= b[..., STRETCH]) & (a[..., FED] >= b[..., FED]) & (a[..., COST] <= b[..., COST])
    # Of two equals the first stays.
    earlier = torch.ones(short, short, dtype=torch.bool, device=candidates.device).triu(1)
    beaten = (beats & earlier).any(-2)
    candidates[..., COST] = torch.where(beaten, torch.inf, candidates[..., COST])
    if short < labels:
        empty = torch.full((*candidates.shape[:2], labels - short, 7), torch.inf, device=candidates.device)
        candidates = torch.cat([candidates, empty.to(candidates.dtype)], 2)
    kept = candidates[..., COST].topk(labels, largest=False, sorted=True).indices
    return candidates.gather(2, kept[..., None].expand(*kept.shape, 7))


def _home(graph: DutyGraph, arrays: _Arrays, table: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D, K) reduced and true costs of ending after each label, inf where that is illegal."""
    rules = graph.rules
    sinks = arrays.sinks.T[..., None]  # (n, D, 1)
    end = arrays.arrival[:, None, None] + sinks + rules.sign_off
    legal = torch.isfinite(table[..., COST]) & torch.isfinite(sinks) & (end - table[..., START] <= rules.max_duty)
    if rules.meal_window:
        legal &= (end < rules.meal_window[1]) | (table[..., FED] > 0)
    price = rules.fixed_cost + rules.minute_cost * end + rules.deadhead_cost * sinks
    reduced = torch.where(legal, table[..., COST] + price, torch.inf)
    return reduced, torch.where(legal, table[..., PAID] + price - rules.minute_cost * table[..., START], torch.inf)
