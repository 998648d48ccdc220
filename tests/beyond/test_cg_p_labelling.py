"""The labelling against all duties, listed one by one, and the compiled version against the readable one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.beyond.cg_p import CrewRules, DutyGraph, Timetable, duty_cost
from course_lib.beyond.cg_p import labelling as readable
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.labelling import Flat, Label
from course_lib.beyond.cg_p.pricing import Pricer
from course_lib.beyond.cg_p.pricing_torch import LayeredPricer

compiled = pytest.importorskip("course_lib.beyond.cg_p.labelling_numba", reason="numba is not installed")
ENGINES = pytest.mark.parametrize("engine", [readable, compiled], ids=["readable", "compiled"])


def generated(trips: int, seed: int = 0, rules: CrewRules | None = None) -> DutyGraph:
    return DutyGraph.of(Timetable.generate(trips, stations=5, depots=2, seed=seed), rules)


def duals_for(graph: DutyGraph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 600, len(graph.timetable)).round()


def all_duties(graph: DutyGraph) -> list[tuple[tuple[int, ...], float, int]]:
    """Every legal duty by the plain rules, trip by trip: the labelling has no part in it."""
    table, found = graph.timetable, []

    def extend(path: tuple[int, ...]) -> None:
        for number, depot in enumerate(table.depots):
            cost = duty_cost(path, table, graph.rules, depot=depot)
            if cost is not None:
                found.append((path, cost, number))
        for arc in graph.out_arcs[graph.out_start[path[-1]] : graph.out_start[path[-1] + 1]]:
            longer = (*path, int(graph.head[arc]))
            if table.duration[list(longer)].sum() <= graph.rules.max_driving:
                extend(longer)

    for trip in range(len(table)):
        extend((trip,))
    return found


RULES = {
    "default": CrewRules(),
    "breaks matter": CrewRules(max_stretch=150, break_minutes=40),
    "driving matters": CrewRules(max_driving=160),
    "meals": CrewRules(meal_window=(660, 840)),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@ENGINES
def test_the_least_reduced_cost_is_that_of_all_duties(engine, rules):
    graph = generated(16, seed=3, rules=rules)
    duties = Columns.of(all_duties(graph))
    pricer = Pricer(graph, labelling=engine)
    for seed in range(5):
        duals = duals_for(graph, seed)
        found = pricer.price(duals, threshold=np.inf)
        reduced = duties.reduced(duals)
        assert found.least == pytest.approx(reduced.min()) and found.exact
        # No duty through a trip is cheaper than the bound on it.
        for c in range(duties.size):
            assert (found.through[duties.row(c)] <= max(0.0, reduced[c]) + 1e-9).all()
            assert (found.through[duties.row(c)] <= reduced[c] + 1e-9).all() or reduced[c] > 0


@ENGINES
def test_enumeration_lists_exactly_the_duties_within_the_bound(engine):
    graph, duals = generated(16, seed=5), duals_for(generated(16, seed=5))
    listed = all_duties(graph)
    expected = {(trips, depot): cost for trips, cost, depot in listed}
    reduced = {key: cost - duals[list(key[0])].sum() for key, cost in expected.items()}
    for bound in (np.inf, 0.0, -200.0):
        found = {}
        for depot in range(2):
            flat = Flat.of(graph, depot)
            least = engine.completion(flat, duals)
            columns, complete = engine.duties_within(flat, duals, least, bound=bound, most=10_000)
            assert complete
            found |= {(tuple(columns.row(c).tolist()), depot): columns.cost[c] for c in range(columns.size)}
        assert found == pytest.approx({key: cost for key, cost in expected.items() if reduced[key] <= bound})


@ENGINES
def test_enumeration_says_when_it_stopped_early(engine):
    graph, duals = generated(16), duals_for(generated(16))
    flat = Flat.of(graph, 0)
    columns, complete = engine.duties_within(flat, duals, engine.completion(flat, duals), bound=np.inf, most=3)
    assert columns.size == 3 and not complete


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), trips=st.integers(1, 45), cap=st.sampled_from([0, 1, 3, 8]), meals=st.booleans())
def test_compiled_and_readable_keep_the_same_labels(seed, trips, cap, meals):
    graph = generated(trips, seed, CrewRules(meal_window=(660, 840)) if meals else None)
    duals = duals_for(graph, seed)
    for depot in range(2):
        flat = Flat.of(graph, depot)
        least = readable.completion(flat, duals)
        np.testing.assert_array_equal(least, compiled.completion(flat, duals))
        for bounded in (None, least):
            ours = readable.label(flat, duals, bounded, threshold=50.0, cap=cap)
            theirs = compiled.label(flat, duals, bounded, threshold=50.0, cap=cap)
            for name, a, b in zip(ours._fields, ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)


def test_completion_drops_labels_and_keeps_the_minimum():
    graph = generated(80, seed=2)
    duals, pricer = 0.6 * duals_for(graph), Pricer(graph)
    for flat in pricer.flats:
        least = compiled.completion(flat, duals)
        every, useful = compiled.label(flat, duals), compiled.label(flat, duals, least, threshold=0.0)
        assert 0 < len(useful.cost) < len(every.cost)
        assert readable.homes(flat, useful)[1].min() == readable.homes(flat, every)[1].min()


def test_no_end_of_a_duty_is_cheaper_than_its_completion():
    graph = generated(60, seed=7)
    duals = duals_for(graph)
    for flat in Pricer(graph).flats:
        labels = compiled.label(flat, duals, compiled.completion(flat, duals))
        _, reduced = readable.homes(flat, labels)
        for ending in np.flatnonzero(np.isfinite(reduced)):
            step = ending
            while step >= 0:
                assert labels.key[step] <= reduced[ending] + 1e-9
                step = labels.parent[step]


def test_two_equal_labels_leave_one():
    trip = Label(-100.0, 400, 60, 400, True, 0.0, -1)
    assert readable.dominates(trip, trip)
    twins = Timetable.of(
        [("A", "B", 480, 540), ("A", "B", 480, 540), ("B", "A", 560, 620)], depots=["A"], deadhead={("A", "B"): 60}
    )
    graph = DutyGraph.of(twins)
    for engine in (readable, compiled):
        labels = engine.label(Flat.of(graph, 0), np.full(3, 100.0))
        assert np.diff(labels.first).tolist() == [1, 1, 2]  # alone, and after either twin, of whom one is enough


def test_forgetting_the_break_in_dominance_gives_too_high_a_minimum():
    def forgetful(a: Label, b: Label) -> bool:
        return a.cost <= b.cost and a.start >= b.start and a.driving <= b.driving and a.fed >= b.fed

    # Both first trips lead to the third; the later one saves waiting, but only the earlier one leaves time for a break,
    # without which the fourth is too much.
    trips = [("A", "B", 470, 530), ("A", "B", 500, 560), ("B", "A", 575, 635), ("A", "B", 650, 770)]
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"], deadhead={("A", "B"): 60}))
    duals, flat = np.full(4, 600.0), Flat.of(graph, 0)
    labels = readable.label(flat, duals)
    reduced = readable.homes(flat, labels)[1]
    trip = np.repeat(np.arange(4), np.diff(labels.first))
    assert readable.trace(trip, np.array(labels.parent), reduced.argmin(keepdims=True))[1].tolist() == [0, 2, 3]
    assert readable.homes(flat, readable.label(flat, duals, better=forgetful))[1].min() > reduced.min()


@ENGINES
def test_truncated_buckets_are_counted_and_say_inexact(engine):
    graph = generated(40, seed=1)
    duals, pricer = duals_for(graph), Pricer(graph, labelling=engine)
    exact, cut = pricer.price(duals), pricer.price(duals, cap=1)
    assert exact.exact and exact.truncated == 0
    assert not cut.exact and cut.truncated > 0 and cut.least >= exact.least
    assert pricer.price(duals, cap=100_000).least == exact.least


def test_columns_are_below_the_threshold_legal_and_not_too_many_on_one_trip():
    graph = generated(80, seed=4)
    duals = duals_for(graph)
    found = Pricer(graph).price(duals, most=20, per_trip=4)
    columns = found.columns
    assert 0 < columns.size <= 20 and np.bincount(columns.trips).max() <= 4
    assert columns.reduced(duals)[0] == pytest.approx(found.least) and (columns.reduced(duals) < 0).all()
    for c in range(columns.size):
        depot = graph.timetable.depots[columns.depot[c]]
        assert duty_cost(columns.row(c).tolist(), graph.timetable, depot=depot) == pytest.approx(columns.cost[c])


def test_a_pool_takes_nothing_twice_unless_it_is_cheaper():
    pool = Pool()
    rows = [((0, 1), 700.0, 0), ((2,), 600.0, 1)]
    assert pool.add(Columns.of(rows)).size == 2
    assert pool.add(Columns.of([*rows, ((0, 1), 690.0, 1), ((0, 2), 800.0, 0)])).cost.tolist() == [690.0, 800.0]
    assert pool.columns.size == 4 and pool.columns.take(np.array([1])).row(0).tolist() == [2]


def test_an_empty_timetable_has_no_duties():
    graph = DutyGraph.of(Timetable.of([], depots=["A"]))
    found = Pricer(graph).price(np.zeros(0))
    assert found.columns.size == 0 and found.exact


@pytest.mark.parametrize("labels", [4, 64])
def test_layered_pricing_finds_legal_duties_and_with_room_enough_the_best(labels):
    graph = generated(60, seed=6)
    duals = 0.7 * duals_for(graph)
    exact = Pricer(graph).price(duals)
    found = LayeredPricer(graph).price(duals, labels=labels)
    columns = found.columns
    assert columns.size and columns.reduced(duals).min() == pytest.approx(found.least)
    assert found.least >= exact.least - 1e-6
    if labels == 64:
        assert found.least == pytest.approx(exact.least)
    for c in range(columns.size):
        depot = graph.timetable.depots[columns.depot[c]]
        assert duty_cost(columns.row(c).tolist(), graph.timetable, depot=depot) == pytest.approx(columns.cost[c])
