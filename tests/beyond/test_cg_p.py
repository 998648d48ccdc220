"""The solver against all duties listed one by one, its bounds, its limits, and what it says when it cannot."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, milp

from course_lib.beyond.cg_p import CrewRules, DutyGraph, Timetable, bounds, check_plan, labelling, pricing, volume
from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.dive import Dive, without_superfluous
from course_lib.beyond.cg_p.master import Master, TimeUp
from course_lib.beyond.cg_p.pricing import Pricer
from course_lib.beyond.cg_p.proof import choose, duties_within
from course_lib.beyond.cg_p.reduction import Chance, ShortGaps, best_arcs
from course_lib.beyond.cg_p.search import Search
from course_lib.beyond.cg_p.solver import STAGES, solve

pytest.importorskip("ortools", reason="the master needs ortools")
MODES = ("exact", "optimal", "fast")


def generated(trips: int, seed: int = 0, family: str = "line") -> Timetable:
    return Timetable.generate(trips, stations=5, depots=2, seed=seed, family=family)


def enumerated(timetable: Timetable, rules: CrewRules | None = None) -> Columns:
    columns, complete = duties_within(Pricer(DutyGraph.of(timetable, rules)), np.zeros(len(timetable)), np.inf)
    assert complete
    return columns


def incidence(columns: Columns, n: int) -> np.ndarray:
    cover = np.zeros((n, columns.size))
    cover[columns.trips, np.repeat(np.arange(columns.size), np.diff(columns.first))] = 1.0
    return cover


def least_linear(columns: Columns, n: int) -> float:
    return linprog(columns.cost, A_ub=-incidence(columns, n), b_ub=-np.ones(n)).fun


def least_whole(columns: Columns, n: int) -> float:
    rows = LinearConstraint(incidence(columns, n), lb=1.0)
    return milp(columns.cost, constraints=rows, integrality=np.ones(columns.size)).fun


# Against all duties -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trips=st.integers(1, 32), family=st.sampled_from(["line", "ring"]))
def test_linear_and_whole_optimum_are_those_of_all_duties(seed, trips, family):
    table = generated(trips, seed, family)
    duties = enumerated(table)
    linear, whole = least_linear(duties, trips), least_whole(duties, trips)
    for mode in MODES:
        plan = solve(table, mode=mode)
        assert check_plan(plan, table) == [] and plan.uncovered == ()
        assert plan.lower_bound <= whole + 1e-6 <= plan.cost + 2e-6
        if mode != "fast":
            assert plan.lp_value == pytest.approx(linear, rel=1e-6)
            assert plan.status == "optimal" and plan.cost == pytest.approx(whole)
        assert (plan.status == "optimal") <= (abs(plan.cost - whole) < 1e-6)


@pytest.mark.parametrize("family", ["line", "star", "ring", "two_hubs"])
def test_optimal_mode_ends_where_plain_column_generation_does(family):
    table = generated(120, 1, family)
    plans = {mode: solve(table, mode=mode) for mode in MODES}
    assert plans["optimal"].lp_value == pytest.approx(plans["exact"].lp_value, rel=1e-6)
    for plan in plans.values():
        assert check_plan(plan, table) == []
        assert plan.lower_bound <= plan.cost and all(step.lower_bound <= plan.cost for step in plan.history)
    assert plans["fast"].lp_value is None and plans["fast"].estimate <= plans["fast"].cost
    assert plans["fast"].lower_bound <= math.ceil(2 * plans["exact"].lp_value - 1e-6) / 2


def test_a_bad_predictor_costs_no_guarantee():
    class Worst:
        def scores(self, timetable, rules, graph):
            return -ShortGaps().scores(timetable, rules, graph)

    table = generated(80, 2)
    expected = solve(table).lp_value
    for predictor in (Worst(), Chance(3), ShortGaps()):
        assert solve(table, mode="optimal", predictor=predictor).lp_value == pytest.approx(expected, rel=1e-6)


def test_pricing_in_layers_first_ends_at_the_same_value():
    table = generated(60, 7)
    plain = solve(table)
    for mode in MODES:
        plan = solve(table, mode=mode, predictor=ShortGaps(), device="cpu")
        assert check_plan(plan, table) == [] and plan.lower_bound <= plain.cost
        assert mode == "fast" or plan.lp_value == pytest.approx(plain.lp_value, rel=1e-6)
    few = [step for step in solve(table, device="cpu").history if step.phase == "full" and not step.exact]
    assert few  # the first stages were not the exact pricing's


def test_bounds_never_pass_the_linear_optimum_and_meet_it_at_the_end():
    plan = solve(generated(100, 4))
    full = [step for step in plan.history if step.phase == "full"]
    values, lower = [step.value for step in full], [step.lower_bound for step in full]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(values))  # a master only gains columns
    assert all(a <= b for a, b in itertools.pairwise(lower))
    assert lower[-1] <= values[-1] * (1 + 1e-9)
    assert lower[-1] == pytest.approx(values[-1], rel=1e-6) == pytest.approx(plan.lp_value)
    assert full[-1].exact and full[-1].least_reduced_cost >= -1e-6


def test_more_arcs_never_cost_more():
    graph = DutyGraph.of(generated(60, 5))
    scores = ShortGaps().scores(graph.timetable, graph.rules, graph)
    values = []
    for per_trip in (0.0, 1.0, 2.0, 4.0, len(graph)):
        search = Search(graph.keep(best_arcs(graph, scores, per_trip=per_trip)))
        values.append(search.relax(stages=STAGES, whole=False).value)
        assert search.bound == -math.inf  # a part of the graph proves nothing
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(values)) and values[0] > values[-1]


def test_without_numba_the_readable_labelling_does_the_same(monkeypatch):
    table = generated(40, 3)
    expected = solve(table)
    monkeypatch.setattr(pricing, "engine", lambda: labelling)
    plan = solve(table)
    assert (plan.cost, plan.status) == (expected.cost, expected.status)
    assert [step.value for step in plan.history] == pytest.approx([step.value for step in expected.history])


def test_meals_other_depots_and_the_same_plan_twice():
    table = generated(60, 6)
    rules = CrewRules(meal_window=(660, 840), same_depot=False)
    plan, again = solve(table, rules), solve(table, rules)
    assert check_plan(plan, table, rules) == [] and plan.duties == again.duties
    assert plan.lp_value == pytest.approx(least_linear(enumerated(table, rules), 60), rel=1e-6)


# Bounds -------------------------------------------------------------------------------------------------------------


def test_bounds_of_three_trips_by_hand():
    # A single costs 570, any two fit a duty of 650, all three fit none.
    cost, duals = Columns.of([((0, 1), 650.0, 0), ((0, 2), 650.0, 0), ((1, 2), 650.0, 0)]), np.full(3, 570.0)
    least = cost.reduced(duals).min()
    assert bounds.farley(duals, least, 510.0, exact=True) == pytest.approx(872.05, abs=0.05)
    assert bounds.farley(np.full(3, 325.0), 0.0, 510.0, exact=True) == 975.0
    assert bounds.lagrangian(duals, least, 3, exact=True) == pytest.approx(1710 - 3 * 490)
    for bound in (bounds.farley(duals, least, 510.0, exact=False), bounds.lagrangian(duals, least, 3, exact=False)):
        assert bound == -math.inf
    assert bounds.round_up(974.01, 0.5) == 974.5 and bounds.round_up(-math.inf, 0.5) == -math.inf


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 3.0))
def test_no_bound_passes_the_linear_optimum_at_any_duals(seed, scale):
    table = generated(20, seed)
    optimum = least_linear(enumerated(table), 20)
    duals = scale * np.random.default_rng(seed).uniform(0, 400, 20)
    found = Pricer(DutyGraph.of(table)).price(duals)
    uniform = bounds.farley(duals, found.least, 510.0, exact=found.exact)
    by_trip = bounds.farley_by_trip(duals, found.through, 510.0, exact=found.exact)
    assert uniform <= by_trip + 1e-9 and by_trip <= optimum + 1e-6
    assert bounds.lagrangian(duals, found.least, optimum / 510.0, exact=found.exact) <= optimum + 1e-6


# Parts --------------------------------------------------------------------------------------------------------------


def test_the_master_refuses_what_it_has_and_prices_are_not_negative():
    master = Master(np.array([True, True, False]), 2000.0)
    rows = Columns.of([((0, 1), 900.0, 0), ((1, 2), 700.0, 0)])
    assert master.solve().uncovered == 2
    assert master.add(rows) == 2 and master.add(rows) == 0
    solution = master.solve()
    assert solution.value == pytest.approx(900.0) == pytest.approx(solution.duals.sum())
    assert (solution.duals >= 0).all() and solution.duals[2] == 0 and solution.shares.tolist() == [1.0, 0.0]


def test_volume_prices_bound_the_restricted_master_and_come_close():
    table = generated(60, 8)
    duties = enumerated(table) if len(table) <= 30 else None
    graph = DutyGraph.of(table)
    columns = Pricer(graph).price(np.full(60, 400.0), most=400, per_trip=50).columns if duties is None else duties
    singles = Pricer(graph.keep(np.zeros(len(graph), dtype=bool))).price(
        np.zeros(60), threshold=np.inf, most=60, per_trip=1
    )
    columns = Columns.join([singles.columns, columns])
    everything, optimum = np.ones(60, dtype=bool), least_linear(columns, 60)
    duals, value = volume.ascend(
        columns, np.full(60, 300.0), np.zeros(columns.size), everything, ceiling=3000.0, steps=2000
    )
    assert (duals >= 0).all() and 0.97 * optimum <= value <= optimum + 1e-6


def test_volume_prices_stay_below_the_ceiling_where_nothing_covers_a_trip():
    columns = Columns.of([((0,), 600.0, 0)])
    duals, _ = volume.ascend(columns, np.zeros(2), np.zeros(1), np.ones(2, dtype=bool), ceiling=2000.0, steps=500)
    assert duals[1] == 2000.0


def test_superfluous_duties_go_the_dearest_first():
    plan = Columns.of([((0, 1), 900.0, 0), ((1, 2), 800.0, 0), ((0,), 600.0, 0), ((2, 3), 700.0, 0)])
    kept = without_superfluous(plan)
    assert kept.cost.tolist() == [800.0, 600.0, 700.0]


def test_a_dive_without_shares_repairs_itself():
    graph = DutyGraph.of(generated(40, 9))
    search = Search(graph)
    search.prepare()
    dive = Dive(search.pricer, search.start, search.needed, penalty=search.penalty)
    plan = dive.run(np.zeros(search.start.size), np.zeros(40))
    assert set(plan.trips.tolist()) == set(range(40))


@pytest.mark.parametrize("solver", ["scip", "cp-sat"])
def test_integer_programs_agree_and_find_the_impossible(solver):
    table = generated(20, 10)
    duties, needed = enumerated(table), np.ones(20, dtype=bool)
    choice = choose(duties, needed, solver=solver)
    assert choice.settled and duties.cost[choice.chosen].sum() == pytest.approx(least_whole(duties, 20))
    without = duties.take(np.array([c for c in range(duties.size) if 3 not in duties.row(c)]))
    impossible = choose(without, needed, solver=solver)
    assert impossible.chosen is None and impossible.settled
    assert choose(duties, needed, crews=1, solver=solver).chosen is None


def test_kept_arcs_are_the_best_and_two_for_each_end_of_each_trip():
    graph = DutyGraph.of(generated(60, 1))
    scores = np.random.default_rng(0).random(len(graph))
    kept = best_arcs(graph, scores, per_trip=1.0)
    assert kept[np.argsort(-scores)[:60]].all()
    for end in (graph.tail, graph.head):
        enough = np.minimum(2, np.bincount(end, minlength=60))
        assert (np.bincount(end[kept], minlength=60) >= enough).all()
    for scores in (np.zeros(3), np.full(len(graph), np.nan)):
        with pytest.raises(ValueError, match="scores: got"):
            best_arcs(graph, scores, per_trip=1.0)


# Partial results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [0, 0.02])
def test_a_time_limit_gives_a_complete_plan_and_what_is_proven(mode, limit):
    table = generated(150, 2)
    plan = solve(table, mode=mode, time_limit=limit)
    assert check_plan(plan, table) == [] and plan.uncovered == ()
    assert plan.status == "interrupted" and plan.lower_bound <= plan.cost
    if plan.lower_bound == -math.inf:
        assert math.isnan(plan.gap) and "not proven" in plan.notes[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [1, 4, 12])
def test_ctrl_c_gives_the_best_plan_so_far(mode, after):
    seen = []

    def progress(step):
        seen.append(step)
        if len(seen) == after:
            raise KeyboardInterrupt

    table = generated(100, 3)
    plan = solve(table, mode=mode, progress=progress)
    assert plan.status == "interrupted" and len(plan.history) == after == len(seen)
    assert check_plan(plan, table) == [] and plan.uncovered == ()
    assert plan.lower_bound == pytest.approx(seen[-1].lower_bound) or plan.lower_bound >= seen[-1].lower_bound


def test_truncated_buckets_are_told_where_nothing_is_proven():
    def stop(step):
        raise KeyboardInterrupt

    plan = solve(generated(150, 2), progress=stop)
    assert plan.lower_bound == -math.inf and "buckets of labels were cut short" in plan.notes[-1]


@pytest.mark.parametrize("mode", MODES)
def test_trips_in_no_duty_are_named_and_cost_nothing(mode):
    # B and C are far from the depot; C cannot be left again. The trip from B is coverable only after the one to B.
    trips = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "C", 600, 660), ("C", "A", 1300, 1360)]
    table = Timetable.of(trips, depots=["A"])
    plan = solve(table, mode=mode)
    assert plan.uncovered == (2, 3) and plan.cost == 650.0 and plan.status in ("optimal", "feasible")
    assert check_plan(plan, table) == [] and (mode == "fast" or plan.lp_value == pytest.approx(650.0))
    assert len(plan.notes) >= 2 and "trip 3" in plan.notes[0]


def test_nothing_to_cover_and_nothing_that_can_be_covered():
    empty = solve(Timetable.of([], depots=["A"]))
    assert (empty.duties, empty.cost, empty.status) == ((), 0.0, "optimal")
    lost = solve(Timetable.of([("B", "C", 480, 540)], depots=["A"]))
    assert (lost.duties, lost.uncovered, lost.status) == ((), (0,), "infeasible")


def test_a_depot_nobody_reaches_is_named():
    table = Timetable.of([("A", "B", 480, 540), ("B", "A", 560, 620)], depots=["A", "Z"])
    assert any("Z" in note for note in solve(table).notes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "quick"}, "mode: got 'quick'"),
        ({"time_limit": -1}, "time_limit: got -1"),
        ({"crews": 3}, "crews: got 3"),
        ({"rules": CrewRules.orlib(480)}, "rules: got"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        solve(generated(5), **arguments)


def test_the_master_gives_up_in_time():
    master = Master(np.ones(3, dtype=bool), 2000.0)
    assert master.solve(10.0).value == pytest.approx(6000.0)
    with pytest.raises(TimeUp):
        Search(DutyGraph.of(generated(5)), time_limit=-1.0).proceed()
