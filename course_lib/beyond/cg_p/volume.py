"""The volume algorithm: prices of the trips that are good enough, a hundred times faster than a linear program's.

Subgradient steps on the Lagrangian of the master. The columns of negative reduced cost, averaged over the steps, are an
estimate x of the primal solution, and v = 1 - A x is the direction of the next step. The value bounds the *restricted*
master only, so that it proves nothing about the whole problem.

Source: Barahona and Anbil (2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 120
SMOOTHING = 0.08  #: share of the newest columns in the average
TARGET = 1.04  #: the step aims this much beyond the best value
PATIENCE = 6  #: failures until the step becomes smaller


@compiled
def _ascend(first, trips, cost, duals, average, needed, ceiling, steps):  # type: ignore[no-untyped-def]
    """See `ascend`."""
    n, columns = len(duals), len(cost)
    centre, price, violation = duals.copy(), duals.copy(), np.empty(n)
    best, step, failures = -np.inf, 1.0, 0
    for _ in range(steps):
        value = 0.0
        for i in range(n):
            if needed[i]:
                value += price[i]
                violation[i] = 1.0
            else:
                violation[i] = 0.0
        for c in range(columns):
            reduced = cost[c]
            for k in range(first[c], first[c + 1]):
                reduced -= price[trips[k]]
            average[c] *= 1.0 - SMOOTHING
            if reduced < 0.0:
                value += reduced
                average[c] += SMOOTHING
            if average[c] > 1e-4:
                for k in range(first[c], first[c + 1]):
                    violation[trips[k]] -= average[c]
        if value > best:
            best, failures, step = value, 0, min(2.0, 1.1 * step)
            centre[:] = price
        else:
            failures += 1
            if failures == PATIENCE:
                step, failures = 0.7 * step, 0
        length = 0.0
        for i in range(n):
            if not needed[i] or (violation[i] < 0.0 and centre[i] == 0.0):
                violation[i] = 0.0
            length += violation[i] * violation[i]
        if length < 1e-12:
            break
        width = step * max((TARGET - 1.0) * abs(best), TARGET * abs(best) - value, 1.0) / length
        for i in range(n):
            price[i] = min(ceiling, max(0.0, centre[i] + width * violation[i]))
    return centre, best


def ascend(
    columns: Columns,
    duals: NDArray[np.float64],
    average: NDArray[np.float64],
    needed: NDArray[np.bool_],
    *,
    ceiling: float,
    steps: int = STEPS,
) -> tuple[NDArray[np.float64], float]:
    """Better prices for these columns.

    Args:
        columns: k of them.
        duals: (n,) where to begin.
        average: (k,) shares of the columns; changed in place.
        needed: (n,) bool, the trips to cover.
        ceiling: of a price: without it, that of a trip in no column would grow for ever.
        steps: each costs one pass over the columns.

    Returns:
        (n,) prices, and their Lagrangian value over these columns.
    """
    return _ascend(columns.first, columns.trips, columns.cost, duals, average, needed, float(ceiling), steps)
