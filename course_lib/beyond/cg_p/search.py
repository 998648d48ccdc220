"""One search for a plan: the state that column generation, the volume algorithm and the dive share, and its clock."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from course_lib.beyond.cg_p import bounds, volume
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.dive import Dive, DiveSettings
from course_lib.beyond.cg_p.master import Master, Solution, TimeUp
from course_lib.beyond.cg_p.plan import Step
from course_lib.beyond.cg_p.pricing import WORTHWHILE, Pricer, Pricing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: Weight of the last prices against the master's new ones (Neame's smoothing).
SMOOTHING = 0.6
#: With fewer new columns the pricing looks more closely.
FEW = 5
#: The volume algorithm stops when a round finds fewer columns for each trip.
EXHAUSTED = 0.03


class Search:
    """What is known so far about one graph.

    Args:
        graph: with all its arcs.
        time_limit: seconds by the clock, or None.
        progress: called with each `Step`; may raise KeyboardInterrupt.
    """

    def __init__(
        self, graph: DutyGraph, *, time_limit: float | None = None, progress: Callable[[Step], object] | None = None
    ) -> None:
        rules = graph.rules
        self.graph, self.progress = graph, progress
        self.pricer = Pricer(graph)
        self.n = len(graph.timetable)
        # Twice what the longest duty can cost: while a trip has a duty, leaving it out never pays.
        self.penalty = 2 * (rules.fixed_cost + (rules.minute_cost + rules.deadhead_cost) * rules.max_duty) + 1
        self.needed = np.zeros(self.n, dtype=bool)
        self.start = Columns.of([])  #: a duty for each trip that can have one
        self.master: Master | None = None
        self.solution: Solution | None = None
        self.dive: Dive | None = None
        self.bound = -math.inf
        self.lp_value: float | None = None
        self.estimate: float | None = None
        self.truncated = 0
        self.out_of_time = False
        self.history: list[Step] = []
        self.times: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()
        self.deadline = math.inf if time_limit is None else self.began + time_limit

    # Time -------------------------------------------------------------------------------------------------------------

    def proceed(self) -> None:
        """Raises `TimeUp` after the deadline."""
        if time.perf_counter() > self.deadline:
            raise TimeUp

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """CPU seconds, added to a phase."""
        began = time.process_time()
        try:
            yield
        finally:
            self.times[phase] += time.process_time() - began

    def _report(self, phase: str, value: float, columns: int, added: int, pricing: Pricing, whole: bool) -> None:
        seconds = time.perf_counter() - self.began
        exact = pricing.exact and whole
        step = Step(seconds, phase, value, self.bound, columns, added, pricing.least, exact)
        self.history.append(step)
        if self.progress is not None:
            self.progress(step)

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.perf_counter()

    def solve_master(self, master: Master) -> Solution:
        """To optimality; raises `TimeUp` at the deadline."""
        with self.timed("master"):
            left = None if self.deadline == math.inf else max(0.01, self.seconds_left())
            return master.solve(left)

    def _price(self, pricer: Pricer, duals: NDArray[np.float64], *, cap: int = 0, most: int = 150) -> Pricing:
        with self.timed("pricing"):
            pricing = pricer.price(duals, cap=cap, most=most, proceed=self.proceed)
        self.truncated += pricing.truncated
        return pricing

    # Phases -----------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find for each trip a duty that contains it, or that there is none: `needed`, `start`."""
        alone = Pricer(self.graph.keep(np.zeros(len(self.graph), dtype=bool)))
        single = alone.price(np.zeros(self.n), threshold=np.inf, most=self.n, per_trip=1).columns
        parts = [single]
        self.needed[single.trips] = True
        self.start = single
        with self.timed("pricing"):
            # A trip that fills no duty by itself may still be part of one. A reward only such a duty can earn leaves
            # the labelling little to do.
            while not self.needed.all():
                reward = np.where(self.needed, 0.0, self.penalty)
                found = self.pricer.price(reward, threshold=0.0, most=self.n, per_trip=self.n).columns
                if not found.size:
                    break
                parts.append(found)
                self.needed[found.trips] = True
                self.start = Columns.join(parts)

    def add_bound(self, duals: NDArray[np.float64], pricing: Pricing, value: float) -> None:
        """What an exact pricing on the whole graph proves."""
        least_cost = self.graph.rules.least_cost
        crews = value / max(least_cost, 1e-9)  # more duties no optimum of the linear program has
        found = (
            bounds.farley(duals, pricing.least, least_cost, exact=pricing.exact),
            bounds.farley_by_trip(duals, pricing.through, least_cost, exact=pricing.exact),
            bounds.lagrangian(duals, pricing.least, crews, exact=pricing.exact),
        )
        self.bound = max(self.bound, *found)

    def first_prices(self) -> NDArray[np.float64]:
        """What a trip is worth, roughly: part of a duty of its own, and its minutes with some waiting."""
        rules, table = self.graph.rules, self.graph.timetable
        alone = np.zeros(self.n)
        alone[self.start.trips] = np.repeat(self.start.cost, np.diff(self.start.first))
        return np.where(self.needed, 0.3 * alone + 2.5 * rules.minute_cost * table.duration, 0.0)

    def prove_bound(self, duals: NDArray[np.float64]) -> None:
        """One exact pricing of the whole graph."""
        pricing = self._price(self.pricer, duals)
        self.add_bound(duals, pricing, math.inf)
        self._report("bound", float(duals.sum()), pricing.columns.size, 0, pricing, True)

    def new_master(self, columns: Columns) -> Master:
        """With a duty for each needed trip, and these."""
        self.master, self.solution = Master(self.needed, self.penalty), None
        self.master.add(self.start)
        self.master.add(columns)
        return self.master

    def generate(self, master: Master, pricer: Pricer, *, phase: str, stages: Sequence[int], whole: bool) -> Solution:
        """Column generation until the last stage of pricing finds nothing.

        Args:
            master: to add columns to.
            pricer: of the whole graph or a part.
            phase: for the history.
            stages: labels kept a trip, stage by stage; 0 for all.
            whole: the pricer's graph is the whole one, so that an exact pricing proves a bound.
        """
        stage, last = 0, len(stages) - 1
        duals: NDArray[np.float64] | None = None
        while True:
            self.proceed()
            solution = self.solution = self.solve_master(master)
            true = solution.duals
            duals = true if duals is None else SMOOTHING * duals + (1 - SMOOTHING) * true
            while True:
                pricing = self._price(pricer, duals, cap=stages[stage])
                if whole:
                    self.add_bound(duals, pricing, solution.value)
                useful = int((pricing.columns.reduced(true) < -WORTHWHILE).sum())
                if useful >= FEW or (stage == last and duals is true):
                    break
                if duals is not true:
                    duals = true  # the smoothed prices misled: ask again at the master's own
                else:
                    stage += 1
            added = master.add(pricing.columns) if useful else 0
            self._report(phase, solution.value, master.columns.size, added, pricing, whole)
            if not added:  # nothing, or only what is there already: what is left is rounding
                if stage == last:
                    return solution
                stage += 1

    def volume(
        self, pool: Pool, average: NDArray[np.float64], duals: NDArray[np.float64], pricer: Pricer, *,
        rounds: int, labels: int, whole: bool,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Column generation at the volume algorithm's prices; returns the columns' average and the prices."""
        phase = "volume" if whole else "volume, reduced graph"
        for _ in range(rounds):
            self.proceed()
            with self.timed("volume"):
                columns = pool.columns
                duals, self.estimate = volume.ascend(columns, duals, average, self.needed, ceiling=self.penalty)
            with self.timed("pricing"):
                pricing = pricer.price(duals, cap=labels, most=400, per_trip=6, proceed=self.proceed)
                fresh = pool.add(pricing.columns)
            average = np.concatenate([average, np.zeros(fresh.size)])
            self._report(phase, self.estimate, columns.size, fresh.size, pricing, whole)
            if fresh.size < EXHAUSTED * self.n:
                break
        return average, duals

    def finish(self, pricer: Pricer, settings: DiveSettings) -> Columns:
        """A plan of whole duties from the solved master."""
        assert self.master is not None
        assert self.solution is not None
        with self.timed("dive"):
            self.dive = Dive(
                pricer, self.master.columns, self.needed, penalty=self.penalty, settings=settings, proceed=self.proceed
            )
            return self.dive.run(self.solution.shares, self.solution.duals)

    def best_effort(self) -> Columns:
        """A plan now, from what there is: the rest of a dive, or the columns with the largest shares."""
        if self.dive is not None:
            return self.dive.complete()
        everything = DiveSettings(share=math.inf, rounds=0, labels=1, pool=0)
        columns = self.start if self.master is None else self.master.columns
        dive = Dive(self.pricer, columns, self.needed, penalty=self.penalty, settings=everything)
        return dive.complete() if self.solution is None else dive.at_once(self.solution.shares)
