"""Odd rules against the plain rules, wrong arguments, and Ctrl-C from outside: what nobody plans and everybody does."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, milp

from course_lib.beyond.cg_p import (
    NO_WAY,
    Chance,
    CrewRules,
    DutyGraph,
    ShortGaps,
    Timetable,
    bounds,
    check_plan,
    duty_cost,
    solve,
)
from course_lib.beyond.cg_p.labelling import Flat
from course_lib.beyond.cg_p.reduction import best_arcs

pytest.importorskip("ortools", reason="the master needs ortools")

# Against the plain rules ---------------------------------------------------------------------------------------------

MINUTES = st.sampled_from([0, 3, 10, 25, 60, 61, NO_WAY])


@st.composite
def timetables(draw) -> Timetable:
    """Trips that overlap, touch and go past midnight, asymmetric deadheads, pieces of one train."""
    stations, n = "ABC", draw(st.integers(4, 9))
    begin, spread = draw(st.sampled_from([(480, 300), (600, 700), (1250, 400)]))
    trips = []
    for _ in range(n):
        departure = begin + 5 * draw(st.integers(0, spread // 5))
        ends = draw(st.sampled_from(stations)), draw(st.sampled_from(stations))
        trips.append((*ends, departure, departure + draw(st.sampled_from([1, 10, 45, 90]))))
    ways = {(a, b): draw(MINUTES) for a in stations for b in stations if a != b}
    depots = draw(st.lists(st.sampled_from("ABCZ"), min_size=1, max_size=3, unique=True))
    table = Timetable.of(trips, depots=depots, deadhead=ways)
    follows = np.full(n, -1)
    for i in range(n):
        later = np.flatnonzero(table.departure >= table.arrival[i])
        if len(later) and draw(st.booleans()):
            follows[i] = later[0]
    return dataclasses.replace(table, follows=follows)


PRICES = st.sampled_from(
    [(480, 1, 0.5), (0, 1, 0), (0, 0, 0.5), (0, 0.1, 0.333), (0.1, 0.333, 0), (100, 0, 0), (7, 1 / 3, 0.1)]
)


@st.composite
def odd_rules(draw) -> CrewRules:
    fixed, minute, deadhead = draw(PRICES)
    change = draw(st.sampled_from([0, 1, 10]))
    signing = draw(st.sampled_from([0, 15]))
    return CrewRules(
        sign_on=signing, sign_off=signing, min_connection=change,
        max_wait=max(30, change) if draw(st.booleans()) else 600,
        break_minutes=draw(st.sampled_from([0, 1, 30])), same_depot=draw(st.booleans()),
        meal_window=draw(st.sampled_from([None, (0, 0), (720, 720), (660, 840), (0, 3000), (1440, 1441)])),
        max_duty=draw(st.sampled_from([120, 540, 999_999])), max_driving=draw(st.sampled_from([60, 330, 999_999])),
        max_stretch=draw(st.sampled_from([120, 270, 999_999])),
        fixed_cost=fixed, minute_cost=minute, deadhead_cost=deadhead,
    )  # fmt: skip


def all_duties(table: Timetable, rules: CrewRules) -> dict[tuple[int, ...], float]:
    found, paths = {}, [(trip,) for trip in range(len(table))]
    while paths:
        path = paths.pop()
        if (cost := duty_cost(path, table, rules)) is not None:
            found[path] = float(cost)
        paths += [(*path, int(j)) for j in np.flatnonzero(table.departure >= table.arrival[path[-1]])]
    return found


@settings(max_examples=60, deadline=None)
@given(table=timetables(), rules=odd_rules())
def test_linear_and_whole_optimum_under_odd_rules(table, rules):
    duties = all_duties(table, rules)
    covered = sorted({trip for duty in duties for trip in duty})
    linear = whole = 0.0
    if covered:
        cover = np.array([[float(trip in duty) for duty in duties] for trip in covered])
        cost, ones = np.array(list(duties.values())), np.ones(len(covered))
        linear = linprog(cost, A_ub=-cover, b_ub=-ones).fun
        whole = milp(
            cost, constraints=LinearConstraint(cover, lb=1), integrality=np.ones(len(cost)), options={"mip_rel_gap": 0}
        ).fun
    slack = 1e-6 * max(1.0, whole)
    for mode, predictor in (("exact", None), ("optimal", Chance(1)), ("fast", ShortGaps())):
        plan = solve(table, rules, mode=mode, predictor=predictor)
        assert check_plan(plan, table, rules) == []
        assert plan.uncovered == tuple(sorted(set(range(len(table))) - set(covered)))
        assert plan.lower_bound - slack <= whole <= plan.cost + slack
        assert plan.estimate is None or plan.lower_bound <= plan.estimate <= plan.cost
        if not covered:
            assert plan.status == "infeasible"
        elif mode != "fast":
            assert plan.lp_value == pytest.approx(linear, rel=1e-5, abs=1e-5)
            assert plan.status == "optimal" and plan.cost == pytest.approx(whole)


def test_a_price_without_a_unit_is_proven_all_the_same():
    table = Timetable.generate(20, seed=1)
    for price in (1 / 3, Fraction(1, 3), np.float32(0.1)):
        plan = solve(table, CrewRules(minute_cost=price))
        assert plan.status == "optimal" and check_plan(plan, table, plan.rules) == []


def test_bounds_are_rounded_to_units_that_can_be_told_apart_only():
    assert bounds.round_up(504.96, 1e-16) == 504.96
    assert bounds.round_up(math.inf, 0.5) == math.inf


def test_free_signing_on_and_off_leaves_fast_mode_a_bound():
    table = Timetable.generate(40, seed=3)
    plan = solve(table, CrewRules(sign_on=0, sign_off=0, fixed_cost=0), mode="fast", predictor=ShortGaps())
    assert 0.2 * plan.cost < plan.lower_bound <= plan.cost


def test_limits_that_no_duty_reaches_take_no_room():
    table = Timetable.generate(30, seed=2)
    rules = CrewRules(max_duty=999_999, max_driving=999_999, max_stretch=999_999, max_wait=999_999)
    flat = Flat.of(DutyGraph.of(table, rules), 0)
    assert flat.max_driving <= flat.max_duty < 2500 and flat.deadlines < 100
    assert solve(table, rules).status == "optimal"


def test_without_a_depot_nothing_can_be_covered():
    table = Timetable.of([("A", "B", 480, 540)], depots=[])
    plan = solve(table)
    assert (plan.status, plan.uncovered, plan.duties) == ("infeasible", (0,), ())
    assert "no depot" in plan.notes[0]


# Wrong arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"time_limit": "5"}, TypeError, "time_limit: got '5'"),
        ({"time_limit": math.nan}, ValueError, "time_limit: got nan"),
        ({"seed": -1}, ValueError, "seed: got -1"),
        ({"seed": None}, TypeError, "seed: got None"),
        ({"nodes": 2.5}, TypeError, "nodes: got 2.5"),
        ({"nodes": -1}, ValueError, "nodes: got -1"),
        ({"kept": "3"}, TypeError, "kept: got '3'"),
        ({"kept": math.nan}, ValueError, "kept: got nan"),
        ({"stages": 12}, TypeError, "stages: got 12"),
        ({"stages": (12.5, 0)}, TypeError, "stages: got"),
        ({"stages": ()}, ValueError, "stages: got"),
        ({"stages": (0, 12)}, ValueError, "stages: got"),
        ({"predictor": "network"}, TypeError, "predictor: got 'network'"),
        ({"predictor": ShortGaps}, TypeError, "predictor: got <class"),
        ({"rules": {"max_duty": 500}}, TypeError, "rules: got"),
        ({"timetable": "feed"}, TypeError, "timetable: got 'feed'"),
    ],
)
def test_arguments_of_another_kind_are_named(wrong, error, words):
    with pytest.raises(error, match=words):
        solve(**{"timetable": Timetable.generate(5), **wrong})


@pytest.mark.parametrize("limit", [math.inf, 1e17])
def test_a_limit_nobody_waits_for_is_none(limit):
    assert solve(Timetable.generate(10), time_limit=limit).status == "optimal"


def test_all_arcs_may_be_kept_and_a_predictor_may_be_empty():
    class Empty(list):
        def scores(self, timetable, rules, graph):
            return np.zeros(len(graph))

    table = Timetable.generate(30, seed=1)
    plan = solve(table, mode="optimal", predictor=Empty(), kept=math.inf)
    assert plan.cost == solve(table).cost
    graph = DutyGraph.of(table)
    assert best_arcs(graph, np.zeros(len(graph)), per_trip=math.inf).all()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"same_depot": "no"}, TypeError, "same_depot: got 'no'"),
        ({"fixed_cost": True}, TypeError, "fixed_cost: got True"),
        ({"meal_window": (True, 600)}, TypeError, "meal_window: got"),
        ({"max_duty": 10**6}, ValueError, "fewer than 1,000,000 minutes"),
        ({"fixed_cost": 1e-9, "minute_cost": 1e-12, "deadhead_cost": 0}, ValueError, "got 1e-09 for the dearest"),
        ({"fixed_cost": 1e12}, ValueError, "got 1e.12 for the dearest"),
    ],
)
def test_rules_of_another_kind_or_size(wrong, error, words):
    with pytest.raises(error, match=words):
        CrewRules(**wrong)


def test_rules_are_plain_numbers_and_can_be_keys():
    rules = CrewRules(max_duty=np.int64(500), fixed_cost=np.float32(100), meal_window=[600, 700])
    assert rules == CrewRules(max_duty=500, fixed_cost=100.0, meal_window=(600, 700))
    assert len({rules, CrewRules()}) == 2
    assert type(rules.max_duty) is int and type(rules.fixed_cost) is float


@pytest.mark.parametrize(
    ("trips", "more", "error", "words"),
    [
        ([("A", "B", 480)], {}, ValueError, "expected .origin, destination, departure, arrival"),
        ([("A", "B", "08:00", "09:00")], {}, TypeError, "485 for 08:05"),
        ([("A", "B", 480.5, 540)], {}, TypeError, "whole minutes after midnight"),
        ([("A", "B", 480, 1_700_000_000_000)], {}, ValueError, "less than 1,000,000 minutes"),
        ([("A", "B", 480, 540)], {"depots": "Ab"}, TypeError, "depots: got 'Ab'"),
        ([("A", "B", 480, 540)], {"names": "x"}, TypeError, "names: got 'x'"),
        ([("A", "B", 480, 540)], {"deadhead": {("A", "B"): 12.7}}, TypeError, "deadhead: got 12.7"),
    ],
)
def test_trips_by_hand_that_are_none(trips, more, error, words):
    with pytest.raises(error, match=words):
        Timetable.of(trips, **{"depots": ["A"], **more})


@pytest.mark.parametrize("wrong", [{"trips": "5"}, {"stations": 4.5}, {"depots": 1.5}, {"seed": "a"}, {"seed": None}])
def test_what_cannot_be_generated(wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        Timetable.generate(**{"trips": 5, **wrong})


# Ctrl-C and threads --------------------------------------------------------------------------------------------------


def test_solve_in_threads():
    plans = {}

    def work(mode):
        plans[mode] = solve(Timetable.generate(40, seed=1), mode=mode, predictor=ShortGaps())

    threads = [threading.Thread(target=work, args=(mode,)) for mode in ("exact", "optimal", "fast")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert plans["exact"].cost == plans["optimal"].cost <= plans["fast"].cost


def test_an_error_in_the_callback_comes_through_and_signals_are_as_before():
    def fail(step):
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        solve(Timetable.generate(20), progress=fail)
    assert signal.getsignal(signal.SIGINT) is before


SCRIPT = """
import sys
from course_lib.beyond.cg_p import ShortGaps, Timetable, check_plan, solve
solve(Timetable.generate(12))
table = Timetable.generate(300, seed=1)
tell = lambda step: print("round", flush=True)
plan = solve(table, mode=sys.argv[1], predictor=ShortGaps(), progress=tell, stages=(0,))
print(plan.status, check_plan(plan, table), plan.uncovered, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="a signal sent to another process")
@pytest.mark.parametrize(("mode", "wait"), [("exact", 0.0), ("exact", 0.15), ("optimal", 0.05), ("fast", 0.02)])
def test_ctrl_c_at_any_moment_leaves_a_plan(mode, wait):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "round\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    status, *rest = out.splitlines()[-1].split(maxsplit=1)
    assert status in ("interrupted", "feasible", "optimal") and rest == ["[] ()"], errors
    if status == "interrupted":  # else the signal came after the search
        assert "Traceback" not in errors and process.returncode == 0, errors
