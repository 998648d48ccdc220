"""The OR-Library form: every number of crews against enumeration, files drawn and written, limits and Ctrl-C."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from course_lib.beyond.cg_p import CrewRules, Timetable, check_plan, fixed_crews, solve
from course_lib.beyond.cg_p.orlib import Csp, draw_csp, read_csp, write_csp

pytest.importorskip("ortools", reason="the master needs ortools")


def dense(tasks: int, seed: int, limit: int = 300) -> Csp:
    """Shorter tasks than the OR-Library's: up to six a duty."""
    rng = np.random.default_rng(seed)
    start = np.sort(rng.integers(0, 700, tasks))
    finish = start + rng.integers(20, 90, tasks)
    i, j = np.triu_indices(tasks, 1)
    listed = (start[j] >= finish[i]) & (finish[j] - start[i] <= limit) & (rng.random(len(i)) < 0.6)
    i, j = i[listed], j[listed]
    return Csp(limit, start, finish, np.stack([i, j, start[j] - finish[i] + rng.integers(1, 80, len(i))], 1))


def enumerated(table: Timetable) -> list[tuple[tuple[int, ...], float]]:
    """All duties, from the file's numbers alone."""
    cost = {(int(i), int(j)): float(c) for i, j, c in table.links}
    duties = []

    def extend(path: tuple[int, ...], paid: float) -> None:
        duties.append((path, paid))
        for j in range(path[-1] + 1, len(table)):
            if (path[-1], j) in cost and table.arrival[j] - table.departure[path[0]] <= table.limit:
                extend((*path, j), paid + cost[path[-1], j])

    for task in range(len(table)):
        if table.duration[task] <= table.limit:
            extend((task,), 0.0)
    return duties


def least(duties: list[tuple[tuple[int, ...], float]], n: int, crews: int) -> float | None:
    """What exactly so many duties cost at least that have each task exactly once."""
    cover = np.zeros((n + 1, len(duties)))
    cover[n] = 1.0
    for k, (tasks, _) in enumerate(duties):
        cover[list(tasks), k] = 1.0
    rows = LinearConstraint(cover, *2 * [np.append(np.ones(n), crews)])
    result = milp([paid for _, paid in duties], constraints=rows, integrality=np.ones(len(duties)))
    return result.fun if result.success else None


# Against enumeration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", [draw_csp(20, seed=1), draw_csp(17, limit=330, seed=2), dense(18, 0), dense(16, 3)])
def test_every_number_of_crews_is_proven_optimal(tmp_path, drawn):
    write_csp(tmp_path / "csp.txt", drawn)
    table = Timetable.from_orlib_csp(tmp_path / "csp.txt")
    duties, n, fewest = enumerated(table), len(table), None
    for crews in range(1, n + 2):
        plan, best = solve(table, crews=crews), least(duties, n, crews)
        assert check_plan(plan, table) == []
        if best is None:
            assert plan.status == "infeasible" and not plan.duties and plan.uncovered == tuple(range(n))
            assert (f"{crews} crews are too few" if crews <= n else f"{crews} crews for {n} tasks") in plan.notes[0]
            continue
        fewest = fewest or crews
        assert plan.status == "optimal" and plan.cost == plan.lower_bound == pytest.approx(best)
        assert len(plan.duties) == crews and plan.lp_value <= best + 1e-6
    assert solve(table, crews=1).notes[0].endswith(f"no plan has fewer than {fewest}.")
    assert solve(table, crews=n).cost == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 13), data=st.data())
def test_any_small_file_and_number_of_crews(seed, tasks, data):
    drawn = dense(tasks, seed, limit=data.draw(st.sampled_from([90, 180, 400])))
    # A transition may be worth money, too.
    table = Timetable.from_orlib_csp(dataclasses.replace(drawn, links=drawn.links - [0, 0, 60]))
    crews = data.draw(st.integers(1, tasks))
    plan, best = solve(table, crews=crews), least(enumerated(table), tasks, crews)
    assert check_plan(plan, table) == []
    assert plan.status == ("infeasible" if best is None else "optimal")
    assert best is None or plan.cost == pytest.approx(best)


def test_two_hundred_tasks_are_proven_in_few_rounds():
    table = Timetable.from_orlib_csp(draw_csp(200, seed=5))
    fewest = int(solve(table, crews=1).notes[0].rstrip(".").split()[-1])
    costs = []
    for crews in (fewest, fewest + 1, fewest + 3, fewest + 10, fewest + 40, 200):
        plan = solve(table, crews=crews)
        assert plan.status == "optimal" and check_plan(plan, table) == []
        assert len(plan.history) <= 30 and plan.history[-1].columns <= 2500
        costs.append(plan.cost)
    assert costs == sorted(costs, reverse=True)


def test_all_modes_prove_the_same_and_seeds_do_not_matter():
    table = Timetable.from_orlib_csp(draw_csp(60, seed=3))
    plans = [solve(table, crews=30, mode=mode, seed=seed) for mode in ("exact", "optimal", "fast") for seed in (0, 7)]
    assert {plan.status for plan in plans} == {"optimal"} and len({plan.cost for plan in plans}) == 1


def test_without_numba_the_same(monkeypatch):
    table = Timetable.from_orlib_csp(dense(14, 4))
    expected = [solve(table, crews=crews).cost for crews in (8, 10)]
    for name in ("_cheapest", "_all_within"):
        monkeypatch.setattr(fixed_crews, name, getattr(fixed_crews, name).__wrapped__)
    assert [solve(table, crews=crews).cost for crews in (8, 10)] == expected


# Infeasible ---------------------------------------------------------------------------------------------------------


def test_a_task_longer_than_a_duty_may_last_is_told():
    table = Timetable.from_orlib_csp(Csp(100, np.array([0, 50]), np.array([40, 170]), np.zeros((0, 3), dtype=np.int64)))
    plan = solve(table, crews=2)
    assert plan.status == "infeasible" and "longer than the 100 minutes" in plan.notes[0]


@pytest.mark.parametrize(("crews", "words"), [(0, "each task needs a crew"), (13, "crews without a task")])
def test_a_number_of_crews_that_no_plan_can_have(crews, words):
    plan = solve(Timetable.from_orlib_csp(dense(12, 1)), crews=crews)
    assert plan.status == "infeasible" and f"{crews} crews for 12 tasks: " in plan.notes[0] and words in plan.notes[0]
    assert plan.notes[0] in plan.summary() and math.isnan(plan.gap)


def test_the_form_wants_its_crews_and_its_rules():
    table = Timetable.from_orlib_csp(dense(6, 0))
    with pytest.raises(ValueError, match="crews: got None"):
        solve(table)
    with pytest.raises(TypeError, match=r"crews: got 2\.5"):
        solve(table, crews=2.5)
    with pytest.raises(ValueError, match="rules: got"):
        solve(table, CrewRules(), crews=3)


# Limits and Ctrl-C --------------------------------------------------------------------------------------------------


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_time_limit_gives_a_plan_and_what_is_proven(rounds, monkeypatch):
    table = Timetable.from_orlib_csp(draw_csp(150, seed=2))
    now, real = [0.0], fixed_crews._cheapest
    monkeypatch.setattr(fixed_crews.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(fixed_crews, "_cheapest", lambda *a: now.append(now.pop() + 1.0) or real(*a))
    plan = solve(table, crews=110, time_limit=rounds - 0.5 if rounds else 0)
    assert plan.status == "interrupted" and len(plan.duties) == 110 and check_plan(plan, table) == []
    assert 0 <= plan.lower_bound <= solve(table, crews=110).cost <= plan.cost


@pytest.mark.parametrize("after", [1, 3, 5])
def test_ctrl_c_in_a_progress_callback(after):
    steps = []

    def progress(step):
        steps.append(step)
        if len(steps) == after:
            raise KeyboardInterrupt

    table = Timetable.from_orlib_csp(draw_csp(120, seed=1))
    plan = solve(table, crews=80, progress=progress)
    assert plan.status == "interrupted" and check_plan(plan, table) == [] and len(plan.history) == after
    assert len(plan.duties) == 80 and plan.lower_bound == max(0, math.ceil(steps[-1].lower_bound - 1e-6))


@pytest.mark.parametrize("where", ["_cheapest", "_all_within"])
def test_ctrl_c_during_pricing_and_enumeration(monkeypatch, where):
    monkeypatch.setattr(fixed_crews, where, stop)
    table = Timetable.from_orlib_csp(draw_csp(80, seed=1))
    plan = solve(table, crews=60)
    assert plan.status == "interrupted" and len(plan.duties) == 60 and check_plan(plan, table) == []
    assert (plan.lp_value is None) == (where == "_cheapest")


def test_ctrl_c_during_the_proof_keeps_the_best_plan(monkeypatch):
    table = Timetable.from_orlib_csp(draw_csp(200, seed=0))
    choose, costs = fixed_crews.choose, []

    def once(columns, *arguments, **named):
        if costs:
            raise KeyboardInterrupt
        choice = choose(columns, *arguments, **named)
        costs.append(columns.cost[choice.chosen].sum() if choice.chosen is not None else math.inf)
        return choice

    full = solve(table, crews=92)
    monkeypatch.setattr(fixed_crews, "settle", lambda duties, pick, *_, **__: [pick(duties(d)[0]) for d in (40, 80)])
    monkeypatch.setattr(fixed_crews, "choose", once)
    plan = solve(table, crews=92)
    assert plan.status == "interrupted" and plan.cost == costs[0] == full.cost and check_plan(plan, table) == []


def test_no_plan_yet_is_no_proof_that_there_is_none(monkeypatch):
    table = Timetable.from_orlib_csp(draw_csp(100, seed=2))
    fewest = int(solve(table, crews=1).notes[0].rstrip(".").split()[-1])
    plan = solve(table, crews=fewest, time_limit=0)
    assert plan.status == "interrupted" and check_plan(plan, table) == []
    assert plan.duties or ("so far" in plan.summary() and len(plan.uncovered) == 100)


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "fewest", "most"), [(50, 100, 200), (200, 2200, 2900), (500, 15000, 19000)])
def test_drawn_files_have_the_shape_of_the_library(tasks, fewest, most):
    drawn = draw_csp(tasks, seed=4)
    before, after, cost = drawn.links.T
    idle = drawn.start[after] - drawn.finish[before]
    assert fewest <= len(cost) <= most and (np.diff(drawn.start) >= 0).all() and (before < after).all()
    assert (idle > 0).all() and (cost > idle).all() and cost.max() <= 900
    assert 0.87 <= np.corrcoef(idle, cost)[0, 1] <= 0.96
    assert (drawn.finish[after] - drawn.start[before] <= drawn.limit).all()
    pairs = itertools.combinations(range(min(tasks, 100)), 2)
    gaps = [(drawn.start[j] - drawn.finish[i], drawn.finish[j] - drawn.start[i]) for i, j in pairs]
    possible = sum(gap > 0 and whole <= drawn.limit for gap, whole in gaps)
    listed = sum(after < min(tasks, 100))
    assert 0.35 <= listed / possible <= 0.65


def test_drawn_files_are_written_and_read_as_they_are(tmp_path):
    drawn = draw_csp(40, seed=8)
    write_csp(tmp_path / "csp40.txt", drawn)
    read = read_csp(tmp_path / "csp40.txt")
    assert read.limit == drawn.limit == 480
    for name in ("start", "finish", "links"):
        assert (getattr(read, name) == getattr(drawn, name)).all()
    assert (draw_csp(40, seed=8).links == drawn.links).all() and len(draw_csp(1).links) == 0
    assert (tmp_path / "csp40.txt").read_text().startswith(" 40 480\n ")


@pytest.mark.parametrize(("arguments", "words"), [({"tasks": 0}, "tasks: got 0"), ({"tasks": 9, "limit": 9}, "limit:")])
def test_what_cannot_be_drawn(arguments, words):
    with pytest.raises(ValueError, match=words):
        draw_csp(**arguments)


def test_a_cut_file_is_told_where_it_can_be(tmp_path: Path):
    path = tmp_path / "csp30.txt"
    write_csp(path, draw_csp(30, seed=1))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:20]))
    with pytest.raises(ValueError, match=r"csp30.txt: got 19 tasks, expected 30: the file is cut short"):
        Timetable.from_orlib_csp(path)
    path.write_text("\n".join([*lines[:40], lines[40].rsplit(" ", 1)[0]]))
    with pytest.raises(ValueError, match=r"csp30.txt, line 41: got 2 numbers"):
        Timetable.from_orlib_csp(path)


def test_plan_in_words_and_as_csv(tmp_path):
    table = Timetable.from_orlib_csp(draw_csp(30, seed=1))
    plan = solve(table, crews=20)
    text = plan.summary()
    assert text.startswith("optimal: 20 duties for 30 of 30 tasks") and "tasks per duty" in text
    assert "passenger" not in text
    plan.to_csv(tmp_path / "plan.csv")
    with open(tmp_path / "plan.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["trip"] for row in rows) == sorted(f"task {k + 1}" for k in range(30))
    assert {int(row["duty"]) for row in rows} == set(range(1, 21)) and {row["crew"] for row in rows} == {"driver"}
