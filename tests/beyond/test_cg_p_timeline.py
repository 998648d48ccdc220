"""A duty's day in activities: no holes, and what is in it is what the rules say it costs."""

import dataclasses
import itertools

import pytest

from course_lib.beyond.cg_p import CrewPlan, CrewRules, Duty, Timetable, duty_cost, duty_timeline, solve
from course_lib.beyond.cg_p.orlib import draw_csp
from course_lib.beyond.cg_p.timeline import plan_timelines

HOURS = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "B", 650, 710), ("B", "A", 720, 780)]


def kinds(day):
    return [(activity.kind, activity.start, activity.end) for activity in day]


def test_four_trips_with_a_break_in_the_middle():
    day = duty_timeline(range(4), Timetable.of(HOURS, depots=["A"]))
    assert kinds(day) == [
        ("sign on", 465, 480), ("drive", 480, 540), ("wait", 540, 560), ("drive", 560, 620), ("break", 620, 650),
        ("drive", 650, 710), ("wait", 710, 720), ("drive", 720, 780), ("sign off", 780, 795),
    ]  # fmt: skip
    assert [activity.trip for activity in day] == [-1, 0, -1, 1, -1, 2, -1, 3, -1]


def test_a_crew_waits_first_and_rides_then_and_the_ride_is_no_part_of_the_break():
    ways = {("A", "B"): 30, ("C", "A"): 12, ("B", "C"): 25}
    table = Timetable.of([("B", "C", 480, 540), ("B", "C", 600, 660)], depots=["A"], deadhead=ways)
    day = duty_timeline((0, 1), table, CrewRules(break_minutes=35))
    assert kinds(day) == [
        ("sign on", 435, 450), ("ride", 450, 480), ("drive", 480, 540), ("break", 540, 575), ("ride", 575, 600),
        ("drive", 600, 660), ("ride", 660, 672), ("sign off", 672, 687),
    ]  # fmt: skip
    assert kinds(duty_timeline((0, 1), table, CrewRules(break_minutes=36)))[3][0] == "wait"
    assert [(a.origin, a.destination) for a in day if a.kind == "ride"] == [(2, 0), (1, 0), (1, 2)]


@pytest.mark.parametrize("same_depot", [True, False])
@pytest.mark.parametrize("family", ["line", "star", "ring", "two_hubs"])
def test_activities_have_no_holes_and_add_up_to_what_is_paid(family, same_depot):
    table, rules = Timetable.generate(60, family=family, seed=3), CrewRules(same_depot=same_depot)
    plan = solve(table, rules, mode="fast")
    for duty, day in zip(plan.duties, plan_timelines(plan), strict=True):
        assert all(a.end == b.start and a.destination == b.origin for a, b in itertools.pairwise(day))
        ridden = sum(activity.minutes for activity in day if activity.kind == "ride")
        paid = rules.minute_cost * (day[-1].end - day[0].start) + rules.deadhead_cost * ridden
        assert duty.cost == duty_cost(duty.trips, table, rules, depot=duty.depot) == rules.fixed_cost + paid
        assert tuple(activity.trip for activity in day if activity.trip >= 0) == duty.trips
        assert day[0].origin == duty.depot
        assert day[-1].destination in table.depots
        if same_depot:
            assert day[-1].destination == duty.depot


def test_who_comes_second_to_a_trip_rides_along():
    table = Timetable.of(HOURS, depots=["A"])
    both = (Duty((0, 1), 650.0, 0), Duty((0, 3), 810.0, 0))
    plan = dataclasses.replace(solve(table), duties=both)
    first, second = plan_timelines(plan)
    assert [activity.kind for activity in first if activity.trip >= 0] == ["drive", "drive"]
    assert [activity.kind for activity in second if activity.trip >= 0] == ["passenger", "drive"]


def test_on_board_there_is_neither_change_nor_break():
    train = dataclasses.replace(
        Timetable.of([("A", "B", 480, 500), ("B", "A", 540, 560)], depots=["A"]), follows=[1, -1]
    )
    assert kinds(duty_timeline((0, 1), train))[2] == ("wait", 500, 540)


def test_the_nearest_depot_where_none_is_named():
    table = Timetable.of([("B", "B2", 480, 540)], depots=["far", "near"], deadhead={
        ("far", "B"): 40, ("far", "B2"): 5, ("near", "B"): 20, ("near", "B2"): 10,
    })  # fmt: skip
    assert table.stations[duty_timeline((0,), table)[0].origin] == "near"
    far = table.stations.index("far")
    assert duty_timeline((0,), table, depot=far)[0].start == 480 - 40 - 15


def test_the_or_library_knows_driving_and_waiting_alone():
    plan = solve(Timetable.from_orlib_csp(draw_csp(30)), crews=20)
    assert plan.duties
    for duty, day in zip(plan.duties, plan_timelines(plan), strict=True):
        assert {activity.kind for activity in day} <= {"drive", "wait"}
        assert day[0].start == plan.timetable.departure[duty.trips[0]]
        assert day[-1].end == plan.timetable.arrival[duty.trips[-1]]


def test_days_that_cannot_be():
    table = Timetable.of(HOURS, depots=["A", "C"])
    with pytest.raises(ValueError, match="got none"):
        duty_timeline((), table)
    with pytest.raises(ValueError, match="trip 2: B 09:20 - A 10:20 and trip 1: A 08:00 - B 09:00 with -140 min"):
        duty_timeline((1, 0), Timetable.of(HOURS, depots=["A"], deadhead={("A", "B"): 30}))
    with pytest.raises(ValueError, match="a ride from C to A"):
        duty_timeline((0,), table, depot=2)


def test_a_plan_without_duties_has_no_days():
    nothing = CrewPlan(
        (), 0.0, 0.0, 0.0, (), "infeasible", None, (), {}, Timetable.of(HOURS, depots=["A"]), CrewRules()
    )
    assert plan_timelines(nothing) == []
