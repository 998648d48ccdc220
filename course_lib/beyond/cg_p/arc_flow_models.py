"""The integer program over connections, written down for CP-SAT and for SCIP: see `arc_flow`."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from course_lib.beyond.cg_p.rules import CrewRules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class Arcs(NamedTuple):
    """Connections between nodes; (m,) each."""

    tail: NDArray[np.int64]
    head: NDArray[np.int64]
    rested: NDArray[np.int64]  #: when the stretch begins that the break on it makes, or -1 where it is no break
    meals: NDArray[np.bool_]
    cost: NDArray[np.float64]  #: from the arrival before to the arrival after


class Starts(NamedTuple):
    """Ways from a depot; (s,) each."""

    node: NDArray[np.int64]
    depot: NDArray[np.int64]
    time: NDArray[np.int64]  #: of the sign-on
    cost: NDArray[np.float64]  #: up to the arrival of the first trip, and the duty's fixed cost


class Ends(NamedTuple):
    """Ways home, two where a meal is asked for: of those who ate, and of those who began late enough; (e,) each."""

    node: NDArray[np.int64]
    depot: NDArray[np.int64]
    after: NDArray[np.int64]  #: the earliest sign-on it may be a way home for
    ate: NDArray[np.bool_]  #: only for those who did
    cost: NDArray[np.float64]


class Network(NamedTuple):
    """Nodes 0 to n - 1 are the trips, driven; n to 2 n - 1 the same, ridden; and so on."""

    rules: CrewRules
    trips: int
    depots: int
    needed: NDArray[np.bool_]  #: (nodes,) somebody must come by
    duration: NDArray[np.int64]  #: (nodes,)
    least_break: NDArray[np.int64]  #: (nodes,) the stretch must not have begun earlier
    first: NDArray[np.int64]  #: (nodes,) sign-on, earliest
    last: NDArray[np.int64]  #: (nodes,) and latest
    arcs: Arcs
    starts: Starts
    ends: Ends


#: Of costs in whole numbers; prices such as a third have no unit of their own.
FINEST = 1e-6


class Taken(NamedTuple):
    """A solver's answer: which of the arcs, starts and ends are taken; None without a plan."""

    chosen: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]] | None
    bound: float


def nothing(network: Network) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """No arc, no start, no end."""
    sizes = len(network.arcs.tail), len(network.starts.node), len(network.ends.node)
    return tuple(np.zeros(size, dtype=bool) for size in sizes)  # type: ignore[return-value]


def _by_node(nodes: NDArray[np.int64]) -> dict[int, list[int]]:
    """The positions at which each node stands."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, node in enumerate(nodes.tolist()):
        found[node].append(position)
    return found


# CP-SAT ---------------------------------------------------------------------------------------------------------------


def cp_sat(network: Network, alone: list[tuple[int, int]], seconds: float, seed: int, workers: int) -> Taken:
    """The best choice that CP-SAT finds; `alone` are the (trip, depot) of duties to begin with."""
    from ortools.sat.python import cp_model

    exact = network.rules.cost_unit or 1.0
    unit = max(exact, FINEST)
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
        return Taken(None, math.inf)
    bound = unit * solver.best_objective_bound
    if unit > exact:  # a plan has an arc, a start and an end for each node at most, each rounded
        bound -= 1.5 * unit * len(network.needed)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Taken(None, bound)
    return Taken(tuple(np.array([solver.boolean_value(v) for v in x], dtype=bool) for x in taken), bound)  # type: ignore[arg-type]


def _cp_sat_routes(model: Any, network: Network, arcs: list[Any], starts: list[Any], ends: list[Any]) -> None:
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
    model: Any, network: Network, arcs: list[Any], starts: list[Any], ends: list[Any], alone: Mapping[int, int]
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


def _hint(network: Network, alone: list[tuple[int, int]]) -> list[NDArray[np.bool_]]:
    """A duty for each trip that can be one."""
    wanted = list(nothing(network))
    parts: tuple[Starts | Ends, ...] = (network.starts, network.ends)
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


def scip(network: Network, alone: list[tuple[int, int]], seconds: float, seed: int) -> Taken:
    """The same with SCIP."""
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
        return Taken(None, bound)
    return Taken(tuple(values[x.start : x.stop] > 0.5 for x in taken), bound)  # type: ignore[arg-type]


class _Places(NamedTuple):
    """Where the variables of a program stand, and which of them touch a node."""

    arcs: range
    starts: range
    ends: range
    heads: dict[int, list[int]]
    tails: dict[int, list[int]]
    begins: dict[int, list[int]]
    finishes: dict[int, list[int]]


def _scip_times(program: _Program, network: Network, at: _Places, into: list[list[int]]) -> None:
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


def _scip_depots(program: _Program, network: Network, at: _Places) -> None:
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


def _scip_meals(program: _Program, network: Network, at: _Places) -> None:
    """A meal is carried on until the way home that asks for it."""
    flow = program.variables(np.zeros(len(at.arcs)), whole=False)
    program.within(flow, np.zeros(len(at.arcs)), np.ones(len(at.arcs)), at.arcs)
    for v in range(len(network.needed)):
        terms = [(at.arcs[k] if network.arcs.meals[k] else flow[k], 1.0) for k in at.heads[v]]
        terms += [(flow[k], -1.0) for k in at.tails[v]]
        terms += [(at.ends[k], -1.0) for k in at.finishes[v] if network.ends.ate[k]]
        program.row(terms, 0.0)
