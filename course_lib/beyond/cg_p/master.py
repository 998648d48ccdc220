"""The restricted master: which of the duties found so far, and in which shares, cover all trips at the least cost.

    min sum_p c_p x_p + M sum_i s_i   subject to   sum_p a_ip x_p + s_i >= 1 for each open trip i,   x, s >= 0

One linear program of OR-Tools' GLOP that only grows: a new column is non-basic, so the primal simplex goes on from the
last basis. A trip in more than one duty is covered by one crew and ridden along by the others; hence >=, and no dual is
negative. No upper bound on x: its dual would have to be known to the pricing.

Source: arXiv 2207.01411, the problem of section I; M and its artificial columns s as in Desaulniers et al. (2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib.beyond.cg_p.columns import Columns, Pool

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TimeUp(Exception):  # noqa: N818 - nothing went wrong
    """The time limit has passed."""


@dataclass(frozen=True)
class Solution:
    """An optimum of the restricted master."""

    value: float  #: artificial columns included
    duals: NDArray[np.float64]  #: (n,) >= 0; 0 for trips that are not open
    shares: NDArray[np.float64]  #: x: (columns,) in the order of `Master.columns`; those added later are not among them
    uncovered: float  #: the sum of the artificial columns; 0 up to rounding once the columns cover every trip


class Master:
    """The linear program over some of the trips.

    Args:
        rows: (n,) bool, the trips to cover.
        penalty: M, more than any duty costs.

    >>> master = Master(np.ones(2, dtype=bool), 2000.0)
    >>> master.add(Columns.of([((0,), 600.0, 0), ((0, 1), 900.0, 0)]))
    2
    >>> master.solve().value
    900.0
    """

    def __init__(self, rows: NDArray[np.bool_], penalty: float) -> None:
        from ortools.linear_solver import pywraplp

        self._lp = pywraplp.Solver.CreateSolver("GLOP")
        self._limits = pywraplp.MPSolverParameters()
        for name, value in (("INCREMENTALITY", "INCREMENTALITY_ON"), ("PRESOLVE", "PRESOLVE_OFF")):
            self._limits.SetIntegerParam(getattr(pywraplp.MPSolverParameters, name), getattr(self._limits, value))
        self._limits.SetIntegerParam(pywraplp.MPSolverParameters.LP_ALGORITHM, pywraplp.MPSolverParameters.PRIMAL)
        self._objective = self._lp.Objective()
        self._objective.SetMinimization()
        self._infinity = self._lp.infinity()
        self._open = np.flatnonzero(rows)
        self._row = {int(i): self._lp.Constraint(1.0, self._infinity) for i in self._open}
        self._n = len(rows)
        self._artificial = [self._variable(penalty, [int(i)]) for i in self._open]
        self._variables: list = []
        self._pool = Pool()

    def _variable(self, cost: float, trips: list[int]) -> Any:
        variable = self._lp.NumVar(0.0, self._infinity, "")
        self._objective.SetCoefficient(variable, cost)
        for trip in trips:
            if (row := self._row.get(trip)) is not None:
                row.SetCoefficient(variable, 1.0)
        return variable

    def add(self, columns: Columns) -> int:
        """Take in the columns that are not there yet; says how many these were."""
        fresh = self._pool.add(columns)
        for c in range(fresh.size):
            self._variables.append(self._variable(float(fresh.cost[c]), fresh.row(c).tolist()))
        return fresh.size

    @property
    def columns(self) -> Columns:
        """All columns, in the order they came."""
        return self._pool.columns

    def solve(self, seconds: float | None = None) -> Solution:
        """To optimality.

        Raises:
            TimeUp: not within so many seconds.
            RuntimeError: the solver failed, or its duals do not prove its value.
        """
        from ortools.linear_solver import pywraplp

        # 0 would mean no limit.
        self._lp.SetTimeLimit(0 if seconds is None else max(1, int(1000 * seconds)))
        status = self._lp.Solve(self._limits)
        if status == pywraplp.Solver.NOT_SOLVED or (status == pywraplp.Solver.FEASIBLE and seconds is not None):
            raise TimeUp
        if status != pywraplp.Solver.OPTIMAL:
            raise RuntimeError(f"the master's linear program ended with GLOP's status {status}, expected 0 (optimal)")
        value = self._objective.Value()
        duals = np.zeros(self._n)
        duals[self._open] = np.maximum([self._row[i].dual_value() for i in self._open.tolist()], 0.0)
        if abs(duals.sum() - value) > 1e-5 * max(1.0, abs(value)):
            raise RuntimeError(f"the master's duals add up to {duals.sum()}, expected its value {value}")
        shares = np.array([variable.solution_value() for variable in self._variables], dtype=np.float64)
        return Solution(value, duals, shares, float(sum(s.solution_value() for s in self._artificial)))
