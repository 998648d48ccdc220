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
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from course_lib.beyond.cg_p import bounds
from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Status
from course_lib.beyond.cg_p.rules import CrewRules, duty_cost, rules_for
from course_lib.beyond.cg_p.search import Search
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class _Arcs(NamedTuple):
    """Connections between nodes; (m,) each."""

    tail: NDArray[np.int64]
    head: NDArray[np.int64]
    rested: NDArray[np.int64]  #: when the stretch begins that the break on it makes, or -1 where it is no break
    meals: NDArray[np.bool_]
    cost: NDArray[np.float64]  #: from the arrival before to the arrival after


class _Starts(NamedTuple):
    """Ways from a depot; (s,) each."""

    node: NDArray[np.int64]
    depot: NDArray[np.int64]
    time: NDArray[np.int64]  #: of the sign-on
    cost: NDArray[np.float64]  #: up to the arrival of the first trip, and the duty's fixed cost


class _Ends(NamedTuple):
    """Ways home, two where a meal is asked for: of those who ate, and of those who began late enough; (e,) each."""

    node: NDArray[np.int64]
    depot: NDArray[np.int64]
    after: NDArray[np.int64]  #: the earliest sign-on it may be a way home for
    ate: NDArray[np.bool_]  #: only for those who did
    cost: NDArray[np.float64]


class _Network(NamedTuple):
    """Nodes 0 to n - 1 are the trips, driven; n to 2 n - 1 the same, ridden; and so on."""

    rules: CrewRules
    trips: int
    depots: int
    needed: NDArray[np.bool_]  #: (nodes,) somebody must come by
    duration: NDArray[np.int64]  #: (nodes,)
    least_break: NDArray[np.int64]  #: (nodes,) the stretch must not have begun earlier
    first: NDArray[np.int64]  #: (nodes,) sign-on, earliest
    last: NDArray[np.int64]  #: (nodes,) and latest
    arcs: _Arcs
    starts: _Starts
    ends: _Ends


class _Taken(NamedTuple):
    """A solver's answer: which of the arcs, starts and ends are taken; None without a plan."""

    chosen: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]] | None
    bound: float


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
        taken = _Taken(_nothing(network), 0.0)
    elif solver == "cp-sat":
        taken = _cp_sat(network, alone, seconds, seed, workers)
    else:
        taken = _scip(network, alone, seconds, seed)
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


def _nothing(network: _Network) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    sizes = len(network.arcs.tail), len(network.starts.node), len(network.ends.node)
    return tuple(np.zeros(size, dtype=bool) for size in sizes)  # type: ignore[return-value]


# The network ----------------------------------------------------------------------------------------------------------


def _network(graph: DutyGraph, needed: NDArray[np.bool_], passengers: int) -> _Network:
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
    return _Network(
        rules, n, len(graph.sources),
        needed=np.concatenate([needed, np.zeros(n * passengers, dtype=bool)]),
        duration=np.tile(table.duration, copies),
        least_break=np.tile(table.arrival - rules.max_stretch, copies),
        first=np.tile(first, copies),
        last=np.tile(last, copies),
        arcs=_Arcs(*many),
        starts=_Starts(*_copied(starts, n, copies)),
        ends=_Ends(*_copied(ends, n, copies)),
    )  # fmt: skip


def _copied(part: Sequence[NDArray], n: int, copies: int) -> list[Any]:
    fields: list[Any] = [np.tile(field, copies) for field in part]
    fields[0] = fields[0] + n * np.repeat(np.arange(copies), len(part[0]))
    return fields


def _starts(graph: DutyGraph, first: NDArray[np.int64]) -> _Starts:
    table, rules = graph.timetable, graph.rules
    depot, trip = np.nonzero(graph.sources < NO_WAY)
    ride = graph.sources[depot, trip]
    sign_on = table.departure[trip] - ride - rules.sign_on
    worked = rules.sign_on + ride + table.duration[trip]
    possible = (sign_on >= first[trip]) & (worked <= rules.max_stretch) & (table.duration[trip] <= rules.max_driving)
    cost = rules.fixed_cost + rules.minute_cost * worked + rules.deadhead_cost * ride
    return _Starts(trip[possible], depot[possible], sign_on[possible], cost[possible])


def _latest_sign_on(graph: DutyGraph, starts: _Starts) -> NDArray[np.int64]:
    """(n,) for a duty through each trip; -`NO_WAY` where there is none."""
    last = np.full(len(graph.timetable), -NO_WAY, dtype=np.int64)
    np.maximum.at(last, starts.node, starts.time)
    for trip in range(len(last)):
        into = slice(graph.in_start[trip], graph.in_start[trip + 1])
        last[trip] = max(last[trip], last[graph.tail[into]].max(initial=-NO_WAY))
    return last


def _arcs(graph: DutyGraph, first: NDArray[np.int64], last: NDArray[np.int64]) -> _Arcs:
    table, rules, tail, head = graph.timetable, graph.rules, graph.tail, graph.head
    possible = last[tail] >= first[head]
    possible &= table.duration[tail] + table.duration[head] <= rules.max_driving
    possible &= graph.rests | (table.arrival[head] - table.departure[tail] <= rules.max_stretch)
    rested = np.where(graph.rests, table.departure[head] - graph.ride, -1)
    cost = graph.cost + rules.minute_cost * (graph.gap + table.duration[head])
    return _Arcs(tail[possible], head[possible], rested[possible], graph.meals[possible], cost[possible])


def _ends(graph: DutyGraph, last: NDArray[np.int64]) -> _Ends:
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
    return _Ends(*(field[possible] for field in both))


def _by_node(nodes: NDArray[np.int64]) -> dict[int, list[int]]:
    """The positions at which each node stands."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, node in enumerate(nodes.tolist()):
        found[node].append(position)
    return found


# CP-SAT ---------------------------------------------------------------------------------------------------------------


def _cp_sat(network: _Network, alone: list[tuple[int, int]], seconds: float, seed: int, workers: int) -> _Taken:
    from ortools.sat.python import cp_model

    unit = network.rules.cost_unit or 1.0
    model = cp_model.CpModel()
    groups = (network.arcs, network.starts, network.ends)
    arcs, starts, ends = taken = [[model.new_bool_var("") for _ in group.cost] for group in groups]
    _cp_sat_routes(model, network, arcs, starts, ends)
    _cp_sat_resources(model, network, arcs, starts, ends, dict(alone))
    costs = [np.rint(group.cost / unit).astype(np.int64).tolist() for group in groups]
    model.minimize(sum(cp_model.LinearExpr.weighted_sum(x, cost) for x, cost in zip(taken, costs, strict=True) if x))
    for x, wanted in zip(taken, _hint(network, alone), strict=True):
        for variable, value in zip(x, wanted.tolist(), strict=True):
            model.add_hint(variable, value)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return _Taken(None, math.inf)
    bound = unit * solver.best_objective_bound
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return _Taken(None, bound)
    return _Taken(tuple(np.array([solver.boolean_value(v) for v in x], dtype=bool) for x in taken), bound)  # type: ignore[arg-type]


def _cp_sat_routes(model: Any, network: _Network, arcs: list[Any], starts: list[Any], ends: list[Any]) -> None:
    """Closed walks from one place, number 0, that stands for all depots: through each node at most one."""
    into, out = network.arcs.head + 1, network.arcs.tail + 1
    ways = list(zip(out.tolist(), into.tolist(), arcs, strict=True))
    ways += [(0, node + 1, x) for node, x in zip(network.starts.node.tolist(), starts, strict=True)]
    ways += [(node + 1, 0, x) for node, x in zip(network.ends.node.tolist(), ends, strict=True)]
    empty = np.flatnonzero(~network.needed) + 1
    for node in empty.tolist():
        ways.append((node, node, model.new_bool_var("")))
        model.add_hint(ways[-1][2], True)
    model.add_multiple_circuit(ways)


def _cp_sat_resources(
    model: Any, network: _Network, arcs: list[Any], starts: list[Any], ends: list[Any], alone: Mapping[int, int]
) -> None:
    """Sign-on, driving, stretch, depot and meal at each node, and what a connection taken makes of them.

    Args:
        alone: by trip, the depot of the duty that it is to begin with.
    """
    rules = network.rules
    nodes = range(len(network.needed))
    first, last = np.minimum(network.first, network.last).tolist(), network.last.tolist()
    minutes, least = network.duration.tolist(), network.least_break.tolist()
    sign_on = [model.new_int_var(first[v], max(first[v], last[v]), "") for v in nodes]
    driving = [model.new_int_var(min(minutes[v], rules.max_driving), rules.max_driving, "") for v in nodes]
    stretch = [model.new_int_var(least[v], least[v] + rules.max_stretch, "") for v in nodes]
    depot = [model.new_int_var(0, network.depots - 1, "") for _ in nodes] if network.depots > 1 else []
    ate = [model.new_bool_var("") for _ in nodes] if rules.meal_window is not None else []
    for x, i, j, rested, meal in zip(arcs, *(field.tolist() for field in network.arcs[:4]), strict=True):
        model.add(sign_on[j] <= sign_on[i]).only_enforce_if(x)
        model.add(driving[j] >= driving[i] + minutes[j]).only_enforce_if(x)
        model.add(stretch[j] <= (rested if rested >= 0 else stretch[i])).only_enforce_if(x)
        if depot:
            model.add(depot[j] == depot[i]).only_enforce_if(x)
        if ate and not meal:
            model.add_bool_or(~x, ~ate[j], ate[i])
    for x, j, d, begin in zip(starts, *(field.tolist() for field in network.starts[:3]), strict=True):
        model.add(sign_on[j] <= begin).only_enforce_if(x)
        model.add(stretch[j] <= begin).only_enforce_if(x)
        if depot:
            model.add(depot[j] == d).only_enforce_if(x)
        if ate:
            model.add_implication(x, ~ate[j])
        if alone.get(j) == d:
            known = [(sign_on, begin), (driving, minutes[j]), (stretch, begin), (depot, d), (ate, False)]
            for variables, value in known:
                if variables:
                    model.add_hint(variables[j], value)
    for x, j, d, after, fed in zip(ends, *(field.tolist() for field in network.ends[:4]), strict=True):
        model.add(sign_on[j] >= after).only_enforce_if(x)
        if depot:
            model.add(depot[j] == d).only_enforce_if(x)
        if fed:
            model.add_implication(x, ate[j])
    # What the linear relaxation cannot see in the conditions above: crews enough for all the driving.
    total = int(network.duration[network.needed].sum())
    model.add(rules.max_driving * sum(starts) >= total)


def _hint(network: _Network, alone: list[tuple[int, int]]) -> list[NDArray[np.bool_]]:
    """A duty for each trip that can be one."""
    wanted = list(_nothing(network))
    parts: tuple[_Starts | _Ends, ...] = (network.starts, network.ends)
    for x, part in zip(wanted[1:], parts, strict=True):
        place = {(v, d): k for k, (v, d) in enumerate(zip(part.node.tolist(), part.depot.tolist(), strict=True))}
        x[[place[pair] for pair in alone if pair in place]] = True
    return wanted


# SCIP -----------------------------------------------------------------------------------------------------------------


class _Program:
    """A mixed integer program, collected row by row; then SCIP."""

    def __init__(self) -> None:
        from ortools.linear_solver import linear_solver_pb2

        self.proto = linear_solver_pb2.MPModelProto()

    def variables(self, costs: NDArray[np.float64], *, whole: bool) -> range:
        """As many as there are costs: yes or no if `whole`, else any number."""
        begin = len(self.proto.variable)
        low, high = (0.0, 1.0) if whole else (-math.inf, math.inf)
        for cost in costs.tolist():
            self.proto.variable.add(lower_bound=low, upper_bound=high, objective_coefficient=cost, is_integer=whole)
        return range(begin, len(self.proto.variable))

    def row(self, terms: Sequence[tuple[int, float]], low: float, high: float = math.inf) -> None:
        """low <= sum of coefficient times variable <= high; a variable may occur twice."""
        merged: dict[int, float] = defaultdict(float)
        for variable, coefficient in terms:
            merged[variable] += coefficient
        self.proto.constraint.add(
            lower_bound=low, upper_bound=high, var_index=list(merged), coefficient=list(merged.values())
        )

    def within(self, flow: range, low: NDArray, high: NDArray, taken: Sequence[int]) -> None:
        """low * taken <= flow <= high * taken, one by one."""
        for f, x, least, most in zip(flow, taken, low.tolist(), high.tolist(), strict=True):
            self.row([(f, 1.0), (x, -least)], 0.0)
            self.row([(x, most), (f, -1.0)], 0.0)

    def solve(self, hint: Sequence[int], seconds: float, seed: int) -> tuple[NDArray[np.float64] | None, float]:
        """The values of all variables, None without a solution, and the bound."""
        from ortools.linear_solver import pywraplp

        solver = pywraplp.Solver.CreateSolver("SCIP")
        if fault := solver.LoadModelFromProto(self.proto):
            raise RuntimeError(f"OR-Tools refused the arc-flow model: {fault}")
        solver.SetSolverSpecificParametersAsString(f"randomization/randomseedshift = {seed}\nlimits/gap = 0")
        solver.SetTimeLimit(max(1, int(1000 * seconds)))
        variables = solver.variables()
        wanted = set(hint)
        whole = [v for v in variables if v.integer()]
        solver.SetHint(whole, [float(v.index() in wanted) for v in whole])
        status = solver.Solve()
        if status == pywraplp.Solver.INFEASIBLE:
            return None, math.inf
        bound = solver.Objective().BestBound()
        bound = bound if abs(bound) < 1e15 else -math.inf
        if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
            return None, bound
        return np.array([v.solution_value() for v in variables]), bound


def _scip(network: _Network, alone: list[tuple[int, int]], seconds: float, seed: int) -> _Taken:
    program = _Program()
    groups = (network.arcs, network.starts, network.ends)
    arcs, starts, ends = taken = [program.variables(group.cost, whole=True) for group in groups]
    heads, tails = _by_node(network.arcs.head), _by_node(network.arcs.tail)
    begins, finishes = _by_node(network.starts.node), _by_node(network.ends.node)
    nodes = range(len(network.needed))
    into = [[arcs[k] for k in heads[v]] + [starts[k] for k in begins[v]] for v in nodes]
    out = [[arcs[k] for k in tails[v]] + [ends[k] for k in finishes[v]] for v in nodes]
    for v, needed in enumerate(network.needed.tolist()):
        program.row([(x, 1.0) for x in into[v]], float(needed), 1.0)
        program.row([(x, 1.0) for x in into[v]] + [(x, -1.0) for x in out[v]], 0.0, 0.0)
    places = _Places(arcs, starts, ends, heads, tails, begins, finishes)
    _scip_times(program, network, places, into)
    _scip_depots(program, network, places)
    if network.rules.meal_window is not None:
        _scip_meals(program, network, places)
    wanted = [x[k] for x, mask in zip(taken, _hint(network, alone), strict=True) for k in np.flatnonzero(mask)]
    values, bound = program.solve(wanted, seconds, seed)
    if values is None:
        return _Taken(None, bound)
    return _Taken(tuple(values[x.start : x.stop] > 0.5 for x in taken), bound)  # type: ignore[arg-type]


class _Places(NamedTuple):
    """Where the variables of a program stand, and which of them touch a node."""

    arcs: range
    starts: range
    ends: range
    heads: dict[int, list[int]]
    tails: dict[int, list[int]]
    begins: dict[int, list[int]]
    finishes: dict[int, list[int]]


def _scip_times(program: _Program, network: _Network, at: _Places, into: list[list[int]]) -> None:
    """Sign-on, driving and stretch, each a flow; of a node, no more leaves than has come."""
    rules, arcs = network.rules, network.arcs
    nothing = np.zeros(len(arcs.tail))
    sign_on, driving = program.variables(nothing, whole=False), program.variables(nothing, whole=False)
    earliest = np.maximum(network.first[arcs.tail], network.first[arcs.head])
    program.within(sign_on, earliest, np.maximum(earliest, network.last[arcs.tail]), at.arcs)
    program.within(driving, network.duration[arcs.tail], rules.max_driving - network.duration[arcs.head], at.arcs)
    on = np.flatnonzero(arcs.rested < 0)  # a stretch goes on
    stretch = program.variables(np.zeros(len(on)), whole=False)
    departure = network.least_break + rules.max_stretch - network.duration
    program.within(stretch, network.least_break[arcs.head[on]], departure[arcs.tail[on]], [at.arcs[k] for k in on])
    carries = {int(k): stretch[position] for position, k in enumerate(on)}
    after, begin, rested = network.ends.after.tolist(), network.starts.time.tolist(), arcs.rested.tolist()
    for v, (minutes, least) in enumerate(zip(network.duration.tolist(), network.least_break.tolist(), strict=True)):
        heads, tails, begins, ends = at.heads[v], at.tails[v], at.begins[v], at.finishes[v]
        signed = [(at.starts[k], float(begin[k])) for k in begins]
        program.row(
            signed + [(sign_on[k], 1.0) for k in heads] + [(sign_on[k], -1.0) for k in tails]
            + [(at.ends[k], -float(after[k])) for k in ends], 0.0,
        )  # fmt: skip
        program.row(
            [(driving[k], 1.0) for k in tails] + [(at.ends[k], float(rules.max_driving)) for k in ends]
            + [(driving[k], -1.0) for k in heads] + [(x, -float(minutes)) for x in into[v]], 0.0,
        )  # fmt: skip
        program.row(
            signed + [(carries[k], 1.0) if k in carries else (at.arcs[k], float(rested[k])) for k in heads]
            + [(carries[k], -1.0) if k in carries else (at.arcs[k], -float(least)) for k in tails]
            + [(at.ends[k], -float(least)) for k in ends], 0.0,
        )  # fmt: skip


def _scip_depots(program: _Program, network: _Network, at: _Places) -> None:
    """What came from a depot, but the last of them, goes back to it."""
    flows = []
    for d in range(network.depots - 1):
        flow = program.variables(np.zeros(len(at.arcs)), whole=False)
        program.within(flow, np.zeros(len(at.arcs)), np.ones(len(at.arcs)), at.arcs)
        flows.append(flow)
        for v in range(len(network.needed)):
            terms = [(flow[k], 1.0) for k in at.heads[v]] + [(flow[k], -1.0) for k in at.tails[v]]
            terms += [(at.starts[k], 1.0) for k in at.begins[v] if network.starts.depot[k] == d]
            terms += [(at.ends[k], -1.0) for k in at.finishes[v] if network.ends.depot[k] == d]
            program.row(terms, 0.0, 0.0)
    if len(flows) > 1:
        for k, x in enumerate(at.arcs):
            program.row([(x, 1.0), *((flow[k], -1.0) for flow in flows)], 0.0)


def _scip_meals(program: _Program, network: _Network, at: _Places) -> None:
    """A meal is carried on until the way home that asks for it."""
    flow = program.variables(np.zeros(len(at.arcs)), whole=False)
    program.within(flow, np.zeros(len(at.arcs)), np.ones(len(at.arcs)), at.arcs)
    for v in range(len(network.needed)):
        terms = [(at.arcs[k] if network.arcs.meals[k] else flow[k], 1.0) for k in at.heads[v]]
        terms += [(flow[k], -1.0) for k in at.tails[v]]
        terms += [(at.ends[k], -1.0) for k in at.finishes[v] if network.ends.ate[k]]
        program.row(terms, 0.0)


# The plan -------------------------------------------------------------------------------------------------------------


def _plan(
    graph: DutyGraph, network: _Network, taken: _Taken, solver: Solver, seconds: float, passengers: int
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
