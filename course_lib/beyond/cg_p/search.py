"""One search for a plan: the state that column generation, the volume algorithm and the dive share, and its clock."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from course_lib.beyond.cg_p import bounds, volume
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.dive import Dive, DiveSettings
from course_lib.beyond.cg_p.master import Master, Solution, TimeUp
from course_lib.beyond.cg_p.plan import Step
from course_lib.beyond.cg_p.pricing import WORTHWHILE, Pricer, Pricing, spread

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: Weight of the last prices against the master's new ones (Neame's smoothing).
SMOOTHING = 0.6
#: With fewer new columns the pricing looks more closely.
FEW = 5
#: The volume algorithm stops when a round finds fewer columns for each trip.
EXHAUSTED = 0.03
#: Columns that come back from the reserve at once.
RECALLED = 300
#: Seconds that nobody waits for; longer limits are none.
FOREVER = 1e9


class Fractional(NamedTuple):
    """Shares of columns that cover the trips, and the prices that go with them."""

    columns: Columns
    shares: NDArray[np.float64]  #: (columns,)
    duals: NDArray[np.float64]  #: (n,)


class Search:
    """What is known so far about one graph.

    Args:
        graph: with all its arcs.
        time_limit: seconds by the clock, or None.
        progress: called with each `Step`; may raise KeyboardInterrupt.
        interrupt: asked between the steps; raises KeyboardInterrupt where somebody wants the search to end.
        device: where to price with few labels, all trips of a layer at once; None for the labelling.
    """

    def __init__(
        self,
        graph: DutyGraph,
        *,
        time_limit: float | None = None,
        progress: Callable[[Step], object] | None = None,
        interrupt: Callable[[], object] = lambda: None,
        device: torch.device | str | None = None,
    ) -> None:
        rules = graph.rules
        self.graph, self.progress, self.interrupt = graph, progress, interrupt
        self.device = device
        self.pricer = self.pricer_of(graph)
        self.n = len(graph.timetable)
        # Twice what the longest duty can cost: while a trip has a duty, leaving it out never pays.
        self.penalty = 2.0 * (rules.fixed_cost + (rules.minute_cost + rules.deadhead_cost) * rules.max_duty) + 1
        # No duty costs less. Where signing on and off is free, the shortest trip is all that is sure to be paid.
        shortest = int(graph.timetable.duration.min()) if self.n else 0
        self.least_cost = rules.least_cost or rules.minute_cost * shortest
        self.needed = np.zeros(self.n, dtype=bool)
        self.start = Columns.of([])  #: a duty for each trip that can have one
        self.master: Master | None = None
        self.solution: Solution | None = None  #: of the master
        self.fractional: Fractional | None = None  #: the newest, also without a master
        self.dive: Dive | None = None
        self.plan: Columns | None = None  #: the best so far
        self.bound = -math.inf
        self.lp_value: float | None = None
        self.estimate: float | None = None
        self.truncated = 0
        self.out_of_time = False
        self.history: list[Step] = []
        self.times: dict[str, float] = defaultdict(float)
        self._within = False  # a phase that is timed
        self.began = time.perf_counter()
        self.deadline = math.inf if time_limit is None or time_limit > FOREVER else self.began + time_limit

    # Time -------------------------------------------------------------------------------------------------------------

    def proceed(self) -> None:
        """Raises `TimeUp` after the deadline, and KeyboardInterrupt when asked to."""
        self.interrupt()
        if time.perf_counter() > self.deadline:
            raise TimeUp

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """CPU seconds, added to a phase; what is timed within it is a part of it, and not counted again."""
        if self._within:
            yield
            return
        began, self._within = time.process_time(), True
        try:
            yield
        finally:
            self._within = False
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

    def _price(self, pricer: Pricer, duals: NDArray[np.float64], *, cap: int = 0) -> Pricing:
        with self.timed("pricing"):
            pricing = pricer.price(duals, cap=cap, proceed=self.proceed)
        self.truncated += pricing.truncated
        return pricing

    # Phases -----------------------------------------------------------------------------------------------------------

    def pricer_of(self, graph: DutyGraph) -> Pricer:
        """Of the whole graph or a part."""
        if self.device is None:
            return Pricer(graph)
        from course_lib.beyond.cg_p.pricing_torch import LayeredPricer

        return Pricer(graph, heuristic=LayeredPricer(graph, self.device))

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
        least_cost = self.least_cost
        # More duties no optimum of the linear program has: in each is a trip that is covered just once.
        crews = min(value / max(least_cost, 1e-9), float(self.needed.sum()))
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

    def prove_bound(self, *, rounds: int, labels: int) -> None:
        """One exact pricing of the whole graph, after some rounds of the volume algorithm there.

        At prices from a part of the graph, duties that use the rest look far too good: the bound would be weak, and the
        labels many.
        """
        assert self.fractional is not None
        pool, newest = Pool(), self.fractional
        pool.add(newest.columns)
        with self.timed("bound"):
            duals = self.volume(pool, newest, self.pricer, rounds=rounds, labels=labels, whole=True).duals
            pricing = self._price(self.pricer, duals)
        self.add_bound(duals, pricing, math.inf)
        self._report("bound", float(duals.sum()), pricing.columns.size, 0, pricing, True)

    def new_master(self, columns: Columns) -> Master:
        """With a duty for each needed trip, and these."""
        self.master, self.solution, self.fractional = Master(self.needed, self.penalty), None, None
        self.master.add(self.start)
        self.master.add(columns)
        return self.master

    def relax(self, *, stages: Sequence[int], whole: bool = True) -> Solution:
        """Plain column generation: the linear program over all duties of the graph, from nothing.

        Args:
            stages: as for `generate`.
            whole: False if the graph is itself a part of the one that bounds are for.
        """
        if not self.needed.any():
            self.prepare()
        master = self.new_master(Columns.of([]))
        solution = self.generate(master, self.pricer, phase="full", stages=stages, whole=whole)
        self.lp_value = solution.value
        return solution

    def generate(
        self,
        master: Master,
        pricer: Pricer,
        *,
        phase: str,
        stages: Sequence[int],
        whole: bool,
        reserve: Columns | None = None,
    ) -> Solution:
        """Column generation until the last stage of pricing finds nothing.

        Args:
            master: to add columns to.
            pricer: of the whole graph or a part.
            phase: for the history.
            stages: labels kept a trip, stage by stage; 0 for all.
            whole: the pricer's graph is the whole one, so that an exact pricing proves a bound.
            reserve: columns that are asked before the graph is; a master that begins small is solved sooner.
        """
        stage, last = 0, len(stages) - 1
        duals: NDArray[np.float64] | None = None
        while True:
            self.proceed()
            solution = self.solution = self.solve_master(master)
            self.fractional = Fractional(master.columns, solution.shares, solution.duals)
            true = solution.duals
            if reserve is not None and master.add(self._recalled(reserve, true)):
                continue
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

    def _recalled(self, reserve: Columns, duals: NDArray[np.float64]) -> Columns:
        """Those of the reserve that are worth having now; none where they are few."""
        reduced = reserve.reduced(duals)
        order = np.argsort(reduced, kind="stable")
        order = order[reduced[order] < -WORTHWHILE]
        if len(order) < FEW:
            return Columns.of([])
        return spread(reserve.take(order), self.n, most=RECALLED, per_trip=10)

    def volume(
        self, pool: Pool, start: Fractional, pricer: Pricer, *, rounds: int, labels: int, whole: bool
    ) -> Fractional:
        """Column generation at the volume algorithm's prices.

        Args:
            pool: to add columns to.
            start: shares of its columns, and prices to begin with.
            pricer: of the whole graph or a part.
            rounds: at most; it ends when a round finds next to nothing.
            labels: kept a trip when pricing.
            whole: the pricer's graph is the whole one.
        """
        phase = "volume" if whole else "volume, reduced graph"
        average, duals = start.shares.copy(), start.duals
        for _ in range(rounds):
            self.proceed()
            with self.timed("volume"):
                columns = pool.columns
                duals, self.estimate = volume.ascend(columns, duals, average, self.needed, ceiling=self.penalty)
            with self.timed("pricing"):
                pricing = pricer.price(duals, cap=labels, most=400, per_trip=6, proceed=self.proceed)
                fresh = pool.add(pricing.columns)
            average = np.concatenate([average, np.zeros(fresh.size)])
            self.fractional = Fractional(pool.columns, average, duals)
            self._report(phase, self.estimate, columns.size, fresh.size, pricing, whole)
            if fresh.size < EXHAUSTED * self.n:
                break
        return self.fractional or start

    def finish(self, pricer: Pricer, settings: DiveSettings) -> Columns:
        """A plan of whole duties from the newest shares; the one of an earlier call if that is cheaper."""
        assert self.fractional is not None
        columns, shares, duals = self.fractional
        with self.timed("dive"):
            self.dive = Dive(
                pricer, columns, self.needed, penalty=self.penalty, settings=settings, proceed=self.proceed
            )
            found = self.dive.run(shares, duals)
        if self.plan is None or found.cost.sum() < self.plan.cost.sum():
            self.plan = found
        return self.plan

    def best_effort(self) -> Columns:
        """A plan now: a finished one, the rest of a dive, or the columns with the largest shares."""
        if self.plan is not None:
            return self.plan
        if self.dive is not None:
            return self.dive.complete()
        everything = DiveSettings(share=math.inf, rounds=0, labels=1, pool=0)
        columns, shares, _ = self.fractional or Fractional(self.start, np.zeros(0), np.zeros(0))
        dive = Dive(self.pricer, columns, self.needed, penalty=self.penalty, settings=everything)
        return dive.at_once(shares) if len(shares) else dive.complete()
