"""Branch and price against all duties listed one by one: its pricing, its rows, its bounds, its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, milp

from course_lib.beyond.cg_p import CrewRules, DutyGraph, Timetable, check_plan, labelling, solver
from course_lib.beyond.cg_p import branching as tree
from course_lib.beyond.cg_p.branching import Node, Part, Tree, uses
from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.master import TimeUp
from course_lib.beyond.cg_p.pricing import Pricer
from course_lib.beyond.cg_p.proof import choose, duties_within
from course_lib.beyond.cg_p.rules import duty_cost
from course_lib.beyond.cg_p.search import Search
from course_lib.beyond.cg_p.solver import STAGES, solve

pytest.importorskip("ortools", reason="the master needs ortools")

RULES = {
    "default": CrewRules(),
    "meals": CrewRules(meal_window=(660, 840)),
    "any depot": CrewRules(same_depot=False, max_duty=480),
    "short": CrewRules(max_driving=240, max_stretch=200, minute_cost=0.25, deadhead_cost=1.0),
}


def generated(trips: int, seed: int = 0, family: str = "line") -> Timetable:
    return Timetable.generate(trips, stations=5, depots=2, seed=seed, family=family)


def knotty(trips: int, seed: int) -> Timetable:
    """Trips at random times between three stations: unlike a railway's, their linear program shares out duties."""
    rng, names, rows = np.random.default_rng(seed), "ABC", []
    for _ in range(trips):
        ends, departure = rng.choice(3, 2, replace=False), int(rng.integers(360, 900))
        rows.append((*(names[end] for end in ends), departure, departure + int(rng.integers(40, 70))))
    rides = {(a, b): 20 for a in names for b in names if a != b}
    return Timetable.of(rows, depots=["A", "B"], deadhead=rides)


KNOTTY = {
    "two trips": CrewRules(max_driving=135),
    "three trips": CrewRules(max_driving=190),
    "meals": CrewRules(max_driving=190, meal_window=(660, 840)),
    "any depot": CrewRules(max_driving=190, max_stretch=200, same_depot=False),
    "odd prices": CrewRules(max_driving=135, minute_cost=0.75, deadhead_cost=1.3, fixed_cost=333),
}


def enumerated(graph: DutyGraph) -> Columns:
    columns, complete = duties_within(Pricer(graph), np.zeros(len(graph.timetable)), np.inf, most=10**6)
    assert complete
    return columns


def by_hand(trips: list[int]) -> list[tuple[int, int]]:
    return list(zip([-1, *trips], [*trips, -1], strict=True))


def incidence(columns: Columns, n: int) -> np.ndarray:
    cover = np.zeros((n, columns.size))
    cover[columns.trips, np.repeat(np.arange(columns.size), np.diff(columns.first))] = 1.0
    return cover


def optima(columns: Columns, n: int, demanded=()) -> tuple[float, float]:
    """Linear and whole; every demanded use is a further row."""
    rows = [incidence(columns, n)]
    for use in demanded:
        rows.append(np.array([[float(use in by_hand(columns.row(c).tolist())) for c in range(columns.size)]]))
    cover = np.concatenate(rows)
    linear = linprog(columns.cost, A_ub=-cover, b_ub=-np.ones(len(cover)))
    whole = milp(columns.cost, constraints=LinearConstraint(cover, lb=1.0), integrality=np.ones(columns.size))
    return (linear.fun if linear.success else math.inf), (whole.fun if whole.success else math.inf)


def searched(table: Timetable, rules: CrewRules | None = None) -> Search:
    search = Search(DutyGraph.of(table, rules))
    search.prepare()
    search.lp_value = search.generate(
        search.new_master(Columns.of([])), search.pricer, phase="full", stages=STAGES, whole=True
    ).value
    return search


def some_uses(columns: Columns, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Uses that occur in one duty or another, without repetition: arcs, beginnings and ends."""
    chosen: dict[tuple[int, int], None] = {}
    for c in rng.permutation(columns.size)[: 3 * count]:
        path = by_hand(columns.row(int(c)).tolist())
        chosen[path[int(rng.integers(len(path)))]] = None
    return list(chosen)[:count]


# Uses and rows ------------------------------------------------------------------------------------------------------


def test_uses_of_duties_are_their_steps():
    columns = enumerated(DutyGraph.of(generated(12, 3)))
    first, used = uses(columns, 12)
    for c in range(columns.size):
        expected = by_hand(columns.row(c).tolist())
        assert [(u // 13 - 1, u % 13 - 1) for u in used[first[c] : first[c + 1]].tolist()] == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rules=st.sampled_from(list(RULES)))
def test_a_part_has_the_duties_it_should_at_their_prices(seed, rules):
    table, rng = generated(16, seed), np.random.default_rng(seed)
    graph = DutyGraph.of(table, RULES[rules])
    everything = enumerated(graph)
    chosen = some_uses(everything, rng, 7)
    forbidden, demanded = chosen[:3], chosen[3:]
    part = Part(graph, forbidden, demanded)
    duals = np.concatenate([rng.uniform(0, 400, 16), rng.uniform(0, 600, len(demanded))])

    def reduced(trips: list[int], cost: float) -> float:
        return cost - duals[trips].sum() - sum(duals[16 + demanded.index(u)] for u in by_hand(trips) if u in demanded)

    legal = [
        (trips, cost)
        for trips, cost in ((everything.row(c).tolist(), everything.cost[c]) for c in range(everything.size))
        if not set(by_hand(trips)) & set(forbidden)
    ]
    assert part.legal(everything).size == len(legal)

    listed, complete = part.duties_within(duals, 150.0, most=10**6)
    plain = part.plain(listed)
    assert complete
    wanted = sorted((tuple(trips), cost) for trips, cost in legal if reduced(trips, cost) <= 150.0)
    assert sorted((tuple(plain.row(c).tolist()), plain.cost[c]) for c in range(plain.size)) == wanted
    for c in range(listed.size):
        trips, further = plain.row(c).tolist(), listed.row(c)[len(plain.row(c)) :] - 16
        assert sorted(further.tolist()) == sorted(demanded.index(u) for u in by_hand(trips) if u in demanded)
        assert listed.reduced(duals)[c] == pytest.approx(reduced(trips, plain.cost[c]))

    found, pricing = part.price(duals, cap=0, search=Search(graph))
    least = min((reduced(trips, cost) for trips, cost in legal), default=0.0)
    assert pricing.exact and pricing.least == pytest.approx(min(least, -1e-6))
    own = part.plain(found)
    for c in range(own.size):
        trips = own.row(c).tolist()
        assert own.cost[c] >= duty_cost(trips, table, RULES[rules]) - 1e-9  # of one depot or another
        assert (tuple(trips), own.cost[c]) in {(tuple(t), k) for t, k in legal}


def test_the_readable_labelling_prices_a_part_alike(monkeypatch):
    graph, rng = DutyGraph.of(generated(20, 4)), np.random.default_rng(4)
    chosen = some_uses(enumerated(graph), rng, 6)
    duals = rng.uniform(0, 400, 23)
    results = []
    for engine in (Pricer(graph).labelling, labelling):
        monkeypatch.setattr("course_lib.beyond.cg_p.pricing.engine", lambda engine=engine: engine)
        columns, pricing = Part(graph, chosen[:3], chosen[3:]).price(duals, cap=0, search=Search(graph))
        results.append((columns.trips.tolist(), columns.cost.tolist(), pricing.least))
    assert results[0][:2] == results[1][:2] and results[0][2] == pytest.approx(results[1][2])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rules=st.sampled_from(list(KNOTTY)), stages=st.sampled_from([(1, 0), (16, 64, 0)]))
def test_a_node_is_solved_to_its_own_linear_optimum(seed, rules, stages):
    table, rng = knotty(18, seed), np.random.default_rng(seed)
    search = searched(table, KNOTTY[rules])
    everything = enumerated(search.graph)
    chosen = some_uses(everything, rng, 4)
    forbidden, demanded = tuple(chosen[:2]), tuple(chosen[2:])
    part = Part(search.graph, forbidden, demanded)
    linear, whole = optima(part.legal(everything), 18, demanded)
    run = Tree(search, Columns.of([((0,), 1e6, 0)]))  # any plan is better
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "STAGES", stages)
        solved = run._solve(Node(0.0, 0, 0, forbidden, demanded), part)
    assert solved is not None
    solution, _, bound = solved
    if math.isinf(linear):
        assert solution.uncovered > 1e-6
        return
    assert solution.uncovered == pytest.approx(0, abs=1e-6) and solution.value == pytest.approx(linear, rel=1e-6)
    assert linear * (1 - 1e-6) <= bound <= linear + 1e-6 <= whole + 2e-6


# The tree -----------------------------------------------------------------------------------------------------------


def list_few(patch: pytest.MonkeyPatch, most: int) -> None:
    """Nodes may list so many duties for the integer program."""
    for name in ("FEW", "ROOT_FEW", "MANY"):
        patch.setattr(tree, name, most)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    trips=st.integers(8, 22),
    rules=st.sampled_from(list(KNOTTY)),
    most=st.sampled_from([0, 5, 40]),
)
def test_branching_proves_the_optimum_and_its_bound_never_passes_it(seed, trips, rules, most):
    search = searched(knotty(trips, seed), KNOTTY[rules])
    _, whole = optima(enumerated(search.graph), trips)
    limits = []
    with pytest.MonkeyPatch.context() as patch:
        list_few(patch, most)
        run = Tree(search, search.start)
        for _ in range(100):
            run.run(1)
            limits.append(search.bound)
            assert search.bound <= whole + 1e-6 <= run.cost + 2e-6
            if run.proven or not run.open:
                break
    assert limits == sorted(limits)
    assert run.proven or run.open or run.stuck < math.inf
    assert not run.proven or run.cost == pytest.approx(whole)


@pytest.mark.parametrize(
    ("rules", "trips", "seed"),
    [("two trips", 21, 13), ("three trips", 18, 10), ("meals", 24, 16), ("any depot", 25, 17), ("three trips", 9, 47)],
)
def test_branching_alone_is_enough_where_the_linear_program_is_not(monkeypatch, rules, trips, seed):
    table = knotty(trips, seed)
    search = searched(table, KNOTTY[rules])
    linear, whole = optima(enumerated(search.graph), trips)
    list_few(monkeypatch, 0)
    run = Tree(search, search.start)
    run.run(100)
    assert run.made > 1 and run.proven and run.cost == pytest.approx(whole)
    assert search.lp_value == pytest.approx(linear) and search.bound <= whole + 1e-6
    assert {step.phase for step in search.history} == {"full", "branching"}


def test_solve_branches_where_the_duties_are_too_many_to_list(monkeypatch):
    table, rules = knotty(21, 13), KNOTTY["two trips"]
    whole = optima(enumerated(DutyGraph.of(table, rules)), 21)[1]
    list_few(monkeypatch, 0)
    monkeypatch.setattr(solver, "MANY", 0)
    without, plan = solve(table, rules, nodes=0), solve(table, rules)
    assert (without.status, plan.status) == ("feasible", "optimal")
    assert plan.cost == plan.lower_bound == pytest.approx(whole)
    assert without.lower_bound < whole and plan.times["proof"] >= 0
    for found in (without, plan, solve(table, rules, nodes=2), solve(table, rules, mode="optimal")):
        assert check_plan(found, table, rules) == []
        assert found.lower_bound <= whole + 1e-6 <= found.cost + 2e-6
        assert (found.status == "optimal") == (found.cost == found.lower_bound)
    assert solve(table, rules, nodes=2).duties == solve(table, rules, nodes=2).duties


def test_more_nodes_prove_more_and_the_limit_holds(monkeypatch):
    table, rules = knotty(24, 16), KNOTTY["two trips"]
    whole = optima(enumerated(DutyGraph.of(table, rules)), 24)[1]
    list_few(monkeypatch, 0)
    found = []
    for nodes in (0, 1, 3, 9):
        search = searched(table, rules)
        Tree(search, search.start).run(nodes)
        assert sum(step.phase == "branching" for step in search.history) <= nodes
        found.append(search.bound)
    assert found == sorted(found) and found[0] < found[-1] <= whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeUp])
@pytest.mark.parametrize("after", [1, 4, 9, 16])
def test_an_interrupted_tree_keeps_its_plan_and_a_valid_bound(monkeypatch, error, after):
    table, rules = knotty(24, 16), KNOTTY["two trips"]
    whole = optima(enumerated(DutyGraph.of(table, rules)), 24)[1]
    list_few(monkeypatch, 0)
    monkeypatch.setattr(solver, "MANY", 0)
    seen = []

    def progress(step):
        seen.append(step)
        if sum(s.phase == "branching" for s in seen) == after:
            raise error

    plan = solve(table, rules, progress=progress, nodes=60)
    assert plan.status == "interrupted" and check_plan(plan, table, rules) == [] and not plan.uncovered
    assert seen[-1].lower_bound - 1e-6 <= plan.lower_bound <= whole + 1e-6 <= plan.cost + 2e-6


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rules=st.sampled_from(list(KNOTTY)), beyond=st.sampled_from([0.5, 2, 10, 60, 250]))
def test_what_a_list_of_duties_proves_is_true(seed, rules, beyond):
    table = knotty(16, seed)
    search = searched(table, KNOTTY[rules])
    whole = optima(enumerated(search.graph), 16)[1]
    unit = search.graph.rules.cost_unit
    worse = whole + math.ceil(beyond / unit) * unit
    part = Part(search.graph, (), ())
    for most, root in ((4, False), (25, True), (40, False), (60, False), (10**6, False), (10**6, True)):
        with pytest.MonkeyPatch.context() as patch:
            list_few(patch, most)
            run = Tree(search, Columns.of([(tuple(range(16)), worse, 0)]))  # as if there were such a plan
            bound = run._settle(part, search.solution.duals, root=root)
        assert search.lp_value - 1e-6 <= bound <= whole + 1e-6
        assert whole - 1e-6 <= run.cost
        if most == 10**6:
            assert run.cost == pytest.approx(whole) == pytest.approx(bound)


def test_a_node_with_nothing_to_branch_on_keeps_the_bound_down(monkeypatch):
    search = searched(knotty(21, 13), KNOTTY["two trips"])
    linear, whole = optima(enumerated(search.graph), 21)
    assert linear < whole - 1
    list_few(monkeypatch, 0)
    monkeypatch.setattr(Tree, "_most_divided", lambda *_: None)
    run = Tree(search, search.start)
    run.run(10)
    assert not run.open and not run.proven and search.bound == run.stuck <= linear + 1e-6


def test_an_interrupted_tree_can_go_on(monkeypatch):
    search = searched(knotty(21, 13), KNOTTY["two trips"])
    whole = optima(enumerated(search.graph), 21)[1]
    list_few(monkeypatch, 0)
    run, steps = Tree(search, search.start), []

    def progress(step):
        steps.append(step)
        if len(steps) in (1, 3, 4):
            raise KeyboardInterrupt

    search.progress = progress
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run.run(100)
        run.run(0)
        assert search.bound <= whole + 1e-6 and run.open
    run.run(100)
    assert run.proven and run.cost == pytest.approx(whole)


def test_a_part_without_a_plan_is_closed():
    search = searched(knotty(9, 47), KNOTTY["three trips"])
    run = Tree(search, search.start)
    ways = [(tail, 8) for tail in range(-1, 8) if tail < 0 or (search.graph.tail[search.graph.head == 8] == tail).any()]
    assert run._branch(Node(0.0, 0, 0, forbidden=tuple(ways))) == []  # nobody reaches the last trip
    assert run._branch(Node(0.0, 0, 0, forbidden=((-1, 8),), demanded=((-1, 8),))) == []
    assert run.stuck == math.inf and run.best is search.start


def test_wrong_number_of_nodes():
    for nodes, error in ((-1, ValueError), (float("nan"), TypeError)):
        with pytest.raises(error, match="nodes"):
            solve(knotty(8, 0), nodes=nodes)


def test_the_integer_program_says_what_it_has_proven():
    table, rules = knotty(30, 22), KNOTTY["three trips"]
    duties, needed = enumerated(DutyGraph.of(table, rules)), np.ones(30, dtype=bool)
    whole = optima(duties, 30)[1]
    for more in ({"nodes": 1}, {"enough": whole - 40}, {"enough": whole - 0.5}, {"seconds": 0.02}, {}):
        choice = choose(duties, needed, **more)
        assert choice.bound <= whole + 1e-6
        assert choice.chosen is None or duties.cost[choice.chosen].sum() >= whole - 1e-6
        if "enough" in more or not more:
            assert choice.settled or choice.bound >= more.get("enough", whole)
