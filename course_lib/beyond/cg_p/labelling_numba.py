"""The labelling of `labelling`, compiled: the same labels in the same order, some twenty times faster.

Flat arrays instead of lists: the labels of all trips lie one after another in arrays that grow. Functions have the
names, arguments and results of those in `labelling`, where each step is explained. The rules of an extension are
written out in both loops: a function of their own would be handed all arrays each time, which takes three times as
long.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.labelling import DEADLINE_STEP, DRIVING_STEP, Flat, Label, Labels

# mypy: disable-error-code="no-untyped-def, assignment"
# numba infers the types of what it compiles; the public functions at the end are annotated.


@njit(cache=True)
def _completion(flat, duals):
    n, wide = len(flat.departure), flat.deadlines
    deep = -(-flat.max_driving // DRIVING_STEP) + 1
    least = np.full((n, wide, deep), np.inf)
    for j in range(n - 1, -1, -1):
        if flat.sink[j] >= 0:
            end = flat.arrival[j] + flat.sink[j] + flat.sign_off
            price = flat.fixed_cost + flat.minute_cost * end + flat.deadhead_cost * flat.sink[j]
            for k in range(-(-(end - flat.first_deadline) // DEADLINE_STEP) - flat.deadline[j], wide):
                for r in range(deep):
                    least[j, k, r] = min(least[j, k, r], price)
        used = (flat.arrival[j] - flat.departure[j]) // DRIVING_STEP
        for a in range(flat.in_start[j], flat.in_start[j + 1]):
            i = flat.tail[a]
            shift = flat.deadline[j] - flat.deadline[i]
            step = flat.cost[a] - duals[j]
            for k in range(wide - shift):
                for r in range(deep - used):
                    way = step + least[j, k, r]
                    if way < least[i, k + shift, r + used]:
                        least[i, k + shift, r + used] = way
    return least


@njit(cache=True)
def _label(flat, duals, least, threshold, cap):
    n = len(flat.departure)
    room = 64 * n + 1024
    key, cost, paid = np.empty(room), np.empty(room), np.empty(room)
    start, driving, stretch = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    fed, parent = np.empty(room, np.bool_), np.empty(room, np.int32)
    first, truncated = np.zeros(n + 1, np.int64), np.zeros(n, np.bool_)
    extensions, end = 0, 0
    for j in range(n):
        begin, worst = end, -1
        for a in range(flat.in_start[j] - 1, flat.in_start[j + 1]):
            beginning = a < flat.in_start[j]  # the first round begins a duty, the others extend those of the tail
            lower, upper = 0, 1
            if not beginning:
                lower, upper = first[flat.tail[a]], first[flat.tail[a] + 1]
            for p in range(lower, upper):
                extensions += 1
                if beginning:
                    if flat.source[j] < 0:
                        continue
                    s = flat.departure[j] - flat.sign_on - flat.source[j]
                    d, b, f = flat.arrival[j] - flat.departure[j], s, s > flat.meal_from
                    money = flat.deadhead_cost * flat.source[j]
                    c = money - flat.minute_cost * s - duals[j]
                else:
                    s, d, f = start[p], driving[p] + flat.arrival[j] - flat.departure[j], fed[p] or flat.meals[a]
                    b = flat.departure[j] - flat.ride[a] if flat.rests[a] else stretch[p]
                    money, c = paid[p] + flat.cost[a], cost[p] + flat.cost[a] - duals[j]
                arrival = flat.arrival[j]
                late = arrival - b > flat.max_stretch or arrival + flat.sign_off - s > flat.max_duty
                if late or d > flat.max_driving:
                    continue
                value = c
                if least.size:
                    k = -(-(s + flat.max_duty - flat.first_deadline) // DEADLINE_STEP) - flat.deadline[j]
                    value += least[j, k, -(-(flat.max_driving - d) // DRIVING_STEP)]
                    if not value < threshold:
                        continue
                full = cap > 0 and end - begin >= cap
                if full:
                    if worst < 0:
                        worst = begin + np.argmax(key[begin:end])
                    if value >= key[worst]:
                        truncated[j] = True
                        continue
                k, before, beaten = begin, end, False
                while k < end and not beaten:
                    if cost[k] <= c and start[k] >= s and driving[k] <= d and stretch[k] >= b and fed[k] >= f:
                        beaten = True
                    elif c <= cost[k] and s >= start[k] and d <= driving[k] and b >= stretch[k] and f >= fed[k]:
                        end -= 1  # the last takes its place
                        key[k], cost[k], paid[k], parent[k] = key[end], cost[end], paid[end], parent[end]
                        start[k], driving[k], stretch[k], fed[k] = start[end], driving[end], stretch[end], fed[end]
                    else:
                        k += 1
                if beaten:
                    continue
                k = end
                if full and end == before:  # nobody left: the worst does
                    truncated[j] = True
                    k, end = worst, end - 1
                    key[k], cost[k], paid[k], parent[k] = key[end], cost[end], paid[end], parent[end]
                    start[k], driving[k], stretch[k], fed[k] = start[end], driving[end], stretch[end], fed[end]
                key[end], cost[end], paid[end], parent[end] = value, c, money, -1 if beginning else p
                start[end], driving[end], stretch[end], fed[end] = s, d, b, f
                end, worst = end + 1, -1
                if end == len(key):  # room for as many again
                    key, cost, paid = np.append(key, key), np.append(cost, cost), np.append(paid, paid)
                    start, driving = np.append(start, start), np.append(driving, driving)
                    stretch, fed = np.append(stretch, stretch), np.append(fed, fed)
                    parent = np.append(parent, parent)
        first[j + 1] = end
    rows = (cost[:end], start[:end], driving[:end], stretch[:end], fed[:end], paid[:end], parent[:end], key[:end])
    return first, rows, truncated, extensions


@njit(cache=True)
def _duties_within(flat, duals, least, bound, most):
    n = len(flat.departure)
    cost, paid = np.empty(n + 1), np.empty(n + 1)  # of the path's label at each depth
    start, driving, stretch = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    fed, path, arc = np.empty(n + 1, np.bool_), np.empty(n + 1, np.int32), np.empty(n + 1, np.int64)
    first, true, trips = [0], [0.0][:0], [np.int32(0)][:0]
    for j in range(n):
        if flat.source[j] < 0:
            continue
        start[0] = flat.departure[j] - flat.sign_on - flat.source[j]
        driving[0], stretch[0], fed[0] = flat.arrival[j] - flat.departure[j], start[0], start[0] > flat.meal_from
        paid[0] = flat.deadhead_cost * flat.source[j]
        cost[0] = paid[0] - flat.minute_cost * start[0] - duals[j]
        path[0], arc[0], depth, new = j, flat.out_start[j], 0, True
        while depth >= 0:
            i = path[depth]
            if new:
                left, arrival = flat.max_driving - driving[depth], flat.arrival[i]
                late = (
                    arrival - stretch[depth] > flat.max_stretch
                    or arrival + flat.sign_off - start[depth] > flat.max_duty
                )
                k = -(-(start[depth] + flat.max_duty - flat.first_deadline) // DEADLINE_STEP) - flat.deadline[i]
                if late or left < 0 or not cost[depth] + least[i, k, -(-left // DRIVING_STEP)] <= bound:
                    depth, new = depth - 1, False
                    continue
                end = flat.arrival[i] + flat.sink[i] + flat.sign_off
                price = flat.fixed_cost + flat.minute_cost * end + flat.deadhead_cost * flat.sink[i]
                home = flat.sink[i] >= 0 and end - start[depth] <= flat.max_duty and (end < flat.meal_to or fed[depth])
                if home and cost[depth] + price <= bound:
                    if len(true) >= most:
                        return np.array(first), np.array(trips), np.array(true), False
                    for k in range(depth + 1):
                        trips.append(path[k])
                    first.append(len(trips))
                    true.append(paid[depth] + price - flat.minute_cost * start[depth])
            if arc[depth] == flat.out_start[i + 1]:
                depth, new = depth - 1, False
                continue
            a = flat.out_arcs[arc[depth]]
            arc[depth] += 1
            to, depth, new = flat.head[a], depth + 1, True
            path[depth], arc[depth] = to, flat.out_start[to]
            start[depth], fed[depth] = start[depth - 1], fed[depth - 1] or flat.meals[a]
            driving[depth] = driving[depth - 1] + flat.arrival[to] - flat.departure[to]
            stretch[depth] = flat.departure[to] - flat.ride[a] if flat.rests[a] else stretch[depth - 1]
            paid[depth] = paid[depth - 1] + flat.cost[a]
            cost[depth] = cost[depth - 1] + flat.cost[a] - duals[to]
    return np.array(first), np.array(trips), np.array(true), True


def completion(flat: Flat, duals: NDArray[np.float64]) -> NDArray[np.float64]:
    """See `labelling.completion`."""
    return _completion(flat, duals)


def label(
    flat: Flat,
    duals: NDArray[np.float64],
    least: NDArray[np.float64] | None = None,
    *,
    threshold: float = np.inf,
    cap: int = 0,
) -> Labels:
    """See `labelling.label`."""
    given = np.zeros((0, 0, 0)) if least is None else least
    first, rows, truncated, extensions = _label(flat, duals, given, float(threshold), cap)
    names = (*Label._fields, "key")
    return Labels(first=first, truncated=truncated, extensions=extensions, **dict(zip(names, rows, strict=True)))


def duties_within(
    flat: Flat, duals: NDArray[np.float64], least: NDArray[np.float64], *, bound: float, most: int
) -> tuple[Columns, bool]:
    """See `labelling.duties_within`."""
    first, trips, true, complete = _duties_within(flat, duals, least, float(bound), most)
    return Columns(first, trips, true, np.full(len(true), flat.depot, dtype=np.int32)), complete
