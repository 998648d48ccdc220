"""The model without columns: the same problem as column generation's, rule by rule, in two solvers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("ortools", reason="CP-SAT and SCIP come with ortools")

from course_lib.beyond.cg_p import CrewRules, Timetable, arc_flow, check_plan, duty_cost, solve
from course_lib.beyond.cg_p.arc_flow import solve_arc_flow

SOLVERS = ("cp-sat", "scip")
CHAIN = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "B", 640, 700), ("B", "A", 720, 780)]


def generated(trips: int, seed: int = 0, family: str = "line") -> Timetable:
    return Timetable.generate(trips, stations=5, depots=2, seed=seed, family=family)


def listed(timetable: Timetable, rules: CrewRules | None = None) -> float:
    """The least cost over all choices of legal duties, by trying them: for a handful of trips."""
    n = len(timetable)
    priced = {}
    for length in range(1, n + 1):
        for trips in itertools.combinations(range(n), length):
            if (cost := duty_cost(trips, timetable, rules)) is not None:
                priced[trips] = cost
    best = {0: 0.0}
    for covered in range(1 << n):
        if covered in best:
            for trips, cost in priced.items():
                more = covered | sum(1 << trip for trip in trips)
                if more != covered:
                    best[more] = min(best.get(more, math.inf), best[covered] + cost)
    return best.get((1 << n) - 1, math.inf)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_handful_of_trips_against_all_plans(solver, seed):
    table = generated(7, seed)
    found = solve_arc_flow(table, solver=solver, seconds=20)
    assert check_plan(found.plan, table) == [] and found.plan.status == "optimal"
    assert found.plan.cost == pytest.approx(listed(table)) == pytest.approx(found.bound)


@pytest.mark.parametrize(("solver", "trips"), [("cp-sat", 20), ("scip", 14)])
@pytest.mark.parametrize("family", ["line", "star"])
def test_the_optimum_is_that_of_column_generation(solver, trips, family):
    table = generated(trips, 3, family)
    plan = solve_arc_flow(table, solver=solver, seconds=20).plan
    proven = solve(table)
    assert plan.status == proven.status == "optimal" and plan.cost == pytest.approx(proven.cost)
    assert check_plan(plan, table) == []


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "rules",
    [
        CrewRules(meal_window=(660, 840)),
        CrewRules(meal_window=(720, 730), max_wait=60),
        CrewRules(same_depot=False),
        CrewRules(max_driving=130, fixed_cost=100.0),
        CrewRules(max_stretch=150, break_minutes=45),
        CrewRules(max_duty=330, max_deadhead=30),
    ],
    ids=["meals", "a narrow window", "any depot", "driving", "stretch", "duty"],
)
def test_each_rule_binds_as_it_does_in_column_generation(solver, rules):
    table = generated(14, 4)
    proven = solve(table, rules)
    plan = solve_arc_flow(table, rules, solver=solver, seconds=20, passengers=1).plan
    assert check_plan(plan, table, rules) == [] and plan.uncovered == proven.uncovered
    assert proven.status == plan.status == "optimal"
    assert plan.cost == pytest.approx(proven.cost)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_break_of_ten_minutes_saves_a_duty(solver):
    table = Timetable.of(CHAIN, depots=["A"])
    assert solve_arc_flow(table, solver=solver, seconds=10).plan.cost == 1300.0
    later = [(a, b, s + 10 * (k >= 2), t + 10 * (k == 2)) for k, (a, b, s, t) in enumerate(CHAIN)]
    assert solve_arc_flow(Timetable.of(later, depots=["A"]), solver=solver, seconds=10).plan.cost == 810.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_crews_on_one_train_where_no_other_way_leads_there(solver):
    """Two trains leave C together; one comes. Two crews must sit on it, and a model without passengers has no plan."""
    trips = [("A", "C", 480, 540), ("C", "A", 560, 620), ("C", "A", 565, 625)]
    table = Timetable.of(trips, depots=["A"])
    found = solve_arc_flow(table, solver=solver, seconds=10, passengers=1)
    assert check_plan(found.plan, table) == [] and found.plan.cost == solve(table).cost == 1305.0
    alone = solve_arc_flow(table, solver=solver, seconds=10, passengers=0)
    assert alone.plan is None and alone.bound == math.inf
    assert "at most one crew rides along" in found.plan.notes[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_trips_that_no_duty_covers_are_left_out_and_named(solver):
    table = Timetable.of([("A", "B", 480, 540), ("B", "A", 560, 620), ("X", "Y", 500, 560)], depots=["A"])
    plan = solve_arc_flow(table, solver=solver, seconds=10).plan
    assert check_plan(plan, table) == [] and plan.uncovered == (1,) and plan.cost == 650.0
    nothing = solve_arc_flow(Timetable.of([("X", "Y", 500, 560)], depots=["A"]), solver=solver, seconds=10).plan
    assert nothing.status == "infeasible" and nothing.duties == () and nothing.uncovered == (0,)
    assert solve_arc_flow(Timetable.of([], depots=["A"]), solver=solver, seconds=10).plan.cost == 0.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_out_of_time_it_gives_what_it_has(solver):
    table = generated(60, 1)
    found = solve_arc_flow(table, solver=solver, seconds=0.3, passengers=0)
    assert found.plan is None or check_plan(found.plan, table) == []
    assert found.bound <= solve_arc_flow(table, seconds=1, passengers=0).plan.cost


def test_what_is_dropped_no_duty_uses():
    """Every duty of column generation's optimum is a way through the network."""
    table, rules = generated(60, 2), CrewRules(max_stretch=150, max_duty=300)
    plan = solve(table, rules)
    search = arc_flow.Search(arc_flow.DutyGraph.of(table, rules))
    search.prepare()
    network = arc_flow._network(search.graph, search.needed, 0)
    arcs = set(zip(network.arcs.tail.tolist(), network.arcs.head.tolist(), strict=True))
    for duty in plan.duties:
        assert set(itertools.pairwise(duty.trips)) <= arcs
    assert len(arcs) < len(search.graph)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"solver": "gurobi"}, "solver: got 'gurobi'"),
        ({"seconds": 0}, "seconds: got 0"),
        ({"passengers": -1}, "passengers: got -1"),
        ({"workers": 0}, "workers: got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        solve_arc_flow(generated(5), **({"seconds": 1} | arguments))


def test_the_or_library_form_is_refused():
    table = Timetable.of(CHAIN, depots=["A"])
    links = Timetable(**{**vars(table), "links": np.array([[0, 1, 5]]), "limit": 480})
    with pytest.raises(ValueError, match="lists its transitions"):
        solve_arc_flow(links, seconds=1)
