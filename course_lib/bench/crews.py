"""Crew plans by column generation: plain, with a predictor, and what else claims to do the job.  CPU only.

Every mode is timed in CPU seconds of one thread: the scores of the predictor, column generation and the dive to whole
duties; not the reading of timetable and weights, the import of libraries, nor the compilation of loops. What follows a
plan is not counted either: the attempt to prove it optimal ("exact", "optimal"), and the search for a proven bound on
the full graph ("fast", whose plan comes from the pruned graph alone), which has figures of its own. Contenders take
turns on the same instance. Every plan passes `check_plan`, or there is no report. A gap is (cost - bound) / cost, the
bound being what plain column generation proved on that instance.

The seeds were used for nothing else: no setting and no weight was chosen on them.

Contenders:
- "plain": mode "exact", the pricing in stages; the baseline of all ratios;
- "all exact": the same with exact pricing in every round, the paper's kind of baseline;
- "optimal": with the network; "optimal, all arcs": the same start without it, on the full graph (the ablation);
- "fast, network", "fast, short gaps", "fast, chance": who scores the connections.

Groups of instances: "500 trips" (ten seeds, four families), "500 short trips" (one seed, 8 to 10 trips a duty; the
shortest trips of eighty seeds), "1000 trips" (three seeds). "all exact" runs on the first three of 500 trips alone.
Of "optimal" and the fast modes on 500 trips, a time is the median of three.

Rows, C being a contender and G a group:
- "G, seed S: C" (s, a sample a repetition). Details: seed, stations, family, arcs, contender, cost, duties, bound (what
  this mode proved itself; None for nothing), gap (%, as above), lp (value of the linear program over all duties) and
  same_lp (that of plain, to 1e-6), both None in fast mode, lp_seconds (all but the dive), master_seconds,
  pricing_seconds, volume_seconds, prediction_seconds, dive_seconds, bound_seconds (not counted, see above);
- "G: C, seconds" (s), "G: C, LP seconds" (s; not in fast mode), "G: C, % of plain" (%; not of plain itself),
  "G: C, % of all exact" (%; where it ran), "G: C, gap" (%), each with a sample a seed, and these as `values` with their
  `seeds` in the details;
- "500 trips, P % kept: W, gap" (%), "..., % of plain" (%), "..., seconds" (s) for W in "network", "short gaps",
  "chance", P in 2, 4, 8, 15, 30, 100; a sample a seed. Details: share (P), scorer, seeds, values, kept (% of the arcs
  that were really kept, a number a seed: each trip's best two stay, so that hardly less than 7 % can be at 500 trips).
  The same for "1000 trips, P % kept", P in 4, 8, 15;
- "2000 trips, seed S: fast, network" (s, with the bound). Details: plan_seconds (without it), cost, duties, bound and
  gap (%; proven), estimate and gap_to_estimate (%; not proven), peak_gib (of a process that does nothing else; None
  where the system does not tell), and the seconds of the parts;
- "500 tasks: every number of crews" (s, a sample a number): the OR-Library's form, drawn: all numbers from the fewest
  possible up, one crew, and one crew less than possible. Details: fewest, proven (numbers of crews solved to a proven
  optimum), impossible (proven to have no plan), open, worst_crews, worst (s);
- "N trips, seed S: arc-flow, V, P passengers" (s; "1 passenger") for N in 60, 500, V in "CP-SAT", "SCIP", P in 0, 1:
  the model without columns, in the seconds that plain took and at least ten, begun with a duty for each trip. Details:
  found, cost, duties, gap (%, as above), own_bound, own_gap (%), seconds_given, choices, plain_cost; cost, duties and
  the gaps are None where no plan was found.

What a finished instance gave lies in `bench-results/trained/` until the bench is done: an interrupted run goes on, with
the code it began with.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.exits import one_thread
from course_lib.bench.kept import discard, kept
from course_lib.beyond import cg_p
from course_lib.beyond.cg_p.arc_flow import solve_arc_flow
from course_lib.beyond.cg_p.orlib import draw_csp, write_csp
from course_lib.beyond.cg_p.reduction import best_arcs

if TYPE_CHECKING:
    from course_lib.beyond.cg_p import CrewPlan, Predictor, Timetable

T = TypeVar("T")

DEVICES = ("cpu",)

SEEDS = tuple(range(2001, 2011))
FAMILIES = {2008: "star", 2009: "ring", 2010: "two_hubs"}  # the others: lines
SHORT = 2050
SHARES = (2, 4, 8, 15, 30, 100)
LARGE_SHARES = (4, 8, 15)
ALL_EXACT = 3  # instances on which all-exact pricing runs: it takes several times as long
PASSENGERS = (0, 1)
PARTS = ("master", "pricing", "volume", "prediction", "dive", "bound")
ASIDE = ("proof", "bound")  # timed, and not counted
KEPT = "crews-"  # names of what is kept begin so

PLAIN_500, PLAIN_1000, GAP = 15.0, 70.0, 1.0  # seconds, seconds, percent
OPTIMAL_500, OPTIMAL_1000 = 60.0, 50.0  # percent of plain
FAST_GAP, FAST_TIME = 2.0, 8.0  # percent at 500 trips
LARGE_GAP, LARGE_TIME = 5.0, 2.91  # percent at 1,000
HUGE_SECONDS, HUGE_GIB = 15.0, 4.0  # at 2,000
CLEARLY = 1.5  # times the network's gap
CREWS_SECONDS = 5.0


@dataclass(frozen=True)
class Contender:
    """One way to a plan."""

    mode: str
    scorer: str | None = None
    everything: bool = False  #: keep all arcs
    exact: bool = False  #: price exactly in every round
    repeats: bool = False  #: timed several times


CONTENDERS = {
    "plain": Contender("exact"),
    "all exact": Contender("exact", exact=True),
    "optimal": Contender("optimal", "network", repeats=True),
    "optimal, all arcs": Contender("optimal", "nothing", everything=True),
    "fast, network": Contender("fast", "network", repeats=True),
    "fast, short gaps": Contender("fast", "short gaps", repeats=True),
    "fast, chance": Contender("fast", "chance", repeats=True),
}
SCORERS = ("network", "short gaps", "chance")


@dataclass(frozen=True)
class Instance:
    """A timetable, by how it is drawn."""

    group: str
    trips: int
    seed: int
    stations: int
    family: str = "line"

    @property
    def name(self) -> str:
        """In names of rows."""
        return f"{self.group}, seed {self.seed}"

    def drawn(self) -> Timetable:
        """The same every time."""
        return cg_p.Timetable.generate(self.trips, stations=self.stations, family=self.family, seed=self.seed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Plan:
    """What is run."""

    normal: tuple[Instance, ...]
    short: tuple[Instance, ...]
    large: tuple[Instance, ...]
    huge: tuple[Instance, ...]
    rivals: tuple[Instance, ...]
    sweep: tuple[Instance, ...]
    sweep_large: tuple[Instance, ...]
    shares: tuple[int, ...]
    tasks: int
    rival_seconds: float
    rounds: int
    quick: bool


def run(options: Options) -> Report:
    """All groups, one after another. `options.quick`: tiny instances, no goals."""
    plan = _plan(options.quick)
    with one_thread():
        _warm_up()
        without = tuple(name for name in CONTENDERS if name != "all exact")
        some = plan.normal[:ALL_EXACT]
        normal = {i: _group(plan, i, tuple(CONTENDERS) if i in some else without, plan.rounds) for i in plan.normal}
        short = {i: _group(plan, i, without, 1) for i in plan.short}
        large = {i: _group(plan, i, without, 1) for i in plan.large}
        rows = [row for found in (normal, short, large) for row in _rows(found)]
        rows += _sweep_rows(plan, {**normal, **large})
        alone = _huge if plan.quick else partial(_in_a_process, _huge)
        rows += [_huge_row(i, _kept(plan, f"{i.name}-huge", partial(alone, i))) for i in plan.huge]
        rows.append(_crews_row(plan))
        rows += _rival_rows(plan, normal)
    report = Report("cg-p", rows, [] if plan.quick else _goals(rows))
    if not plan.quick:
        discard(KEPT)
    return report


def _plan(quick: bool) -> Plan:
    if quick:
        tiny = (Instance("40 trips", 40, 2001, 6), Instance("40 trips", 40, 2009, 6, "ring"))
        large: tuple[Instance, ...] = (Instance("60 trips", 60, 2001, 6),)
        return Plan(
            tiny, (Instance("30 short trips", 30, SHORT, 6),), large, (Instance("80 trips", 80, 2001, 6),),
            rivals=(Instance("12 trips", 12, 2001, 6), tiny[0]),
            sweep=tiny[:1], sweep_large=large, shares=(8, 100), tasks=12, rival_seconds=0.3, rounds=1, quick=True,
        )  # fmt: skip
    normal = tuple(Instance("500 trips", 500, s, 6 + s % 3, FAMILIES.get(s, "line")) for s in SEEDS)
    large = tuple(Instance("1000 trips", 1000, s, 6 + s % 3) for s in SEEDS[:3])
    return Plan(
        normal, (Instance("500 short trips", 500, SHORT, 6),), large,
        huge=(Instance("2000 trips", 2000, SEEDS[0], 6),),
        rivals=(Instance("60 trips", 60, SEEDS[0], 6), normal[0]),
        sweep=normal[:3], sweep_large=large, shares=SHARES, tasks=500, rival_seconds=10.0, rounds=3, quick=False,
    )  # fmt: skip


# One plan -------------------------------------------------------------------------------------------------------------


class _Nothing:
    """Scores that say nothing."""

    def scores(self, timetable: Timetable, rules: cg_p.CrewRules, graph: cg_p.DutyGraph) -> np.ndarray:
        """(arcs,) zeros."""
        return np.zeros(len(graph))


@cache
def _predictor(scorer: str | None) -> Predictor | None:
    from course_lib.beyond.cg_p.predictor import load_predictor

    made: dict[str | None, Callable[[], Predictor]] = {
        "network": load_predictor, "short gaps": cg_p.ShortGaps, "chance": cg_p.Chance, "nothing": _Nothing,
    }  # fmt: skip
    return made[scorer]() if scorer is not None else None


def _solved(
    timetable: Timetable, mode: str, scorer: str | None, *, per_trip: float | None = None, exact: bool = False
) -> dict[str, Any]:
    """A checked plan's figures, in CPU seconds."""
    stages = (0,) if exact else cg_p.solver.STAGES
    predictor = _predictor(scorer)
    began = time.process_time()
    plan = cg_p.solve(timetable, mode=mode, predictor=predictor, nodes=0, kept=per_trip, stages=stages)  # type: ignore[arg-type]
    seconds = time.process_time() - began - sum(plan.times.get(part, 0.0) for part in ASIDE)
    if plan.status == "interrupted":
        raise KeyboardInterrupt  # the solver took it for a wish to see its plan
    _require_legal(plan, timetable)
    parts = {f"{part}_seconds": round(plan.times.get(part, 0.0), 4) for part in PARTS}
    return {
        "seconds": seconds, "lp_seconds": seconds - plan.times.get("dive", 0.0), "cost": plan.cost,
        "duties": len(plan.duties), "bound": _finite(plan.lower_bound), "lp": plan.lp_value,
        "estimate": plan.estimate, **parts,
    }  # fmt: skip


def _require_legal(plan: CrewPlan, timetable: Timetable) -> None:
    if faults := cg_p.check_plan(plan, timetable):
        raise RuntimeError(f"{timetable!r}: {plan.mode} gave a plan with {len(faults)} faults: {faults[0]}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gap(cost: float, bound: float) -> float:
    """Percent."""
    return 100 * (cost - bound) / cost


def _warm_up() -> None:
    """Imports and compiled loops, in every mode and form; the dive has to repair some plans."""
    small = cg_p.Timetable.generate(120, stations=6, seed=0)
    for contender in CONTENDERS.values():
        _solved(small, contender.mode, contender.scorer, exact=contender.exact)
    _solved(small, "fast", "chance", per_trip=0.0)
    tasks = _tasks(8)
    cg_p.solve(tasks, crews=len(tasks) - 1)


def _kept(plan: Plan, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    if plan.quick:
        return make()
    settings = {"code": _fingerprint(), "cpu": platform.processor() or platform.machine()}
    return kept(KEPT + name.replace(" ", "_").replace(",", ""), settings, make)


@cache
def _fingerprint() -> str:
    """Of the code and weights that what is kept was made with."""
    digest = hashlib.sha256()
    package = Path(cg_p.__file__).parent
    for path in (
        *sorted(package.glob("*.py")),
        *sorted((package.parents[1] / "weights" / "cg_p").glob("*")),
        Path(__file__),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Groups of instances --------------------------------------------------------------------------------------------------

Found = Mapping[str, Any]  # by contender: the runs, in order; "arcs"


def _group(plan: Plan, instance: Instance, names: Sequence[str], rounds: int) -> Found:
    return _kept(plan, instance.name, partial(_contest, instance, names, rounds))


def _contest(instance: Instance, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """All contenders in turn, as many rounds."""
    timetable = instance.drawn()
    arcs = len(cg_p.DutyGraph.of(timetable))
    found: dict[str, Any] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            contender = CONTENDERS[name]
            if turn == 0 or contender.repeats:
                per_trip = arcs / instance.trips if contender.everything else None
                once = _solved(timetable, contender.mode, contender.scorer, per_trip=per_trip, exact=contender.exact)
                found[name].append(once)
    return {**found, "arcs": arcs}


def _seconds(found: Found, name: str, which: str = "seconds") -> float:
    return median(once[which] for once in found[name])


def _rows(group: Mapping[Instance, Found]) -> list[Row]:
    """Of each instance and contender, then of the group."""
    rows = []
    for instance, found in group.items():
        rows += [_instance_row(instance, found, name) for name in CONTENDERS if name in found]
    label = next(iter(group)).group
    for name in CONTENDERS:
        where = {instance: found for instance, found in group.items() if name in found}
        rows += _summary(label, name, where) if where else []
    return rows


def _instance_row(instance: Instance, found: Found, name: str) -> Row:
    first, plain = found[name][0], found["plain"][0]
    same = None if CONTENDERS[name].mode == "fast" else abs(first["lp"] - plain["lp"]) <= 1e-6 * abs(plain["lp"])
    details = {key: value for key, value in first.items() if key not in ("seconds", "estimate")}
    details |= {part: round(_seconds(found, name, part), 4) for part in details if part.endswith("_seconds")}
    return Row.of(
        f"{instance.name}: {name}", "s", [once["seconds"] for once in found[name]],
        seed=instance.seed, stations=instance.stations, family=instance.family, arcs=found["arcs"], contender=name,
        gap=_gap(first["cost"], plain["bound"]), same_lp=same, **details,
    )  # fmt: skip


def _summary(label: str, name: str, group: Mapping[Instance, Found]) -> list[Row]:
    def row(quantity: str, unit: str, of: Callable[[Found], float], base: str = "plain") -> Row:
        there = {instance: found for instance, found in group.items() if base in found}
        values = [of(found) for found in there.values()]
        rounded, seeds = [round(value, 4) for value in values], [instance.seed for instance in there]
        return Row.of(f"{label}: {name}, {quantity}", unit, values, contender=name, seeds=seeds, values=rounded)

    rows = [row("seconds", "s", lambda found: _seconds(found, name))]
    if CONTENDERS[name].mode != "fast":
        rows.append(row("LP seconds", "s", lambda found: _seconds(found, name, "lp_seconds")))
    for base in ("plain", "all exact"):
        if name != base and any(base in found for found in group.values()):
            share = partial(_share_of, name=name, base=base)
            rows.append(row(f"% of {base}", "%", share, base))
    rows.append(row("gap", "%", lambda found: _gap(found[name][0]["cost"], found["plain"][0]["bound"])))
    return rows


def _share_of(found: Found, name: str, base: str) -> float:
    """Percent of another contender's time."""
    return 100 * _seconds(found, name) / _seconds(found, base)


# What is kept of the graph --------------------------------------------------------------------------------------------


def _sweep_rows(plan: Plan, known: Mapping[Instance, Found]) -> list[Row]:
    rows = []
    for instances, shares in ((plan.sweep, plan.shares), (plan.sweep_large, LARGE_SHARES)):
        states = [_kept(plan, f"{i.name}-sweep", partial(_sweep, i, shares)) for i in instances]
        for share in shares:
            for scorer in SCORERS:
                runs = [state[f"{share} {scorer}"] for state in states]
                rows += _share_rows(instances, share, scorer, runs, known)
    return rows


def _sweep(instance: Instance, shares: Sequence[int]) -> dict[str, Any]:
    """Fast mode by the share of arcs kept and who scores them, in turn."""
    timetable = instance.drawn()
    graph = cg_p.DutyGraph.of(timetable)
    found = {}
    for share in shares:
        for scorer in SCORERS:
            per_trip = share / 100 * len(graph) / instance.trips
            once = _solved(timetable, "fast", scorer, per_trip=per_trip)
            predictor = _predictor(scorer)
            assert predictor is not None
            scores = predictor.scores(timetable, graph.rules, graph)
            once["kept"] = 100 * float(best_arcs(graph, scores, per_trip=per_trip).mean())
            found[f"{share} {scorer}"] = once
    return found


def _share_rows(
    instances: Sequence[Instance], share: int, scorer: str, runs: Sequence[Found], known: Mapping[Instance, Found]
) -> list[Row]:
    label = f"{instances[0].group}, {share} % kept: {scorer}"
    bounds = [known[i]["plain"][0]["bound"] for i in instances]
    plain = [_seconds(known[i], "plain") for i in instances]
    quantities = {
        "gap": ("%", [_gap(run["cost"], bound) for run, bound in zip(runs, bounds, strict=True)]),
        "% of plain": ("%", [100 * run["seconds"] / whole for run, whole in zip(runs, plain, strict=True)]),
        "seconds": ("s", [run["seconds"] for run in runs]),
    }
    really = [round(run["kept"], 2) for run in runs]
    return [
        Row.of(
            f"{label}, {quantity}", unit, values, share=share, scorer=scorer, kept=really,
            seeds=[i.seed for i in instances], values=[round(value, 4) for value in values],
        )
        for quantity, (unit, values) in quantities.items()
    ]  # fmt: skip


# 2,000 trips ----------------------------------------------------------------------------------------------------------


def _in_a_process(work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)` in a process of its own, whose memory is then known."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _huge(instance: Instance) -> dict[str, Any]:
    """Fast mode, and the memory of the process it ran in."""
    with one_thread():
        _warm_up()
        found = _solved(instance.drawn(), "fast", "network")
    return {**found, "peak_gib": _peak_gib()}


def _peak_gib() -> float | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _huge_row(instance: Instance, found: Mapping[str, Any]) -> Row:
    cost, bound, estimate = found["cost"], found["bound"], found["estimate"]
    details = {key: found[key] for key in found if key.endswith("_seconds")}
    return Row.of(
        f"{instance.name}: fast, network", "s", [found["seconds"] + found["bound_seconds"]], seed=instance.seed,
        stations=instance.stations, plan_seconds=found["seconds"],
        cost=cost, duties=found["duties"], bound=bound, gap=None if bound is None else _gap(cost, bound),
        estimate=estimate, gap_to_estimate=None if estimate is None else _gap(cost, estimate),
        peak_gib=found["peak_gib"], **details,
    )  # fmt: skip


# The OR-Library's form ------------------------------------------------------------------------------------------------


def _tasks(number: int) -> Timetable:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "csp.txt"
        write_csp(path, draw_csp(number, seed=SEEDS[0]))
        return cg_p.Timetable.from_orlib_csp(path)


def _crews_row(plan: Plan) -> Row:
    seconds: list[float] = []
    statuses: list[str] = []
    table = _tasks(plan.tasks)
    fewest = int(re.findall(r"\d+", cg_p.solve(table, crews=1).notes[0])[-1])
    numbers = [*sorted({1, fewest - 1}), *range(fewest, plan.tasks + 1)]
    for first in range(0, len(numbers), 100):
        some = numbers[first : first + 100]
        name = f"{plan.tasks} tasks-{first}"
        found = _kept(plan, name, partial(_every_number, plan.tasks, some))
        seconds += found["seconds"]
        statuses += found["statuses"]
    count = {status: statuses.count(status) for status in ("optimal", "infeasible")}
    return Row.of(
        f"{plan.tasks} tasks: every number of crews", "s", seconds, proven=count["optimal"],
        impossible=count["infeasible"], open=len(statuses) - sum(count.values()),
        fewest=fewest, worst_crews=numbers[int(np.argmax(seconds))], worst=max(seconds),
    )  # fmt: skip


def _every_number(tasks: int, numbers: Sequence[int]) -> dict[str, Any]:
    table = _tasks(tasks)
    seconds, statuses = [], []
    for crews in numbers:
        began = time.process_time()
        plan = cg_p.solve(table, crews=crews)
        seconds.append(time.process_time() - began)
        if plan.status == "interrupted":
            raise KeyboardInterrupt
        _require_legal(plan, table)
        statuses.append(plan.status)
    return {"seconds": seconds, "statuses": statuses}


# The rival ------------------------------------------------------------------------------------------------------------


def _rival_rows(plan: Plan, known: Mapping[Instance, Found]) -> list[Row]:
    rows = []
    for instance in plan.rivals:
        if instance in known:
            plain = known[instance]["plain"][0]
        else:
            plain = _kept(plan, f"{instance.name}-plain", partial(_solved, instance.drawn(), "exact", None))
        given = max(plan.rival_seconds, plain["seconds"])
        for solver, passengers in ((s, p) for s in ("cp-sat", "scip") for p in PASSENGERS):
            work = partial(_rival, instance, solver, passengers, given)
            found = _kept(plan, f"{instance.name}-{solver}-{passengers}", work)
            name = "CP-SAT" if solver == "cp-sat" else "SCIP"
            riders = f"{passengers} passenger{'s' * (passengers != 1)}"
            gap = None if found["cost"] is None else _gap(found["cost"], plain["bound"])
            details = {key: value for key, value in found.items() if key not in ("seconds", "plan", "commit")}
            details |= {"gap": gap, "seconds_given": given, "plain_cost": plain["cost"]}
            rows.append(Row.of(f"{instance.name}: arc-flow, {name}, {riders}", "s", [found["seconds"]], **details))
    return rows


def _rival(instance: Instance, solver: Any, passengers: int, seconds: float) -> dict[str, Any]:
    timetable = instance.drawn()
    found = solve_arc_flow(timetable, solver=solver, seconds=seconds, passengers=passengers)
    answer = {"seconds": found.seconds, "found": found.plan is not None, "choices": found.choices}
    if found.plan is None:
        return {**answer, "cost": None, "duties": None, "own_bound": _finite(found.bound), "own_gap": None}
    _require_legal(found.plan, timetable)
    bound = _finite(found.plan.lower_bound)
    gap = None if bound is None else _gap(found.plan.cost, bound)
    return {
        **answer, "cost": found.plan.cost, "duties": len(found.plan.duties), "own_bound": bound, "own_gap": gap,
        "optimal": found.plan.status == "optimal",
    }  # fmt: skip


# Goals ----------------------------------------------------------------------------------------------------------------


def _goals(rows: Sequence[Row]) -> list[Goal]:
    """The targets; of what is to stay below a limit, the limit over the value."""
    value = {row.name: row.median for row in rows}
    named = {row.name: row for row in rows}

    def below(name: str, limit: float, unit: str) -> Goal:
        return Goal(f"{limit:g} {unit} / {name}", limit / max(value[name], 1e-3), 1.0)

    goals = [
        below("500 trips: plain, seconds", PLAIN_500, "s"),
        below("1000 trips: plain, seconds", PLAIN_1000, "s"),
        below("500 trips: plain, gap", GAP, "%"),
        below("500 trips: optimal, gap", GAP, "%"),
        below("500 trips: optimal, % of plain", OPTIMAL_500, "%"),
        below("1000 trips: optimal, % of plain", OPTIMAL_1000, "%"),
        below("500 trips: fast, network, gap", FAST_GAP, "%"),
        below("500 trips: fast, network, % of plain", FAST_TIME, "%"),
        below("1000 trips: fast, network, gap", LARGE_GAP, "%"),
        below("1000 trips: fast, network, % of plain", LARGE_TIME, "%"),
    ]
    same = [row.details["same_lp"] for row in rows if row.details.get("same_lp") is not None]
    goals.append(Goal("share of runs whose linear program ends where plain's does", float(np.mean(same)), 1.0))
    huge = next(row for name, row in named.items() if name.startswith("2000 trips"))
    goals.append(below(huge.name, HUGE_SECONDS, "s"))
    if huge.details["peak_gib"] is not None:
        goals.append(Goal(f"{HUGE_GIB:g} GiB / {huge.name}", HUGE_GIB / huge.details["peak_gib"], 1.0))
    eight = [value[f"1000 trips, 8 % kept: {scorer}, gap"] for scorer in ("short gaps", "network")]
    goals.append(
        Goal("1000 trips, 8 % kept: gap of short gaps / gap of the network", eight[0] / max(eight[1], 1e-3), CLEARLY)
    )
    tasks = named["500 tasks: every number of crews"].details
    goals.append(
        Goal(f"{CREWS_SECONDS:g} s / 500 tasks: the worst number of crews", CREWS_SECONDS / tasks["worst"], 1.0)
    )
    goals.append(Goal("500 tasks: numbers of crews left open", -float(tasks["open"]), 0.0))
    return goals
