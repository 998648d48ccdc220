"""Proof on small instances: all duties that a better plan could contain, and the exact best choice among them.

If a plan costs less than UB, each of its duties has a reduced cost of at most UB - LB at the duals that prove LB. Where
these are few enough they are enumerated, and an integer program over them settles the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from course_lib.beyond.cg_p.columns import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.pricing import Pricer

#: More duties than this are not given to the integer program.
MANY = 50_000
#: Heuristics of SCIP that solve programs of their own.
COSTLY = (
    "adaptivediving", "alns", "clique", "coefdiving", "conflictdiving", "crossover", "distributiondiving",
    "farkasdiving", "feaspump", "fracdiving", "gins", "guideddiving", "linesearchdiving", "locks", "lpface",
    "mutation", "nlpdiving", "objpscostdiving", "pscostdiving", "rens", "rins", "rootsoldiving", "vbounds",
    "veclendiving",
)  # fmt: skip
#: For a partition into a given number of duties: SCIP then branches at once, instead of cutting, probing and beginning
#: anew. The linear program is nearly whole, few branchings settle it.
BRANCH_AT_ONCE = "\n".join(
    [
        *(f"heuristics/{name}/freq = -1" for name in COSTLY),
        *("presolving/maxrestarts = 0", "presolving/maxrounds = 3", "propagating/probing/maxprerounds = 0"),
        *("separating/maxroundsroot = 0", "separating/maxrounds = 0"),
        *("branching/relpscost/maxlookahead = 3", "branching/relpscost/initcand = 10"),
    ]
)


@dataclass(frozen=True)
class Choice:
    """What an integer program found among the columns it was given."""

    chosen: NDArray[np.intp] | None  #: the best columns, None if it found none
    settled: bool  #: no better choice exists among them
    bound: float = -np.inf  #: no choice among them costs less, where it is not settled


def duties_within(pricer: Pricer, duals: NDArray[np.float64], gap: float, *, most: int = MANY) -> tuple[Columns, bool]:
    """All duties with a reduced cost of at most `gap`, over all depots; False if there are more than `most`."""
    parts, room = [], most
    for flat in pricer.flats:
        least = pricer.labelling.completion(flat, duals)
        found, complete = pricer.labelling.duties_within(flat, duals, least, bound=gap, most=room)
        parts.append(found)
        room -= found.size
        if not complete:
            return Columns.join(parts), False
    return Columns.join(parts), True


def settle(
    duties: Callable[[float], tuple[Columns, bool]],
    pick: Callable[[Columns], Choice],
    best: Columns | None,
    *,
    bound: float,
    unit: float,
) -> tuple[Columns | None, bool]:
    """A plan that is proven best, from ever larger sets of duties.

    The duties with a reduced cost of at most d contain every plan that costs at most `bound` + d. So begin with a small
    d: the best choice among few duties is found soon, and if it costs no more than `bound` + d, it is the best of all.

    Args:
        duties: all of them with a reduced cost of at most its argument, and whether these are all.
        pick: the best choice among columns.
        best: a plan, if one is known.
        bound: the linear program's value, at the duals of the reduced costs.
        unit: all costs are multiples of it.

    Returns:
        The best plan known, and whether it is proven best (none: proven that there is none).
    """
    known = np.inf if best is None else float(best.cost.sum())
    allowed = max(4 * unit, 2e-4 * abs(bound))
    while True:
        enough = known - unit - bound  # a better plan is better by a unit at least
        last = allowed >= enough
        columns, complete = duties(min(allowed, enough) + 1e-4)
        if not complete:
            return best, False
        choice = pick(columns)
        if choice.chosen is not None and (cost := float(columns.cost[choice.chosen].sum())) < known - unit / 2:
            best, known = columns.take(choice.chosen), cost
            last = allowed >= known - unit - bound
        if last or not choice.settled:
            return best, choice.settled
        allowed *= 2


def choose(
    columns: Columns,
    needed: NDArray[np.bool_],
    *,
    crews: int | None = None,
    hint: Sequence[int] = (),
    seconds: float = 60.0,
    unit: float = 0.5,
    seed: int = 0,
    enough: float = np.inf,
    nodes: int = -1,
    solver: Literal["scip", "cp-sat"] = "scip",
) -> Choice:
    """The cheapest columns that cover every needed trip.

    Args:
        columns: k of them.
        needed: (n,) bool.
        crews: None covers each trip at least once; a number partitions the trips, each exactly once, into so many
            columns.
        hint: a choice to begin with.
        seconds: limit by the clock.
        unit: all costs are multiples of it (CP-SAT counts in whole numbers).
        seed: of the solver's own randomness.
        enough: SCIP may stop once it has proven that no choice costs so little.
        nodes: of SCIP's own tree, -1 for as many as it takes.
        solver: SCIP proves sooner on columns; CP-SAT is the second opinion.
    """
    if not (columns.total(needed.astype(np.float64)) > 0).any() and needed.any():
        return Choice(None, settled=True)
    rows: list[list[int]] = [[] for _ in needed]
    for c in range(columns.size):
        for trip in columns.row(c).tolist():
            rows[trip].append(c)
    wanted = [rows[i] for i in np.flatnonzero(needed)]
    if not all(wanted):
        return Choice(None, settled=True)
    seconds = max(0.01, seconds)
    if solver == "cp-sat":
        return _cp_sat(columns, wanted, crews, list(hint), seconds, unit, seed)
    return _scip(columns, wanted, crews, list(hint), seconds, min(enough + unit / 2, 1e20), nodes, seed)


def _scip(
    columns: Columns, rows: list[list[int]], crews: int | None, hint: list[int], seconds: float, stop: float,
    nodes: int, seed: int,
) -> Choice:  # fmt: skip
    from ortools.linear_solver import pywraplp

    mip = pywraplp.Solver.CreateSolver("SCIP")
    limits = f"limits/gap = 0\nlimits/dual = {stop}\nlimits/totalnodes = {nodes}"
    search = "" if crews is None else BRANCH_AT_ONCE
    mip.SetSolverSpecificParametersAsString(f"randomization/randomseedshift = {seed}\n{limits}\n{search}")
    mip.SetTimeLimit(int(1000 * seconds))
    infinity = mip.infinity()
    x = [mip.BoolVar("") for _ in range(columns.size)]
    for members in rows:
        row = mip.Constraint(1.0, infinity if crews is None else 1.0)
        for c in members:
            row.SetCoefficient(x[c], 1.0)
    count = mip.Constraint(*((0.0, infinity) if crews is None else (crews, crews)))
    objective = mip.Objective()
    objective.SetMinimization()
    for variable, cost in zip(x, columns.cost, strict=True):
        count.SetCoefficient(variable, 1.0)
        objective.SetCoefficient(variable, float(cost))
    if hint:
        taken = set(hint)
        mip.SetHint(x, [float(c in taken) for c in range(columns.size)])
    status = mip.Solve()
    if status in (pywraplp.Solver.FEASIBLE, pywraplp.Solver.NOT_SOLVED, pywraplp.Solver.ABNORMAL) and not (
        mip.wall_time() >= 950 * seconds or 0 <= nodes <= mip.nodes() + 1 or objective.BestBound() >= stop - 1e-6
    ):
        raise KeyboardInterrupt  # SCIP has taken the Ctrl-C for itself
    if status == pywraplp.Solver.INFEASIBLE:
        return Choice(None, settled=True)
    bound = objective.BestBound()
    bound -= 1e-6 + 1e-7 * abs(bound)  # it is right up to the solver's tolerances
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return Choice(None, settled=False, bound=bound)
    chosen = np.flatnonzero([v.solution_value() > 0.5 for v in x])
    return Choice(chosen, settled=status == pywraplp.Solver.OPTIMAL, bound=bound)


def _cp_sat(
    columns: Columns, rows: list[list[int]], crews: int | None, hint: list[int], seconds: float, unit: float, seed: int
) -> Choice:
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(columns.size)]
    for members in rows:
        literals = [x[c] for c in members]
        _ = model.add_exactly_one(literals) if crews is not None else model.add_bool_or(literals)
    if crews is not None:
        model.add(sum(x) == crews)
    costs = np.rint(columns.cost / max(unit, 1e-9)).astype(np.int64).tolist()
    model.minimize(sum(cost * v for cost, v in zip(costs, x, strict=True)))
    taken = set(hint)
    for c in range(columns.size) if hint else ():
        model.add_hint(x[c], c in taken)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Choice(None, settled=True)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Choice(None, settled=False)
    chosen = np.flatnonzero([solver.boolean_value(v) for v in x])
    return Choice(chosen, settled=status == cp_model.OPTIMAL)
