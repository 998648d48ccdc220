"""The rival without columns: the same problem and rules as one integer program over connections.

A yes or no for every connection, every way from a depot and every way home; through each trip goes one crew, and what a
duty may not exceed is carried from trip to trip. CP-SAT is told "if this connection is taken, then ..."; for SCIP each
resource is a flow on the connections taken (Gavish and Graves 1978), far tighter in the linear relaxation than that.

A trip has to be covered at least once, not exactly once: crews may ride along as passengers, and where no other way
leads to a station they must. But what has been driven since the sign-on is another number for each crew, and one node
holds one number. So a trip is one node that exactly one crew visits, and `passengers` more that may stay empty. With
too few of them the model asks for more than the rules do; with more it grows with the square of their number.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from course_lib.beyond.cg_p import bounds
from course_lib.beyond.cg_p.arc_flow_models import Arcs, Ends, Network, Starts, Taken, cp_sat, nothing, scip
from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Status
from course_lib.beyond.cg_p.rules import CrewRules, duty_cost, rules_for
from course_lib.beyond.cg_p.search import Search
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Solver = Literal["cp-sat", "scip"]


@dataclass(frozen=True)
class ArcFlowResult:
    """What a solver made of the model in the time it had."""

    plan: CrewPlan | None  #: None where it found none
    bound: float  #: the solver's own, over plans with at most so many passengers a trip; -inf where it had none
    nodes: int
    choices: int  #: yes or no: connections, ways from a depot and home
    seconds: float  #: CPU, writing the model included


def solve_arc_flow(
    timetable: Timetable,
    rules: CrewRules | None = None,
    *,
    solver: Solver = "cp-sat",
    seconds: float,
    passengers: int = 1,
    seed: int = 0,
    workers: int = 1,
) -> ArcFlowResult:
    """The cheapest plan that CP-SAT or SCIP finds in a time, and how much better any could be.

    Both are given one duty for each trip that can be a duty of its own, to begin with.

    Args:
        timetable: the trips.
        rules: None are the defaults.
        solver: "cp-sat" or "scip".
        seconds: for the solver, by the clock; writing the model down is not counted.
        passengers: how many crews may ride along on a trip besides the one that drives it. Bounds, and the status
            "optimal", are about plans within that number.
        seed: of the solver.
        workers: threads of CP-SAT; SCIP has one.

    Raises:
        ValueError: the OR-Library form, an unknown solver, no time, fewer than 0 passengers, fewer than 1 worker.
        ImportError: OR-Tools is not installed.

    >>> trips = [("A", "B", 480, 540), ("B", "A", 560, 620)]
    >>> solve_arc_flow(Timetable.of(trips, depots=["A"]), seconds=10).plan
    CrewPlan(optimal, 1 duty, cost 650.0, gap 0.00%)
    """
    rules = rules_for(timetable, rules)
    _check(rules, solver, seconds, passengers, workers)
    began = time.process_time()
    search = Search(DutyGraph.of(timetable, rules))
    search.prepare()
    network = _network(search.graph, search.needed, passengers)
    single = search.start.take(np.flatnonzero(np.diff(search.start.first) == 1))
    alone = list(zip(single.trips.tolist(), single.depot.tolist(), strict=True))
    if not search.needed.any():
        taken = Taken(nothing(network), 0.0)
    elif solver == "cp-sat":
        taken = cp_sat(network, alone, seconds, seed, workers)
    else:
        taken = scip(network, alone, seconds, seed)
    spent = time.process_time() - began
    plan = None if taken.chosen is None else _plan(search.graph, network, taken, solver, spent, passengers)
    sizes = len(network.needed), sum(len(part.node) for part in (network.starts, network.ends)) + len(network.arcs.tail)
    return ArcFlowResult(plan, taken.bound, *sizes, spent)


def _check(rules: CrewRules, solver: str, seconds: float, passengers: int, workers: int) -> None:
    if rules.explicit:
        raise ValueError("timetable: got one that lists its transitions, expected trips with stations and depots")
    if solver not in get_args(Solver):
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(get_args(Solver))}")
    if not seconds > 0:
        raise ValueError(f"seconds: got {seconds}, expected more than 0")
    if passengers < 0:
        raise ValueError(f"passengers: got {passengers}, expected 0 or more")
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")


# The network ----------------------------------------------------------------------------------------------------------


def _network(graph: DutyGraph, needed: NDArray[np.bool_], passengers: int) -> Network:
    """All that both solvers are told, without what no duty can use."""
    table, rules, n = graph.timetable, graph.rules, len(graph.timetable)
    first = table.arrival + rules.sign_off - rules.max_duty
    starts = _starts(graph, first)
    last = _latest_sign_on(graph, starts)
    arcs = _arcs(graph, first, last)
    ends = _ends(graph, last)
    copies = passengers + 1
    a, b = (k.ravel() for k in np.meshgrid(np.arange(copies), np.arange(copies), indexing="ij"))
    many: list[Any] = [np.tile(field, copies**2) for field in arcs]
    many[0] = many[0] + n * np.repeat(a, len(arcs.tail))
    many[1] = many[1] + n * np.repeat(b, len(arcs.tail))
    return Network(
        rules, n, len(graph.sources),
        needed=np.concatenate([needed, np.zeros(n * passengers, dtype=bool)]),
        duration=np.tile(table.duration, copies),
        least_break=np.tile(table.arrival - rules.max_stretch, copies),
        first=np.tile(first, copies),
        last=np.tile(last, copies),
        arcs=Arcs(*many),
        starts=Starts(*_copied(starts, n, copies)),
        ends=Ends(*_copied(ends, n, copies)),
    )  # fmt: skip


def _copied(part: Sequence[NDArray], n: int, copies: int) -> list[Any]:
    fields: list[Any] = [np.tile(field, copies) for field in part]
    fields[0] = fields[0] + n * np.repeat(np.arange(copies), len(part[0]))
    return fields


def _starts(graph: DutyGraph, first: NDArray[np.int64]) -> Starts:
    table, rules = graph.timetable, graph.rules
    depot, trip = np.nonzero(graph.sources < NO_WAY)
    ride = graph.sources[depot, trip]
    sign_on = table.departure[trip] - ride - rules.sign_on
    worked = rules.sign_on + ride + table.duration[trip]
    possible = (sign_on >= first[trip]) & (worked <= rules.max_stretch) & (table.duration[trip] <= rules.max_driving)
    cost = rules.fixed_cost + rules.minute_cost * worked + rules.deadhead_cost * ride
    return Starts(trip[possible], depot[possible], sign_on[possible], cost[possible])


def _latest_sign_on(graph: DutyGraph, starts: Starts) -> NDArray[np.int64]:
    """(n,) for a duty through each trip; -`NO_WAY` where there is none."""
    last = np.full(len(graph.timetable), -NO_WAY, dtype=np.int64)
    np.maximum.at(last, starts.node, starts.time)
    for trip in range(len(last)):
        into = slice(graph.in_start[trip], graph.in_start[trip + 1])
        last[trip] = max(last[trip], last[graph.tail[into]].max(initial=-NO_WAY))
    return last


def _arcs(graph: DutyGraph, first: NDArray[np.int64], last: NDArray[np.int64]) -> Arcs:
    table, rules, tail, head = graph.timetable, graph.rules, graph.tail, graph.head
    possible = last[tail] >= first[head]
    possible &= table.duration[tail] + table.duration[head] <= rules.max_driving
    possible &= graph.rests | (table.arrival[head] - table.departure[tail] <= rules.max_stretch)
    rested = np.where(graph.rests, table.departure[head] - graph.ride, -1)
    cost = graph.cost + rules.minute_cost * (graph.gap + table.duration[head])
    return Arcs(tail[possible], head[possible], rested[possible], graph.meals[possible], cost[possible])


def _ends(graph: DutyGraph, last: NDArray[np.int64]) -> Ends:
    table, rules = graph.timetable, graph.rules
    depot, trip = np.nonzero(graph.sinks < NO_WAY)
    ride = graph.sinks[depot, trip]
    sign_off = table.arrival[trip] + ride + rules.sign_off
    after = sign_off - rules.max_duty
    cost = rules.minute_cost * (ride + rules.sign_off) + rules.deadhead_cost * ride
    hungry = np.zeros(len(trip), dtype=bool)
    late = after
    if rules.meal_window is not None:
        hungry = sign_off >= rules.meal_window[1]
        late = np.where(hungry, np.maximum(after, rules.meal_window[0] + 1), after)
    both = [  # without having eaten, and having eaten
        np.concatenate([a, b[hungry]])
        for a, b in ((trip, trip), (depot, depot), (late, after), (hungry & False, hungry), (cost, cost))
    ]
    possible = both[2] <= last[both[0]]
    return Ends(*(field[possible] for field in both))


# The plan -------------------------------------------------------------------------------------------------------------


def _plan(
    graph: DutyGraph, network: Network, taken: Taken, solver: Solver, seconds: float, passengers: int
) -> CrewPlan:
    """The duties along the connections taken; every cost is worked out anew, from the rules."""
    assert taken.chosen is not None
    table, rules, n = graph.timetable, graph.rules, network.trips
    arcs, starts, _ = (np.flatnonzero(mask) for mask in taken.chosen)
    after = dict(zip(network.arcs.tail[arcs].tolist(), network.arcs.head[arcs].tolist(), strict=True))
    duties = []
    for k in starts.tolist():
        node: int | None = int(network.starts.node[k])
        trips: list[int] = []
        while node is not None:
            trips.append(node % n)
            node = after.get(node)
        home = _home(graph, int(network.starts.depot[k]), trips[0])
        cost = duty_cost(trips, table, rules, depot=home)
        assert cost is not None, f"an illegal duty: {trips}"
        duties.append(Duty(tuple(trips), cost, home))
    duties.sort(key=lambda duty: duty.trips)
    cost, unit = sum(duty.cost for duty in duties), rules.cost_unit or 1.0
    bound = min(bounds.round_up(taken.bound, unit), cost)
    needed = network.needed[:n]
    status: Status = "optimal" if cost - bound < unit / 2 else "feasible"
    within = {0: "nobody rides", 1: "at most one crew rides"}.get(passengers, f"at most {passengers} crews ride")
    return CrewPlan(
        duties=tuple(duties),
        cost=cost,
        lower_bound=bound,
        gap=(cost - bound) / cost if cost and math.isfinite(bound) else (0.0 if not cost else math.nan),
        uncovered=tuple(np.flatnonzero(~needed).tolist()),
        status=status if needed.any() or not n else "infeasible",
        lp_value=None,
        history=(),
        times={"arc-flow": seconds},
        timetable=table,
        rules=rules,
        mode=f"arc-flow, {solver}",
        notes=(f"The bound is about plans in which {within} along on a trip.",),
    )


def _home(graph: DutyGraph, depot: int, first: int) -> int:
    """The station where a duty begins."""
    table = graph.timetable
    if graph.rules.same_depot:
        return table.depots[depot]
    return table.depots[int(table.deadhead[list(table.depots), table.origin[first]].argmin())]
