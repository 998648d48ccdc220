"""The OR-Library form: listed transitions, every task exactly once, exactly K crews.

Only one resource is left, the time from the first start to the last finish, and fixing a duty's first task disposes of
it: what remains is a shortest path among the tasks that end in time, one for each first task, exact and all in
milliseconds. Rows are equalities, their duals free, and one more row counts the crews.

Source: Beasley and Cao (1996), the instances of the OR-Library.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from course_lib.beyond.cg_p import bounds
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.compiled import compiled
from course_lib.beyond.cg_p.master import TimeUp
from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Status, Step
from course_lib.beyond.cg_p.proof import MANY, Choice, choose, settle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.rules import CrewRules
    from course_lib.beyond.cg_p.timetable import Timetable


class Links(NamedTuple):
    """n tasks by start; the transitions out of task i are first[i]:first[i + 1]."""

    start: NDArray[np.int64]
    finish: NDArray[np.int64]
    first: NDArray[np.int64]
    to: NDArray[np.int64]
    cost: NDArray[np.float64]
    limit: int

    @classmethod
    def of(cls, timetable: Timetable, rules: CrewRules) -> Links:
        """From a timetable that lists them."""
        assert timetable.links is not None
        tail, to, cost = timetable.links[np.lexsort((timetable.links[:, 1], timetable.links[:, 0]))].T
        first = np.searchsorted(tail, np.arange(len(timetable) + 1))
        start, finish = timetable.departure.copy(), timetable.arrival.copy()
        return cls(start, finish, first, to.copy(), cost.astype(np.float64), rules.max_duty)


@compiled
def _cheapest(links, duals):  # type: ignore[no-untyped-def]
    """The cheapest path from each first task: (n,) values, (n,) last tasks, (n, n) predecessors."""
    n = len(links.start)
    value, last = np.full(n, np.inf), np.full(n, -1)
    before = np.full((n, n), -1, np.int32)
    for f in range(n):
        latest = links.start[f] + links.limit
        if links.finish[f] > latest:
            continue
        way = np.full(n, np.inf)
        way[f] = -duals[f]
        for i in range(f, n):
            if way[i] == np.inf:
                continue
            if way[i] < value[f]:
                value[f], last[f] = way[i], i
            for a in range(links.first[i], links.first[i + 1]):
                j = links.to[a]
                reached = way[i] + links.cost[a] - duals[j]
                if links.finish[j] <= latest and reached < way[j]:
                    way[j] = reached
                    before[f, j] = i
    return value, last, before


@compiled
def _all_within(links, duals, bound, most):  # type: ignore[no-untyped-def]
    """Every path with a value of at most `bound`: depth first, cut by what the rest of a path costs at least."""
    n = len(links.start)
    firsts, trips, cost = [0], [0][:0], [0.0][:0]
    path, arc, value, true = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64), np.empty(n + 1), np.empty(n + 1)
    for f in range(n):
        latest = links.start[f] + links.limit
        if links.finish[f] > latest:
            continue
        rest = np.zeros(n)  # the cheapest way on from each task, stopping included
        for i in range(n - 1, f - 1, -1):
            for a in range(links.first[i], links.first[i + 1]):
                j = links.to[a]
                if links.finish[j] <= latest:
                    rest[i] = min(rest[i], links.cost[a] - duals[j] + rest[j])
        path[0], arc[0], value[0], true[0], depth, new = f, links.first[f], -duals[f], 0.0, 0, True
        while depth >= 0:
            i = path[depth]
            if new and value[depth] <= bound:
                if len(cost) >= most:
                    return firsts, trips, cost, False
                for k in range(depth + 1):
                    trips.append(path[k])
                firsts.append(len(trips))
                cost.append(true[depth])
            a = arc[depth]
            if a == links.first[i + 1]:
                depth, new = depth - 1, False
                continue
            arc[depth] += 1
            j, new = links.to[a], False
            reached = value[depth] + links.cost[a] - duals[j]
            if links.finish[j] <= latest and reached + rest[j] <= bound:
                depth, new = depth + 1, True
                path[depth], arc[depth] = j, links.first[j]
                value[depth], true[depth] = reached, true[depth - 1] + links.cost[a]
    return firsts, trips, cost, True


class _Master:
    """min c x + M (artificial)   subject to   each task exactly once, exactly K crews."""

    def __init__(self, n: int, crews: int | None, penalty: float) -> None:
        from ortools.linear_solver import pywraplp

        names = pywraplp.MPSolverParameters
        self.lp = pywraplp.Solver.CreateSolver("GLOP")
        self.limits = names()
        self.limits.SetIntegerParam(names.PRESOLVE, names.PRESOLVE_OFF)
        self.limits.SetIntegerParam(names.LP_ALGORITHM, names.PRIMAL)
        infinity = self.lp.infinity()
        count = (-infinity, infinity) if crews is None else (crews, crews)
        self.rows = [*(self.lp.Constraint(1.0, 1.0) for _ in range(n)), self.lp.Constraint(*count)]
        self.objective = self.lp.Objective()
        self.objective.SetMinimization()
        self.pool = Pool()
        self.variables: list[Any] = []
        signed = [*((i, 1.0) for i in range(n)), *((n, sign) for sign in (1.0, -1.0) if crews is not None)]
        self.artificial = [self._variable(penalty, [i], sign) for i, sign in signed]

    def _variable(self, cost: float, rows: list[int], sign: float = 1.0) -> Any:
        variable = self.lp.NumVar(0.0, self.lp.infinity(), "")
        self.objective.SetCoefficient(variable, cost)
        for row in rows:
            self.rows[row].SetCoefficient(variable, sign)
        return variable

    def add(self, columns: Columns) -> int:
        fresh = self.pool.add(columns)
        n = len(self.rows) - 1
        for c in range(fresh.size):
            self.variables.append(self._variable(float(fresh.cost[c]), [*fresh.row(c).tolist(), n]))
        return fresh.size

    def solve(self) -> tuple[float, NDArray[np.float64], float, float]:
        """Value, duals of the tasks, dual of the crews, sum of the artificial columns."""
        status = self.lp.Solve(self.limits)
        if status != self.lp.OPTIMAL:
            raise RuntimeError(f"the master's linear program ended with GLOP's status {status}, expected 0 (optimal)")
        duals = np.array([row.dual_value() for row in self.rows])
        missing = sum(variable.solution_value() for variable in self.artificial)
        return self.objective.Value(), duals[:-1], float(duals[-1]), float(missing)


class _Generation:
    """Column generation for one K; what is known when it stops stays here."""

    def __init__(self, links: Links, crews: int | None, deadline: float, report: Callable[..., None]) -> None:
        self.links, self.crews, self.deadline, self.report = links, crews, deadline, report
        # Each task has one transition to it at most.
        cheapest = np.zeros(len(links.start))
        np.minimum.at(cheapest, links.to, links.cost)
        self.bound, self.value, self.missing = float(cheapest.sum()), math.inf, math.inf
        self.lp: float | None = None  # the linear program's value, once it is optimal
        self.duals, self.crew_dual = np.zeros(len(links.start)), 0.0
        self.master: _Master | None = None
        self.best: Columns | None = None  # a plan

    def run(self, penalty: float) -> None:
        """To optimality; raises `TimeUp`."""
        n = len(self.links.start)
        per_crew = 1.0 if self.crews is None else 0.0  # without a number of crews, the least number is looked for
        self.master = _Master(n, self.crews, penalty)
        alone = np.flatnonzero(self.links.finish - self.links.start <= self.links.limit)
        self.master.add(Columns.of(((i,), per_crew, 0) for i in alone.tolist()))
        while True:
            self.value, self.duals, self.crew_dual, self.missing = self.master.solve()
            if time.perf_counter() > self.deadline:
                raise TimeUp
            shift = per_crew - self.crew_dual
            values, last, before = _cheapest(self.links, self.duals)
            values = values + shift
            least = float(values.min(initial=0.0))
            crews = n if self.crews is None else self.crews
            bound = bounds.fixed_crews(self.duals, self.crew_dual, least, crews, exact=True)
            self.bound = max(self.bound, bound)
            rows = []
            for f in np.flatnonzero(values < -1e-6).tolist():
                path = [int(last[f])]
                while path[-1] != f:
                    path.append(int(before[f, path[-1]]))
                trips = path[::-1]
                rows.append((trips, float(values[f] - shift + self.duals[trips].sum()) + per_crew, 0))
            added = self.master.add(Columns.of(rows))
            self.report(self, added, least)
            if not added:
                self.lp = self.value if self.missing <= 1e-6 else None
                return


def solve_links(
    timetable: Timetable,
    rules: CrewRules,
    crews: int,
    *,
    mode: str,
    time_limit: float | None,
    seed: int,
    progress: Callable[[Step], object] | None,
    interrupt: Callable[[], object] = lambda: None,
) -> CrewPlan:
    """`solve` for the OR-Library form; all modes do the same here, to proven optimality."""
    n, began, cpu = len(timetable), time.perf_counter(), time.process_time()
    history: list[Step] = []

    def report(state: _Generation, added: int, least: float) -> None:
        interrupt()
        if state.crews is None:
            return
        seconds, columns = time.perf_counter() - began, 0 if state.master is None else state.master.pool.columns.size
        history.append(Step(seconds, "full", state.value, state.bound, columns, added, least, exact=True))
        if progress is not None:
            progress(history[-1])

    def result(status: Status, plan: Columns, bound: float, lp: float | None = None, note: str = "") -> CrewPlan:
        cost = float(plan.cost.sum())
        known = bool(plan.size) and math.isfinite(bound)
        order = np.argsort(plan.trips[plan.first[:-1]], kind="stable")  # by first task
        duties = [Duty(tuple(plan.row(c).tolist()), float(plan.cost[c])) for c in order]
        return CrewPlan(
            duties=tuple(duties), cost=cost, lower_bound=bound,
            gap=((cost - bound) / cost if cost else 0.0) if known else math.nan,
            uncovered=() if plan.size else tuple(range(n)), status=status, lp_value=lp, history=tuple(history),
            times={"all": time.process_time() - cpu}, timetable=timetable, rules=rules, mode=mode,
            crews=crews if plan.size else None, notes=(note,) if note else (),
        )  # fmt: skip

    nothing = Columns.of([])
    if not 1 <= crews <= n:
        reason = "there would be crews without a task" if crews > n else "each task needs a crew"
        return result("infeasible", nothing, -math.inf, note=f"{crews} crews for {n} tasks: {reason}.")
    links, limit = Links.of(timetable, rules), math.inf if time_limit is None else began + time_limit
    state = _Generation(links, crews, limit, report)
    try:
        # More than any transitions can save; should it not be, ten times as much is.
        penalty = 2.0 * float(np.abs(links.cost).max(initial=0.0)) + 1000.0
        state.run(penalty)
        if state.missing > 1e-6:
            state.run(10 * penalty)
        if state.missing > 1e-6:
            fewest = _Generation(links._replace(cost=np.zeros(len(links.cost))), None, limit, report)
            fewest.run(penalty)
            least = math.ceil(fewest.value - 1e-6)
            note = f"{crews} crews are too few: no plan has fewer than {least}."
            if fewest.missing > 1e-6:
                note = f"Some tasks last longer than the {links.limit} minutes of a duty."
            return result("infeasible", nothing, -math.inf, note=note)
        plan, bound, settled = _whole(state, limit, seed)
    except (TimeUp, KeyboardInterrupt):
        plan = _whole_now(state, seed)
        bound = bounds.round_up(state.bound, rules.cost_unit)
        bound = min(bound, float(plan.cost.sum())) if plan.size else bound
        note = "" if plan.size else f"No plan with exactly {crews} crews has been found so far."
        return result("interrupted", plan, bound, state.lp, note)
    if not plan.size:
        note = f"No plan with exactly {crews} crews exists." if settled else "No plan was found."
        return result("infeasible" if settled else "interrupted", nothing, bound, state.value, note)
    late = time.perf_counter() > limit
    return result("optimal" if settled else "interrupted" if late else "feasible", plan, bound, state.value)


def _whole_now(state: _Generation, seed: int) -> Columns:
    """The best plan known, else the best among the columns there are, in a moment, else any."""
    if state.best is not None:
        return state.best
    assert state.crews is not None
    any_plan = _first_fit(state.links, state.crews)
    columns = Columns.join([any_plan] if state.master is None else [state.master.pool.columns, any_plan])
    if not columns.size:
        return any_plan
    needed = np.ones(len(state.links.start), dtype=bool)
    hint = range(columns.size - any_plan.size, columns.size)
    choice = choose(columns, needed, crews=state.crews, hint=hint, seconds=1.0, unit=1.0, seed=seed)
    return columns.take(choice.chosen) if choice.chosen is not None else any_plan


def _first_fit(links: Links, crews: int) -> Columns:
    """Each task to the duty that can take it at the least cost; then the dearest transitions dropped until all crews
    have a duty. No columns, if so few crews cannot do it this way."""
    n = len(links.start)
    before, paid = np.full(n, -1), np.zeros(n)
    first, free = np.arange(n), np.ones(n, dtype=bool)
    tail = np.repeat(np.arange(n), np.diff(links.first))
    order = np.argsort(links.to, kind="stable")
    into = np.searchsorted(links.to[order], np.arange(n + 1))
    for j in range(n):
        arcs = order[into[j] : into[j + 1]]
        arcs = arcs[free[tail[arcs]] & (links.finish[j] <= links.start[first[tail[arcs]]] + links.limit)]
        if len(arcs):
            a = arcs[links.cost[arcs].argmin()]
            before[j], paid[j], first[j], free[tail[a]] = tail[a], links.cost[a], first[tail[a]], False
    joined = np.flatnonzero(before >= 0)
    surplus = crews - (n - len(joined))
    if surplus < 0 or (links.finish - links.start > links.limit).any():
        return Columns.of([])
    dropped = joined[np.argsort(-paid[joined], kind="stable")[:surplus]]
    before[dropped], paid[dropped] = -1, 0.0
    duties: dict[int, list[int]] = {}
    for j in range(n):
        duties[j] = [*(duties.pop(int(before[j])) if before[j] >= 0 else []), j]
    return Columns.of((trips, float(paid[trips].sum()), 0) for trips in duties.values())


def _whole(state: _Generation, limit: float, seed: int) -> tuple[Columns, float, bool]:
    """The best plan, the bound, and whether the plan is proven best (an empty one: that there is none)."""
    assert state.master is not None
    needed = np.ones(len(state.links.start), dtype=bool)
    bound = bounds.round_up(state.bound, 1.0)

    covered = 0  # so many duties are settled, and of two sets the larger contains the smaller

    def pick(columns: Columns) -> Choice:
        nonlocal covered
        seconds = min(60.0, limit - time.perf_counter())
        known = set() if state.best is None else {state.best.row(c).tobytes() for c in range(state.best.size)}
        hint = [c for c in range(columns.size) if columns.row(c).tobytes() in known] if known else []
        if columns.size <= covered and len(hint) == len(known):
            return Choice(np.array(hint) if hint else None, settled=True)
        choice = choose(columns, needed, crews=state.crews, hint=hint, seconds=seconds, unit=1.0, seed=seed)
        if choice.chosen is not None:
            found = columns.take(choice.chosen)
            if state.best is None or found.cost.sum() < state.best.cost.sum():
                state.best = found
        if choice.settled:
            covered = max(covered, columns.size)
        return choice

    def duties(gap: float) -> tuple[Columns, bool]:
        if state.best is not None and (all_better := float(state.best.cost.sum()) - 1.0 - value + 1e-4) <= 3 * gap:
            gap = max(gap, all_better)  # a step between would cost more than it saves
        first, trips, true, complete = _all_within(state.links, state.duals, gap + state.crew_dual, MANY)
        depots = np.zeros(len(true), dtype=np.int32)
        return Columns(np.array(first), np.array(trips, dtype=np.int32), np.array(true, dtype=float), depots), complete

    assert state.crews is not None
    value = float(state.duals.sum()) + state.crews * state.crew_dual
    best, settled = settle(duties, pick, None, bound=value, unit=1.0)
    if best is None:
        if not settled:
            covered = 0  # the columns generated are another set
            pick(state.master.pool.columns)
            best = state.best
        return best or Columns.of([]), bound, settled
    return best, float(best.cost.sum()) if settled else bound, settled
