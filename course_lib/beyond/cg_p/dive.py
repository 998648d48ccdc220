"""From shares to whole duties: fix some, solve the rest again, and let crews ride along on trips already covered.

Each round takes the duties with the largest shares, none of which overlap, and solves a new, small master over the
trips that are still open. Its columns may run over covered trips (as a passenger, at no gain): where trips are short,
disjoint rests of duties hardly exist. At the end duties that the others make superfluous are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.master import Master
from course_lib.beyond.cg_p.pricing import Pricer

if TYPE_CHECKING:
    from numpy.typing import NDArray

SURE = 0.6  #: a duty with this share is taken even if the round has taken enough
NOTHING = 1e-6  #: a share that is none


@dataclass(frozen=True)
class DiveSettings:
    """How patiently to dive."""

    share: float  #: of the open trips, covered in one round
    rounds: int  #: of pricing in each small master
    labels: int  #: kept a trip when pricing
    pool: float  #: columns a small master begins with, per trip


#: Chosen on instances of 500 and 1,000 trips; FAST where seconds matter more than the last percent, AGAIN where it has
#: cost too much.
PATIENT = DiveSettings(share=0.15, rounds=3, labels=16, pool=3.0)
FAST = DiveSettings(share=0.3, rounds=2, labels=8, pool=1.0)
AGAIN = DiveSettings(share=0.15, rounds=3, labels=8, pool=1.5)


class Dive:
    """One dive; `chosen` is the plan so far, also when it is interrupted.

    Args:
        pricer: of the graph in which duties are looked for.
        columns: those of the solved master; every needed trip is in one of them.
        needed: (n,) bool, the trips to cover.
        penalty: more than any duty costs.
        proceed: called before each round of pricing; may raise to stop.
    """

    def __init__(
        self,
        pricer: Pricer,
        columns: Columns,
        needed: NDArray[np.bool_],
        *,
        penalty: float,
        settings: DiveSettings = PATIENT,
        proceed: Callable[[], object] = lambda: None,
    ) -> None:
        self.pricer, self.columns, self.penalty = pricer, columns, penalty
        self.settings, self.proceed = settings, proceed
        self.open = needed.copy()
        self.chosen: list[Columns] = []

    def run(self, shares: NDArray[np.float64], duals: NDArray[np.float64]) -> Columns:
        """The duties of a plan that covers every needed trip.

        Args:
            shares: (columns,) of the solved master.
            duals: (n,) of the same.
        """
        current = self.columns
        while self.open.any():
            if not self._take(current, shares):
                self._repair(duals)
            if not self.open.any():
                break
            current, shares, duals = self._solve_rest(np.where(self.open, duals, 0.0))
        return without_superfluous(Columns.join(self.chosen))

    def at_once(self, shares: NDArray[np.float64]) -> Columns:
        """All duties that do not overlap, by falling shares, then `complete`."""
        self._take(self.columns, shares)
        return self.complete()

    def complete(self) -> Columns:
        """The plan with all open trips covered at once, by the duties with the least cost per newly covered trip."""
        while self.open.any():
            self._take_cheapest(self.columns)
        return without_superfluous(Columns.join(self.chosen))

    def _fix(self, columns: Columns, chosen: list[int]) -> None:
        self.chosen.append(columns.take(np.array(chosen, dtype=np.intp)))
        self.open[self.chosen[-1].trips] = False

    def _take(self, columns: Columns, shares: NDArray[np.float64]) -> bool:
        """Fix the largest shares that do not overlap; whether there were any."""
        enough = max(1.0, self.settings.share * self.open.sum())
        taken: set[int] = set()
        chosen: list[int] = []
        for c in np.argsort(-shares, kind="stable"):
            if shares[c] < NOTHING or (len(taken) >= enough and shares[c] < SURE):
                break
            fresh = {i for i in columns.row(c).tolist() if self.open[i]}
            if fresh and not fresh & taken:
                taken |= fresh
                chosen.append(int(c))
        if chosen:
            self._fix(columns, chosen)
        return bool(chosen)

    def _repair(self, duals: NDArray[np.float64]) -> None:
        """No share left: look for a duty that covers as many open trips as possible for its price."""
        self.proceed()
        reward = np.where(self.open, np.maximum(duals, self.penalty), 0.0)
        found = self.pricer.price(reward, cap=self.settings.labels, threshold=0.0).columns
        self._take_cheapest(Columns.join([found, self.columns]))

    def _take_cheapest(self, columns: Columns) -> None:
        fresh = columns.total(self.open.astype(np.float64))
        price = np.where(fresh > 0, columns.cost / np.maximum(fresh, 1.0), np.inf)
        self._fix(columns, [int(price.argmin())])

    def _solve_rest(self, duals: NDArray[np.float64]) -> tuple[Columns, NDArray[np.float64], NDArray[np.float64]]:
        """A small master over the open trips, priced a few times: its columns, shares and duals."""
        useful = self.columns.total(self.open.astype(np.float64)) > 0
        reduced = np.where(useful, self.columns.reduced(duals), np.inf)
        best = np.argsort(reduced, kind="stable")[: min(round(self.settings.pool * len(self.open)), int(useful.sum()))]
        master = Master(self.open, self.penalty)
        master.add(self.columns.take(best))
        solution = master.solve()
        for _ in range(self.settings.rounds):
            self.proceed()
            found = self.pricer.price(solution.duals, cap=self.settings.labels).columns
            if not master.add(found):
                break
            self.columns = Columns.join([self.columns, found])
            solution = master.solve()
        return master.columns, solution.shares, solution.duals


def without_superfluous(plan: Columns) -> Columns:
    """The plan without duties whose trips all others cover, the dearest dropped first."""
    times = np.bincount(plan.trips, minlength=1)
    kept = np.ones(plan.size, dtype=bool)
    for c in np.argsort(-plan.cost, kind="stable"):
        if (times[plan.row(c)] > 1).all():
            kept[c] = False
            times[plan.row(c)] -= 1
    return plan.take(np.flatnonzero(kept))
