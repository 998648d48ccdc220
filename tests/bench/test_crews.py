"""The crew bench: what is compared is what it says, every plan is checked, and limits are read from the rows."""

import dataclasses
import math

import pytest

pytest.importorskip("ortools")
pytest.importorskip("torch_geometric")

from course_lib import bench
from course_lib.bench import core, crews, kept
from course_lib.bench.core import Options, Row
from course_lib.beyond import cg_p
from course_lib.beyond.cg_p import solver

TABLE = cg_p.Timetable.generate(40, stations=6, seed=1)


@pytest.fixture(scope="module")
def report():
    return crews.run(Options(quick=True))


def test_a_quick_run_has_every_kind_of_row(report):
    core.validate(core.recorded(report, command="course bench cg-p --quick", device="cpu"))
    assert not report.goals
    rows = {row.name: row for row in report.rows}
    for name in crews.CONTENDERS:
        row = rows[f"40 trips, seed 2001: {name}"]
        assert row.details["contender"] == name and row.details["arcs"] == 114
        assert row.details["same_lp"] is (None if name.startswith("fast") else True)
        assert row.details["gap"] == pytest.approx(
            100 * (row.details["cost"] / rows["40 trips, seed 2001: plain"].details["bound"] - 1), abs=0.5
        )
        quantities = {"seconds", "gap"} | ({"% of plain"} if name != "plain" else set())
        for quantity in quantities | (set() if name.startswith("fast") else {"LP seconds"}):
            row = rows[f"40 trips: {name}, {quantity}"]
            assert row.details["seeds"] == [2001, 2009] and len(row.details["values"]) == 2
    for scorer in crews.SCORERS:
        for share in (8, 100):
            assert {f"40 trips, {share} % kept: {scorer}, {what}" for what in ("gap", "% of plain", "seconds")} <= set(
                rows
            )
        assert rows[f"40 trips, 100 % kept: {scorer}, gap"].details["kept"] == [100.0]
    assert "30 short trips: plain, seconds" in rows and "60 trips, 8 % kept: network, gap" in rows
    huge = rows["80 trips, seed 2001: fast, network"].details
    assert huge["bound"] <= huge["cost"] and huge["estimate"] is not None and 0.05 < huge["peak_gib"] < 8
    tasks = rows["12 tasks: every number of crews"]
    assert tasks.repeats == tasks.details["proven"] + tasks.details["impossible"] and tasks.details["open"] == 0
    assert tasks.details["proven"] == 12 - tasks.details["fewest"] + 1 and tasks.details["impossible"] == 2
    for solver_name in ("CP-SAT", "SCIP"):
        for riders in ("0 passengers", "1 passenger"):
            row = rows[f"12 trips, seed 2001: arc-flow, {solver_name}, {riders}"]
            assert row.details["found"] is (row.details["cost"] is not None)
            assert row.details["cost"] is None or row.details["cost"] >= row.details["plain_cost"] - 1e-6


def test_the_rows_are_those_of_the_docstring():
    """A chapter is written against these names."""
    for words in ('"G, seed S: C"', '"G: C, % of plain"', '"500 trips, P % kept: W, gap"', '"2000 trips, seed S: fast'):
        assert words in crews.__doc__
    for name in crews.CONTENDERS:
        assert f'"{name}"' in crews.__doc__


def test_all_exact_prices_exactly_and_the_ablation_keeps_all_arcs(monkeypatch):
    seen = []
    monkeypatch.setattr(crews, "_require_legal", lambda plan, timetable: seen.append(plan))
    crews._solved(TABLE, "exact", None, exact=True)
    crews._solved(TABLE, "exact", None)
    crews._solved(TABLE, "optimal", "nothing", per_trip=len(cg_p.DutyGraph.of(TABLE)) / len(TABLE))
    everything, staged, _ = seen
    assert all(step.exact for step in everything.history if step.phase == "full")
    assert not all(step.exact for step in staged.history if step.phase == "full")
    kept_arcs = []
    real = solver.best_arcs
    monkeypatch.setattr(solver, "best_arcs", lambda *a, **k: kept_arcs.append(real(*a, **k)) or kept_arcs[-1])
    crews._solved(TABLE, "optimal", "nothing", per_trip=len(cg_p.DutyGraph.of(TABLE)) / len(TABLE))
    assert kept_arcs[0].all()


def test_memory_is_that_of_a_process_of_its_own():
    here, there = crews._peak_gib(), crews._in_a_process(crews._peak_gib)
    assert here is there is None or 0.01 < there <= here + 0.1


def test_an_illegal_plan_ends_the_bench(monkeypatch):
    monkeypatch.setattr(cg_p, "check_plan", lambda plan, timetable: ["Duty 1: It has no trips."])
    with pytest.raises(RuntimeError, match="1 faults: Duty 1: It has no trips"):
        crews._solved(TABLE, "fast", "chance")


def test_ctrl_c_in_the_solver_ends_the_bench(monkeypatch):
    plan = cg_p.solve(TABLE, time_limit=0)
    assert plan.status == "interrupted"
    monkeypatch.setattr(cg_p, "solve", lambda *a, **k: plan)
    with pytest.raises(KeyboardInterrupt):
        crews._solved(TABLE, "exact", None)
    with pytest.raises(KeyboardInterrupt):
        crews._every_number(8, [8])


def test_what_is_finished_is_kept_until_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.core, "checkout", lambda: tmp_path)
    calls = []

    def counted():
        calls.append(1)
        return {"seconds": 1.5}

    plan = dataclasses.replace(crews._plan(True), quick=False)
    for _ in range(2):
        assert crews._kept(plan, "500 trips, seed 2001", counted)["seconds"] == 1.5
    assert len(calls) == 1
    monkeypatch.setattr(crews, "_fingerprint", lambda: "changed code")
    crews._kept(plan, "500 trips, seed 2001", counted)
    assert len(calls) == 2
    other = tmp_path / "bench-results" / "trained" / "other.pt"
    other.write_bytes(b"")
    kept.discard(crews.KEPT)
    assert list(other.parent.iterdir()) == [other]


def test_a_whole_run_reaches_every_goal_and_keeps_nothing(tmp_path, monkeypatch):
    """The full plan with tiny instances under its names."""
    monkeypatch.setattr(kept.core, "checkout", lambda: tmp_path)
    plan = crews._plan(False)

    def few(instances):
        return tuple(dataclasses.replace(instance, trips=30) for instance in instances[:2])

    small = {field.name: few(getattr(plan, field.name)) for field in dataclasses.fields(plan)[:7]}
    small["rivals"] = small["rivals"][:1]
    plan = dataclasses.replace(plan, **small, shares=(8,), rival_seconds=0.2, rounds=2)
    monkeypatch.setattr(crews, "_plan", lambda quick: plan)
    monkeypatch.setattr(crews, "ALL_EXACT", 1)
    monkeypatch.setattr(crews, "_in_a_process", lambda work, *arguments: work(*arguments))

    def proven(tasks, numbers):
        return {"seconds": [0.1 * k for k in numbers], "statuses": ["optimal"] * len(numbers)}

    monkeypatch.setattr(crews, "_every_number", proven)
    report = crews.run(Options())
    core.validate(core.recorded(report, command="course bench cg-p", device="cpu"))
    rows = {row.name: row for row in report.rows}
    assert len(report.goals) == 16 and all(math.isfinite(goal.value) for goal in report.goals)
    assert rows["500 trips, seed 2001: optimal"].repeats == 2 and rows["500 trips, seed 2001: plain"].repeats == 1
    assert rows["500 trips: plain, % of all exact"].details["seeds"] == [2001]
    assert rows["500 trips: optimal, % of plain"].details["seeds"] == [2001, 2002]
    tasks = rows["500 tasks: every number of crews"]
    assert tasks.details["worst_crews"] == 500 and tasks.details["worst"] == 50.0
    assert tasks.repeats == 2 + 500 - tasks.details["fewest"] + 1
    assert list((tmp_path / "bench-results" / "trained").iterdir()) == []


def rows_of(plain: float = 10.0, share: float = 5.0, gap: float = 0.5, peak: float | None = 1.0) -> list[Row]:
    """Just what the goals look at."""
    rows = []
    for group in ("500 trips", "1000 trips"):
        rows.append(Row.of(f"{group}: plain, seconds", "s", [plain]))
        for name in ("optimal", "fast, network"):
            rows.append(Row.of(f"{group}: {name}, % of plain", "%", [share]))
            rows.append(Row.of(f"{group}: {name}, gap", "%", [gap]))
    rows.append(Row.of("500 trips: plain, gap", "%", [gap]))
    rows += [Row.of(f"500 trips, seed {s}: optimal", "s", [1.0], same_lp=s != 2002) for s in (2001, 2002)]
    rows.append(Row.of("500 trips, seed 2001: fast, network", "s", [1.0], same_lp=None))
    rows.append(Row.of("2000 trips, seed 2001: fast, network", "s", [20.0], peak_gib=peak))
    rows += [Row.of(f"1000 trips, 8 % kept: {w}, gap", "%", [g]) for w, g in (("short gaps", 8.0), ("network", 4.0))]
    rows.append(Row.of("500 tasks: every number of crews", "s", [1.0], worst=2.0, open=1))
    return rows


def test_goals_are_read_from_the_rows():
    goals = {goal.name: goal for goal in crews._goals(rows_of())}
    assert goals["15 s / 500 trips: plain, seconds"].value == pytest.approx(1.5)
    assert goals["8 % / 500 trips: fast, network, % of plain"].met
    assert not goals["2.91 % / 1000 trips: fast, network, % of plain"].met
    same = goals["share of runs whose linear program ends where plain's does"]
    assert same.value == 0.5 and not same.met
    assert not goals["15 s / 2000 trips, seed 2001: fast, network"].met
    assert goals["4 GiB / 2000 trips, seed 2001: fast, network"].met
    assert goals["1000 trips, 8 % kept: gap of short gaps / gap of the network"].value == 2.0
    assert goals["5 s / 500 tasks: the worst number of crews"].met
    assert not goals["500 tasks: numbers of crews left open"].met
    assert len(crews._goals(rows_of(peak=None))) == len(goals) - 1
    finite = [goal.value for goal in crews._goals(rows_of(gap=0.0)) if "gap" in goal.name]
    assert all(math.isfinite(value) for value in finite)


def test_it_wants_a_cpu_and_no_data(capsys):
    assert bench.BENCHES["cg-p"] == "course_lib.bench.crews" and crews.DEVICES == ("cpu",)
    with pytest.raises(SystemExit):
        bench.run(["cg-p", "--device", "cpu", "--data", "folder", "--root", "x"])
    assert "--data: got 'folder', expected none: cg-p draws its own data" in capsys.readouterr().err


def test_the_full_run_is_the_promised_one():
    plan = crews._plan(False)
    assert [instance.seed for instance in plan.normal] == list(range(2001, 2011))
    assert {instance.family for instance in plan.normal} == {"line", "star", "ring", "two_hubs"}
    assert {instance.trips for instance in plan.normal + plan.short} == {500}
    assert [instance.trips for instance in plan.large] == [1000] * 3 and plan.huge[0].trips == 2000
    assert plan.tasks == 500 and plan.rival_seconds >= 10 and plan.shares == (2, 4, 8, 15, 30, 100)
