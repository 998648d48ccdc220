"""`solve`: a crew plan for a timetable, by column generation in three modes.

    exact     column generation on the full graph, the pricing in stages of 12 labels, 48 and all; then the dive
    optimal   the same to the same value, but begun with columns from a graph that a predictor has pruned
    fast      the pruned graph alone

A wrong prediction costs time in optimal mode and money in fast mode, but never the proof: a bound comes only from
exact pricing on the full graph.

Source: arXiv 2207.01411 (the two modes of CG-P); the volume start and the dive are ours.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from course_lib.beyond.cg_p import bounds
from course_lib.beyond.cg_p.branching import NODES, SMALL, Tree
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.dive import AGAIN, FAST, PATIENT
from course_lib.beyond.cg_p.fixed_crews import solve_links
from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.interrupts import held_back
from course_lib.beyond.cg_p.master import TimeUp
from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Status, Step
from course_lib.beyond.cg_p.pricing import Pricer
from course_lib.beyond.cg_p.proof import MANY, choose, duties_within, settle
from course_lib.beyond.cg_p.reduction import Predictor, ShortGaps, best_arcs
from course_lib.beyond.cg_p.rules import CrewRules, rules_for
from course_lib.beyond.cg_p.search import Fractional, Search
from course_lib.beyond.cg_p.timetable import is_whole

if TYPE_CHECKING:
    import torch

    from course_lib.beyond.cg_p.timetable import Timetable

Mode = Literal["exact", "optimal", "fast"]

#: Labels kept a trip by the stages of pricing; 0 for all, and only that is exact.
STAGES = (12, 48, 0)
#: The same after a start with good columns.
LATE_STAGES = (64, 0)
#: Arcs kept a trip on average, by mode.
KEPT = {"optimal": 5.0, "fast": 3.0}
#: Rounds of the volume algorithm, and labels kept a trip when pricing: on the pruned graph, then on the full one.
VOLUME = {"reduced": (60, 8), "full": (30, 16)}
#: Columns of the volume algorithm with which the linear program begins, per trip, and those held in reserve for it.
FIRST, RESERVE = 2.0, 6.0
#: A fast plan that costs more than the estimate by this share of itself is sought once more, with more patience.
SURPLUS = 0.05
#: Share of a time limit that column generation may use, before the dive must begin.
GENERATION = 0.8


def solve(
    timetable: Timetable,
    rules: CrewRules | None = None,
    *,
    mode: Mode = "exact",
    crews: int | None = None,
    time_limit: float | None = None,
    predictor: Predictor | None = None,
    seed: int = 0,
    progress: Callable[[Step], object] | None = None,
    nodes: int | None = None,
    kept: float | None = None,
    stages: Sequence[int] = STAGES,
    device: torch.device | str | None = None,
) -> CrewPlan:
    """Duties that cover every trip that any duty can cover, at a low cost, and a proven bound on the least.

    Args:
        timetable: the trips.
        rules: None are the defaults, or those of an OR-Library file.
        mode: "exact" and "optimal" solve the linear program over *all* duties and differ only in the way there;
            "fast" looks at the arcs its predictor likes.
        crews: exactly so many duties: asked for in the OR-Library form, and only there.
        time_limit: seconds by the clock; None for no limit. The search ends soon after.
        predictor: scores the arcs, in "optimal" and "fast"; None is the network whose weights are kept (trained under
            the default rules; under others its guesses are worse, and the proof as good), or `ShortGaps()` where
            torch_geometric or safetensors is missing. Its first use takes some seconds of importing.
        seed: of the solvers' own randomness.
        progress: called with every `Step`. It may raise KeyboardInterrupt, which has the effect of Ctrl-C.
        nodes: of branch and price, in search of a proof where the linear program alone gives none; 0 for no branching,
            None for `branching.NODES` of them up to `branching.SMALL` trips. Not in "fast", nor in the OR-Library form.
        kept: arcs a trip, on average, that the predictor keeps; None for those of `KEPT`.
        stages: of the pricing in "exact", labels kept a trip; 0 for all, and the last must be that. (0,) prices exactly
            in every round, which takes several times as long.
        device: where to price with few labels, all trips of a layer at once (a GPU, for thousands of trips); None for
            the compiled labelling, which is the faster one on a CPU. What is exact is computed on the CPU in any case.

    Returns:
        The best plan found. `status` is "optimal" only with a proof, "interrupted" after the time limit or Ctrl-C (the
        plan is complete, the bound is the best so far), "infeasible" if no plan exists, else "feasible".

    Raises:
        TypeError: an argument of another kind. ValueError: an unknown mode, a limit below 0, crews where they do not
            belong or missing where they do, scores of the wrong shape; never for a limit reached or Ctrl-C.

    >>> from course_lib.beyond.cg_p import Timetable
    >>> trips = [("A", "B", 480, 540), ("B", "A", 560, 620)]
    >>> plan = solve(Timetable.of(trips, depots=["A"]))
    >>> plan.status, plan.cost, plan.duties[0].trips
    ('optimal', 650.0, (0, 1))
    """
    rules = rules_for(timetable, rules)
    _check(rules, mode, crews, time_limit, predictor)
    stages = _checked_effort(kept, stages, nodes, seed)
    with held_back() as interrupt:
        if rules.explicit:
            assert crews is not None
            return solve_links(
                timetable, rules, crews, mode=mode, time_limit=time_limit, seed=seed, progress=progress,
                interrupt=interrupt,
            )  # fmt: skip
        guess = predictor
        if guess is None:
            guess = default_predictor() if mode != "exact" else ShortGaps()  # loaded before the clock starts
        graph = DutyGraph.of(timetable, rules)
        search = Search(graph, time_limit=time_limit, progress=progress, interrupt=interrupt, device=device)
        kept = KEPT.get(mode, 0.0) if kept is None else kept
        return _solve(search, mode, guess, kept=kept, stages=stages, nodes=nodes, seed=seed)


def _solve(
    search: Search, mode: str, guess: Predictor, *, kept: float, stages: Sequence[int], nodes: int | None, seed: int
) -> CrewPlan:
    """A plan, then what can be proven of it; the best so far at the time limit or Ctrl-C."""
    plan, interrupted, proven = None, False, False
    try:
        search.prepare()
        if search.needed.any():
            plan = _within_limit(search, mode, guess, kept, stages)
            if not search.out_of_time and mode == "fast":
                search.prove_bound(rounds=VOLUME["full"][0], labels=VOLUME["full"][1])
            elif not search.out_of_time:
                plan, proven = _prove(search, plan, seed, nodes)
            interrupted = search.out_of_time
    except (KeyboardInterrupt, TimeUp):
        interrupted = True
    if plan is None:
        plan = search.best_effort()
    return _result(search, plan, mode, interrupted, proven)


@cache
def default_predictor() -> Predictor:
    """The kept network; the rule of short gaps where the network's libraries are not installed."""
    try:
        from course_lib.beyond.cg_p.predictor import load_predictor

        return load_predictor()
    except ImportError:
        return ShortGaps()


def _check(
    rules: CrewRules, mode: str, crews: int | None, time_limit: float | None, predictor: Predictor | None
) -> None:
    if predictor is not None and (isinstance(predictor, type) or not callable(getattr(predictor, "scores", None))):
        raise TypeError(f"predictor: got {predictor!r}, expected an object with `scores`, such as ShortGaps()")
    if time_limit is not None and not isinstance(time_limit, numbers.Real):
        raise TypeError(f"time_limit: got {time_limit!r}, expected seconds or None")
    if mode not in get_args(Mode):
        raise ValueError(f"mode: got {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if time_limit is not None and not time_limit >= 0:
        raise ValueError(f"time_limit: got {time_limit}, expected seconds >= 0 or None")
    if rules.explicit and crews is None:
        raise ValueError("crews: got None, expected how many: the OR-Library form fixes the number")
    if not rules.explicit and crews is not None:
        raise ValueError(f"crews: got {crews}, expected None: only the OR-Library form fixes the number of duties")
    if crews is not None and not is_whole(crews):
        raise TypeError(f"crews: got {crews!r}, expected a whole number")


def _checked_effort(kept: float | None, stages: Sequence[int], nodes: int | None, seed: int) -> tuple[int, ...]:
    """The stages, as a tuple."""
    if kept is not None and not isinstance(kept, numbers.Real):
        raise TypeError(f"kept: got {kept!r}, expected arcs a trip or None")
    if kept is not None and not kept >= 0:
        raise ValueError(f"kept: got {kept}, expected arcs a trip >= 0 or None")
    for name, given in (("nodes", 0 if nodes is None else nodes), ("seed", seed)):
        if not is_whole(given):
            raise TypeError(f"{name}: got {given!r}, expected a whole number")
        if not 0 <= given < 2**31:
            raise ValueError(f"{name}: got {given}, expected a number from 0 up, below 2**31")
    if not isinstance(stages, Iterable) or not all(map(is_whole, stages)):
        raise TypeError(f"stages: got {stages!r}, expected whole numbers of labels a trip")
    listed = tuple(stages)
    if not listed or listed[-1] != 0 or min(listed) < 0:
        raise ValueError(f"stages: got {listed}, expected labels a trip, and 0 (all of them) as the last")
    return listed


def _within_limit(search: Search, mode: str, predictor: Predictor, kept: float, stages: Sequence[int]) -> Columns:
    """Column generation for most of the time there is, then the dive."""
    end = search.deadline
    search.deadline = search.began + GENERATION * (end - search.began)
    pricer, settings = search.pricer, PATIENT
    try:
        if mode == "exact":
            search.relax(stages=stages)
        elif mode == "optimal":
            _optimal(search, predictor, kept)
        else:
            pricer, settings = _fast(search, predictor, kept), FAST
    except TimeUp:
        search.out_of_time = True
        if search.fractional is None:
            return search.best_effort()
    search.deadline = end
    try:
        plan = search.finish(pricer, settings)
        cost = float(plan.cost.sum())
        if mode == "fast" and search.estimate is not None and cost - search.estimate > SURPLUS * cost:
            plan = search.finish(pricer, AGAIN)
        return plan
    except TimeUp:
        search.out_of_time = True
        return search.best_effort()


def _reduced(search: Search, predictor: Predictor, per_trip: float) -> Pricer:
    with search.timed("prediction"):
        graph = search.graph
        scores = predictor.scores(graph.timetable, graph.rules, graph)
        return search.pricer_of(graph.keep(best_arcs(graph, scores, per_trip=per_trip)))


def _volume(search: Search, reduced: Pricer) -> tuple[Pool, Fractional]:
    """Columns and prices from the pruned graph, found with the volume algorithm from nothing."""
    pool = Pool()
    pool.add(search.start)
    rounds, labels = VOLUME["reduced"]
    start = Fractional(pool.columns, np.zeros(pool.columns.size), search.first_prices())
    return pool, search.volume(pool, start, reduced, rounds=rounds, labels=labels, whole=False)


def _optimal(search: Search, predictor: Predictor, kept: float) -> None:
    pool, start = _volume(search, _reduced(search, predictor, kept))
    rounds, labels = VOLUME["full"]
    columns, _, duals = search.volume(pool, start, search.pricer, rounds=rounds, labels=labels, whole=True)
    best = columns.take(np.argsort(columns.reduced(duals), kind="stable")[: round(RESERVE * search.n)])
    master = search.new_master(best.take(np.arange(min(best.size, round(FIRST * search.n)))))
    solution = search.generate(master, search.pricer, phase="full", stages=LATE_STAGES, whole=True, reserve=best)
    search.lp_value, search.estimate = solution.value, None


def _fast(search: Search, predictor: Predictor, kept: float) -> Pricer:
    reduced = _reduced(search, predictor, kept)
    _volume(search, reduced)
    return reduced


def _prove(search: Search, plan: Columns, seed: int, nodes: int | None) -> tuple[Columns, bool]:
    """A better plan, or the proof that there is none; the plan as it was where that would take too long."""
    assert search.solution is not None
    unit, value = search.graph.rules.cost_unit, float(plan.cost.sum())
    if value - bounds.round_up(search.bound, unit) < unit / 2:
        return plan, True
    duals = search.solution.duals
    with search.timed("proof"):
        search.proceed()
        best: Columns | None = plan
        proven = False
        if duties_within(search.pricer, duals, value - unit - float(duals.sum()) + 1e-4, most=MANY)[1]:
            best, proven = settle(
                lambda gap: duties_within(search.pricer, duals, gap),
                lambda columns: choose(
                    columns, search.needed, seconds=min(60.0, search.seconds_left()), unit=unit, seed=seed
                ),
                plan,
                bound=float(duals.sum()),
                unit=unit,
            )
    if proven:
        return best or plan, True
    tree = Tree(search, best or plan, seed=seed)
    try:
        with search.timed("proof"):
            tree.run((NODES if search.n <= SMALL else 0) if nodes is None else nodes)
    except (KeyboardInterrupt, TimeUp):
        search.out_of_time = True
    return tree.best, tree.proven


def _result(search: Search, plan: Columns, mode: str, interrupted: bool, proven: bool) -> CrewPlan:
    graph = search.graph
    cost, unit = float(plan.cost.sum()), graph.rules.cost_unit
    if proven or not search.needed.any():
        search.bound = cost
    bound = min(bounds.round_up(search.bound, unit), cost)
    uncovered = tuple(np.flatnonzero(~search.needed).tolist())
    status: Status
    if interrupted:
        status = "interrupted"
    elif search.n and not search.needed.any():
        status = "infeasible"
    else:
        status = "optimal" if cost - bound < unit / 2 else "feasible"
    depots = graph.timetable.depots
    duties = [
        Duty(tuple(plan.row(c).tolist()), float(plan.cost[c]), _home(graph, plan, c, depots))
        for c in np.lexsort((plan.first[:-1], plan.trips[plan.first[:-1]]))
    ]
    return CrewPlan(
        duties=tuple(duties),
        cost=cost,
        lower_bound=bound,
        gap=(cost - bound) / cost if cost and math.isfinite(bound) else (0.0 if not cost else math.nan),
        uncovered=uncovered,
        status=status,
        lp_value=search.lp_value,
        history=tuple(search.history),
        times=dict(search.times),
        timetable=graph.timetable,
        rules=graph.rules,
        mode=mode,
        estimate=None if search.estimate is None else min(max(search.estimate, bound), cost),
        notes=_notes(search, bound),
    )


def _home(graph: DutyGraph, plan: Columns, c: int, depots: tuple[int, ...]) -> int:
    """The station where a duty begins."""
    if graph.rules.same_depot:
        return depots[plan.depot[c]]
    table = graph.timetable
    return depots[int(table.deadhead[list(depots), table.origin[plan.row(c)[0]]].argmin())]


def _notes(search: Search, bound: float) -> tuple[str, ...]:
    graph = search.graph
    notes = [graph.obstacle(trip) for trip in np.flatnonzero(~search.needed).tolist()]
    if idle := graph.unused_depots():
        notes.append(f"No duty can begin and end at {', '.join(idle)}.")
    if bound == -math.inf:
        truncated = f"; {search.truncated} buckets of labels were cut short" if search.truncated else ""
        notes.append(f"The bound is not proven: no pricing of the full graph was exact{truncated}.")
    return tuple(notes)
