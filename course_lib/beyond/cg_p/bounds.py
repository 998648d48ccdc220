"""Lower bounds from one pricing: what no plan can cost less than, known long before the master is optimal.

All need the least reduced cost over *all* duties. A pricing that looked at some arcs only, or kept some labels only,
has not seen it and proves nothing: every function here then gives -inf.

Sources: Farley (1990); Desaulniers, Desrosiers and Solomon, Column Generation (2005).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def farley(duals: NDArray[np.float64], least: float, least_cost: float, *, exact: bool) -> float:
    """sum(pi) / (1 - rho / c_min): the duals, scaled until no duty is worth more than it costs.

    A duty's trips are worth c - rc <= c - rho <= c (1 - rho / c_min), because it costs at least c_min.

    Args:
        duals: (n,) pi >= 0.
        least: rho <= 0, the least reduced cost.
        least_cost: c_min > 0, no duty costs less.
        exact: whether rho is over all duties.

    >>> round(farley(np.full(3, 570.0), -490.0, 510.0, exact=True), 1)
    872.1
    """
    return float((duals * _scale(least, least_cost)).sum()) if exact else -math.inf


def _scale(least: float | NDArray[np.float64], least_cost: float) -> NDArray[np.float64]:
    """1 / (1 - rho / c_min), also where duties may cost nothing: then only rho = 0 leaves anything."""
    short = -np.minimum(least, 0.0)
    return np.where(short > 0, least_cost / np.maximum(least_cost + short, 1e-300), 1.0)


def farley_by_trip(
    duals: NDArray[np.float64], through: NDArray[np.float64], least_cost: float, *, exact: bool
) -> float:
    """The same with a scale for each trip: sum_i pi_i / (1 - rho_i / c_min), never below `farley`.

    Args:
        duals: (n,).
        through: (n,) rho_i <= 0, no duty through trip i has a lesser reduced cost. For a duty p and each of its trips
            rho_i <= rc_p, so that its trips are together worth at most (c_p - rc_p) / (1 - rc_p / c_min) <= c_p.
        least_cost: c_min.
        exact: whether rho_i is over all duties.
    """
    return float((duals * _scale(through, least_cost)).sum()) if exact else -math.inf


def lagrangian(duals: NDArray[np.float64], least: float, crews: float, *, exact: bool) -> float:
    """sum(pi) + K rho, with at most K duties in a solution of the linear program.

    Args:
        duals: (n,).
        least: rho <= 0.
        crews: K, for instance the restricted master's value over c_min.
        exact: whether rho is over all duties.
    """
    return float(duals.sum() + crews * min(least, 0.0)) if exact else -math.inf


def fixed_crews(duals: NDArray[np.float64], crew_dual: float, least: float, crews: int, *, exact: bool) -> float:
    """sum(pi) + K (mu + rho): exactly K duties, rows that are equalities, duals of any sign (OR-Library form).

    Args:
        duals: (n,).
        crew_dual: mu, of the row that counts the crews.
        least: rho, the least of c_p - sum_p pi_i - mu.
        crews: K.
        exact: whether rho is over all duties.
    """
    return float(duals.sum() + crews * (crew_dual + min(least, 0.0))) if exact else -math.inf


def round_up(bound: float, unit: float) -> float:
    """The next multiple of the cost's unit: whole duties cost no less.

    >>> round_up(974.2, 0.5), round_up(975.0000000001, 0.5)
    (974.5, 975.0)
    """
    if not math.isfinite(bound):
        return bound
    tolerance = 1e-6 + 1e-9 * abs(bound / unit)
    return math.ceil(bound / unit - tolerance) * unit if tolerance < 0.5 else bound  # a unit finer than rounding errors
