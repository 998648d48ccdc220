"""Timetables, rules, duties, the connection graph and the checker: by hand, and against each other."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.beyond.cg_p import (
    NO_WAY,
    CrewPlan,
    CrewRules,
    Duty,
    DutyGraph,
    Timetable,
    check_plan,
    clock,
    duty_cost,
    duty_violations,
)

FAMILIES = ("line", "star", "ring", "two_hubs")


def shuttle(*departures, minutes=60, **more):
    """Trips of an hour to and fro between A, the depot, and B."""
    ends = itertools.cycle([("A", "B"), ("B", "A")])
    trips = [(*next(ends), departure, departure + minutes) for departure in departures]
    return Timetable.of(trips, depots=["A"], **more)


def tens(first, last):
    """Multiples of ten: all times are, so that limits are often met exactly."""
    return st.integers(first // 10, last // 10).map(lambda ten: 10 * ten)


@st.composite
def timetables(draw, most=5):
    """A few trips between three stations, some with deadheads, one pair perhaps pieces of one train."""
    trips, departure = [], 300
    for _ in range(draw(st.integers(0, most))):
        start, end = draw(st.permutations("ABC"))[:2]
        departure += draw(tens(0, 120))
        trips.append((start, end, departure, departure + draw(tens(10, 150))))
    deadhead = draw(st.dictionaries(st.sampled_from([("A", "B"), ("B", "C"), ("C", "A")]), tens(0, 70)))
    deadhead |= {("A", "A2"): 5, ("B", "B2"): 5, ("C", "C2"): 10}
    depots = draw(st.lists(st.sampled_from(["A", "B", "C2"]), min_size=1, unique=True))
    made = Timetable.of(trips, depots=depots, deadhead=deadhead)
    follows = np.array(made.follows)
    if len(made) >= 2:
        i, j = draw(st.permutations(range(len(made))))[:2]
        if made.arrival[i] <= made.departure[j]:
            follows[i] = j
    return dataclasses.replace(made, follows=follows)


@st.composite
def any_rules(draw):
    window = draw(st.none() | st.tuples(tens(400, 500), tens(500, 600)))
    return CrewRules(
        sign_on=10, sign_off=20, max_wait=draw(tens(60, 300)), max_duty=draw(tens(300, 900)), meal_window=window,
        max_driving=draw(tens(100, 600)), max_stretch=draw(tens(50, 300)), max_deadhead=draw(tens(0, 70)),
        break_minutes=draw(tens(0, 60)), same_depot=draw(st.booleans()),
    )  # fmt: skip


def graph_cost(graph, trips):
    """The cheapest duty of these trips by the graph's arrays, as a labelling would find it; None if there is none."""
    rules, t = graph.rules, graph.timetable
    try:
        arcs = graph.arcs_along(trips)
    except ValueError:
        return None
    costs = []
    for source, sink in zip(graph.sources[:, trips[0]], graph.sinks[:, trips[-1]], strict=True):
        start = t.departure[trips[0]] - source - rules.sign_on
        stretch, legal, meal = start, source < NO_WAY and sink < NO_WAY, False
        for arc, trip in zip([None, *arcs], trips, strict=True):
            if arc is not None:
                stretch = t.departure[trip] - graph.ride[arc] if graph.rests[arc] else stretch
                meal |= bool(graph.meals[arc])
            legal &= bool(t.arrival[trip] - stretch <= rules.max_stretch)
        end = t.arrival[trips[-1]] + sink + rules.sign_off
        legal &= bool(end - start <= rules.max_duty) and bool(t.duration[trips].sum() <= rules.max_driving)
        if rules.meal_window is not None:
            legal &= meal or bool(start > rules.meal_window[0] or end < rules.meal_window[1])
        if legal:
            ends = rules.deadhead_cost * (source + sink)
            costs.append(rules.fixed_cost + rules.minute_cost * (end - start) + ends + graph.cost[arcs].sum())
    return min(costs, default=None)


# Duties


def test_four_trips_of_an_hour_need_two_crews_until_the_third_leaves_ten_minutes_later():
    early, late = shuttle(480, 560, 640, 720), shuttle(480, 560, 650, 720)
    assert duty_cost([0, 1], early) == duty_cost([2, 3], early) == 650
    assert duty_cost([0, 1, 2, 3], early) is None
    assert duty_violations([0, 1, 2, 3], early, CrewRules(), early.depots[0]) == [
        "trip 4: B 12:00 - A 13:00 ends 315 min after the last break or signing on; 270 are allowed."
    ]
    assert duty_cost([0, 1, 2, 3], late) == 810


def test_the_stretch_counts_from_signing_on_not_from_the_first_departure():
    """265 minutes from the first departure to the last arrival are 280 at work; 255 are 270."""
    hasty = CrewRules(min_connection=5)
    assert duty_cost([0, 1, 2, 3], shuttle(480, 548, 616, 685), hasty) is None
    assert duty_cost([0, 1, 2, 3], shuttle(480, 545, 610, 675), hasty) == 480 + 30 + 255


@pytest.mark.parametrize(("wait", "legal"), [(29, False), (30, True), (31, True)])
def test_a_wait_of_exactly_thirty_minutes_is_a_break(wait, legal):
    assert (duty_cost([0, 1, 2, 3], shuttle(480, 560, 620 + wait, 700 + wait)) is not None) == legal


def test_rides_are_paid_and_are_no_rest():
    """B to A by taxi takes 40 of 60 minutes: 20 are left, no break."""
    trips = [("A", "B", 480, 600), ("A", "B", 660, 780)]
    t = Timetable.of(trips, depots=["A"], deadhead={("A", "B"): 40})
    assert duty_cost([0], t) == 480 + (15 + 120 + 40 + 15) + 20
    assert duty_cost([0, 1], t) is None
    assert duty_cost([0, 1], t, CrewRules(max_stretch=315)) == 480 + (15 + 300 + 40 + 15) + 0.5 * 80
    assert duty_cost([0, 1], t, CrewRules(break_minutes=20)) == 480 + (15 + 300 + 40 + 15) + 0.5 * 80


def test_after_a_break_the_work_begins_with_the_ride():
    """70 minutes in B, 40 of them in the taxi: the second stretch is 40 + 60."""
    trips = [("A", "B", 480, 540), ("A", "B", 610, 670)]
    t = Timetable.of(trips, depots=["A"], deadhead={("A", "B"): 40})
    assert duty_cost([0, 1], t, CrewRules(max_stretch=100)) == 480 + (15 + 190 + 40 + 15) + 0.5 * 80
    assert duty_cost([0, 1], t, CrewRules(max_stretch=99)) is None


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        (CrewRules(max_duty=169), "It lasts 170 min, from 07:45 to 10:35; 169 are allowed."),
        (CrewRules(max_driving=119), "It drives 120 min; 119 are allowed."),
        (CrewRules(max_stretch=154), "trip 2: B 09:20 - A 10:20 ends 155 min after the last break or signing on"),
        (CrewRules(min_connection=21), "trip 2: B 09:20 - A 10:20 leaves 20 min after the crew has arrived; 21 are"),
        (CrewRules(max_wait=19, break_minutes=5), "trip 2: B 09:20 - A 10:20 leaves 20 min after the crew has arrived"),
        (CrewRules(meal_window=(500, 600), break_minutes=25), "No break begins between 08:20 and 10:00"),
    ],
)
def test_each_rule_just_broken_is_named_and_just_kept_is_fine(rules, fault):
    t = shuttle(480, 560)
    (found,) = duty_violations([0, 1], t, rules, t.depots[0])
    assert found.startswith(fault)
    assert duty_cost([0, 1], t, rules) is None
    at_limit = {"max_duty": 170, "max_driving": 120, "max_stretch": 155, "min_connection": 20, "max_wait": 20}
    assert duty_violations([0, 1], t, dataclasses.replace(CrewRules(break_minutes=20), **at_limit), t.depots[0]) == []


@pytest.mark.parametrize(
    ("window", "legal"),
    [
        ((540, 560), True),  # begins at once
        ((500, 539), False),  # over before the trip is
        ((560, 600), True),  # at the last moment: 560 to 590
        ((561, 600), False),  # 29 minutes are left
        ((464, 700), True),  # not yet on duty when it begins
        ((465, 539), False),  # on duty from its first minute
        ((500, 666), True),  # off duty before it ends
        ((561, 665), False),  # on duty to its last
    ],
)
def test_a_meal_begins_within_the_window_and_is_a_full_break(window, legal):
    """Sign-on 07:45, a wait from 09:00 to 09:50, sign-off 11:05."""
    assert (duty_cost([0, 1], shuttle(480, 590), CrewRules(meal_window=window)) is not None) == legal


def test_a_crew_may_stay_on_its_train_but_does_not_rest_there():
    """The halves of a train that stands for 5 minutes, and for 30."""
    for stop in (5, 30):
        t = Timetable.of([("A", "M", 480, 600), ("M", "A", 600 + stop, 730)], depots=["A"])
        train = dataclasses.replace(t, follows=np.array([1, -1]))
        assert duty_cost([0, 1], t) == (480 + 30 + 250 if stop == 30 else None)
        assert duty_cost([0, 1], train) == (480 + 30 + 250 if stop == 5 else 480 + 280)
        assert duty_cost([0, 1], train, CrewRules(max_stretch=264)) is None
        assert DutyGraph.of(train).rests.tolist() == [False]


def test_another_depot_at_the_end_only_where_the_rules_say_so():
    t = Timetable.of([("A", "B", 480, 540)], depots=["A", "B"])
    assert duty_cost([0], t) is None
    assert duty_cost([0], t, CrewRules(same_depot=False)) == 480 + 90
    assert duty_violations([0], t, CrewRules(), t.depots[0]) == ["From B to A there is no way."]


def test_strange_duties_are_named_not_raised():
    t = shuttle(480, 560)
    assert duty_violations([], t, CrewRules(), 0) == ["It has no trips."]
    assert duty_violations([7], t, CrewRules(), 0) == ["Trip number 7 is not in the timetable of 2 trips."]
    assert duty_violations([0], t, CrewRules(), 1) == ["It begins at station number 1, which is no depot."]
    backwards = duty_violations([1, 0], dataclasses.replace(t, depots=(0, 1)), CrewRules(), 1)
    assert backwards[0] == "trip 1: A 08:00 - B 09:00 leaves 140 min before the crew has arrived."
    assert duty_cost([0, 0], t) is None


# Rules


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"max_duty": 30}, ValueError, "max_duty: got 30, expected more than the 30 minutes of signing on and off"),
        ({"max_stretch": 15}, ValueError, "max_stretch: got 15"),
        ({"max_driving": 0}, ValueError, "max_driving: got 0, expected at least 1 minute"),
        ({"min_connection": 151}, ValueError, "max_wait: got 150, expected at least min_connection, 151"),
        ({"break_minutes": 200}, ValueError, "max_wait: got 150, expected at least break_minutes, 200"),
        ({"meal_window": (840, 660)}, ValueError, "meal_window: got .840, 660., expected its begin before its end"),
        ({"meal_window": (11.0, 14.0)}, TypeError, "meal_window: got"),
        ({"meal_window": 660}, TypeError, "meal_window: got 660"),
        ({"sign_on": -1}, ValueError, "sign_on: got -1, expected a number from 0 up"),
        ({"fixed_cost": float("nan")}, ValueError, "fixed_cost: got nan"),
        ({"fixed_cost": "480"}, TypeError, "fixed_cost: got '480'"),
        ({"max_wait": 150.5}, TypeError, "max_wait: got 150.5, expected whole minutes"),
        ({"max_wait": True}, TypeError, "max_wait: got True"),
        ({"fixed_cost": 0, "minute_cost": 0, "deadhead_cost": 0}, ValueError, "got 0 for all three, expected a price"),
    ],
)
def test_rules_that_contradict_themselves(wrong, error, message):
    with pytest.raises(error, match=message):
        CrewRules(**wrong)


def test_costs_come_in_units_and_never_below_signing_on_and_off():
    assert (CrewRules().least_cost, CrewRules().cost_unit) == (510, 0.5)
    assert CrewRules(deadhead_cost=0.75).cost_unit == 0.25
    assert CrewRules(fixed_cost=500, minute_cost=2, deadhead_cost=4).cost_unit == 2


@settings(deadline=None, max_examples=40)
@given(timetables(), any_rules())
def test_every_duty_costs_a_multiple_of_the_unit(t, rules):
    for trips in (list(some) for k in (1, 2, 3) for some in itertools.combinations(range(len(t)), k)):
        if (cost := duty_cost(trips, t, rules)) is not None:
            assert cost >= rules.least_cost
            assert cost / rules.cost_unit == round(cost / rules.cost_unit)


# The graph


@settings(deadline=None, max_examples=150)
@given(timetables(), any_rules())
def test_the_graph_and_the_plain_rules_agree_on_every_duty(t, rules):
    graph = DutyGraph.of(t, rules)
    for k in range(1, len(t) + 1):
        for trips in itertools.combinations(range(len(t)), k):
            plain = duty_cost(list(trips), t, rules)
            assert (plain is None) == ((flat := graph_cost(graph, list(trips))) is None), trips
            assert plain is None or plain == pytest.approx(flat)


@settings(deadline=None, max_examples=50)
@given(timetables(), any_rules())
def test_arcs_are_sorted_both_ways_and_lead_forward(t, rules):
    graph = DutyGraph.of(t, rules)
    assert (graph.tail < graph.head).all()
    assert sorted(zip(graph.head, graph.tail, strict=True)) == list(zip(graph.head, graph.tail, strict=True))
    assert len(set(zip(*graph.edge_index.tolist(), strict=True))) == len(graph)
    for j in range(len(t)):
        assert (graph.head[graph.in_start[j] : graph.in_start[j + 1]] == j).all()
        assert (graph.tail[graph.out_arcs[graph.out_start[j] : graph.out_start[j + 1]]] == j).all()
    assert graph.in_start[-1] == graph.out_start[-1] == len(graph)


def test_keeping_some_arcs_keeps_their_facts():
    graph = DutyGraph.of(Timetable.generate(80, seed=3))
    kept = np.random.default_rng(0).random(len(graph)) < 0.3
    small = graph.keep(kept)
    assert len(small) == kept.sum()
    for name in ("tail", "head", "gap", "ride", "rests", "meals", "cost"):
        np.testing.assert_array_equal(getattr(small, name), getattr(graph, name)[kept])
    np.testing.assert_array_equal(small.edge_index[:, small.out_arcs][0], np.sort(small.tail))
    np.testing.assert_array_equal(graph.keep(np.ones(len(graph), dtype=bool)).out_arcs, graph.out_arcs)
    assert len(graph.keep(np.zeros(len(graph), dtype=bool))) == 0
    with pytest.raises(ValueError, match="kept: got int64"):
        graph.keep(np.arange(len(graph)))


def test_arcs_along_a_duty_and_none_where_there_is_none():
    graph = DutyGraph.of(shuttle(480, 560, 640))
    arcs = graph.arcs_along([0, 1, 2])
    assert graph.edge_index[:, arcs].tolist() == [[0, 1], [1, 2]]
    assert len(graph.arcs_along([1])) == 0
    with pytest.raises(ValueError, match="got 0 before 2"):
        graph.arcs_along([0, 2])


def test_a_depot_nobody_reaches_is_named():
    t = Timetable.of([("A", "B", 480, 540), ("B", "A", 560, 620)], depots=["A", "Far"], deadhead={("A", "Far"): 61})
    assert DutyGraph.of(t).unused_depots() == ("Far",)
    assert DutyGraph.of(t, CrewRules(max_deadhead=61)).unused_depots() == ()
    assert duty_cost([0, 1], t) == 650


def test_why_nobody_can_drive_a_trip():
    trips = [("A", "B", 480, 740), ("C", "A", 480, 500), ("A", "C", 540, 560), ("A", "B", 800, 860)]
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"]))
    assert [duty_cost([trip], graph.timetable) for trip in range(4)] == [None] * 4
    assert [graph.obstacle(trip) for trip in range(4)] == [
        "trip 1: C 08:00 - A 08:20: a crew has no way to its origin: no depot is within 60 min, "
        "no earlier trip connects.",
        "trip 2: A 08:00 - B 12:20 takes 260 min; a crew may drive 255 at a time.",
        "trip 3: A 09:00 - C 09:20: a crew has no way home from its destination: no depot is within 60 min, "
        "no later trip connects.",
        "trip 4: A 13:20 - B 14:20: a crew has no way home from its destination: no depot is within 60 min, "
        "no later trip connects.",
    ]
    late = Timetable.of([("A", "B", 480, 600), ("B", "A", 620, 800)], depots=["A"])
    assert (
        DutyGraph.of(late).obstacle(1)
        == "trip 2: B 10:20 - A 13:20: every way from a depot through it and back breaks a limit."
    )


def test_everything_is_read_only():
    t = shuttle(480, 560)
    for array in (t.departure, t.deadhead, DutyGraph.of(t).tail, DutyGraph.of(t).sources):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


# Timetables


def test_trips_by_hand_are_sorted_and_described():
    t = Timetable.of([("B", "A", 560, 620), ("A", "B", 480, 540)], depots=["A"], names=["back", "there"])
    assert t.names == ("there", "back")
    assert t.departure.tolist() == [480, 560]
    assert str(t).splitlines()[1:] == ["  there: A 08:00 - B 09:00", "  back: B 09:20 - A 10:20"]
    assert str(Timetable.generate(20)).endswith("... and 14 more")
    assert (clock(5), clock(1500), clock(-10)) == ("00:05", "25:00", "-00:10")


def test_no_trips_are_a_timetable_too():
    for t in (Timetable.of([], depots=[]), Timetable.generate(0)):
        assert len(t) == 0
        assert "no service" in repr(t)
        assert len(DutyGraph.of(t)) == 0
        assert check_plan(CrewPlan((), 0.0, 0.0, 0.0, (), "optimal", 0.0, (), {}, t, CrewRules()), t) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"departure": [480.5, 560.0]}, TypeError, "departure: got float64, expected whole numbers"),
        ({"departure": [600, 560]}, ValueError, "arrival: got trip 1: A 10:00 - B 09:00, expected it after"),
        ({"departure": [480, 460]}, ValueError, "departure: got trips out of order"),
        ({"arrival": [540]}, ValueError, "arrival: got 1, expected one for each of 2"),
        ({"origin": [0, 5]}, ValueError, "origin: got station 5, expected 0 to 1"),
        ({"depots": (0, 0)}, ValueError, "depots: got .'A', 'A'., expected each station once"),
        ({"depots": (-1,)}, ValueError, "depots: got"),
        ({"deadhead": [[0, -1], [0, 0]]}, ValueError, "deadhead: got"),
        ({"deadhead": [[0]]}, ValueError, "deadhead: got"),
        ({"follows": [-1, 0]}, ValueError, "follows: got a piece that begins before"),
        ({"links": [[0, 1, 5]]}, ValueError, "limit: got None"),
        ({"links": [[1, 0, 5]], "limit": 9}, ValueError, "links: got trip 2"),
        ({"links": [[0, 2, 5]], "limit": 9}, ValueError, "links: got shape"),
    ],
)
def test_timetables_that_cannot_be(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(shuttle(480, 560), **change)


def test_deadheads_by_hand_hold_both_ways_unless_both_are_given():
    t = Timetable.of([], depots=["A"], deadhead={("A", "B"): 10, ("A", "C"): 20, ("C", "A"): 25})
    a, b, c = (t.stations.index(name) for name in "ABC")
    assert t.deadhead[[a, b, a, c, b], [b, a, c, a, c]].tolist() == [10, 10, 20, 25, NO_WAY]
    with pytest.raises(ValueError, match="deadhead: got -1 minutes from A to B"):
        Timetable.of([], depots=[], deadhead={("A", "B"): -1})
    with pytest.raises(ValueError, match="names: got 1, expected one for each of 0 trips"):
        Timetable.of([], depots=[], names=["x"])


# The generator


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_every_generated_trip_can_be_covered_by_a_duty_of_its_own(family, seed):
    t = Timetable.generate(120, stations=6 + seed % 3, depots=1 + seed, family=family, seed=seed)
    assert (len(t), len(t.stations), len(t.depots)) == (120, 6 + seed % 3, 1 + seed)
    assert all(duty_cost([trip], t) is not None for trip in range(len(t)))


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_days_look_like_railway_days(family):
    t = Timetable.generate(500, family=family, seed=1)
    assert t.departure.min() >= 300 and t.departure.max() < 1440
    assert t.duration.min() >= 5
    assert (t.deadhead == t.deadhead.T).all()
    assert (t.deadhead[:, :, None] <= t.deadhead[:, None, :] + t.deadhead.T[None] + 1).all()  # no detour is shorter
    there = np.bincount(t.origin * 8 + t.destination, minlength=64).reshape(8, 8)
    assert abs(there - there.T).max() <= 1  # as many back as there
    hourly = np.histogram(t.departure, bins=np.arange(300, 1441, 60))[0]
    assert hourly[2] > 1.5 * hourly[7] and hourly[12] > 1.5 * hourly[18]  # 7:00 against noon, 17:00 against 23:00


def test_plans_differ_as_their_names_say():
    busiest = {}
    for family in FAMILIES:
        t = Timetable.generate(400, stations=9, family=family, seed=2)
        share = np.bincount(t.origin, minlength=9) / len(t)
        busiest[family] = share.max()
    assert busiest["star"] > busiest["ring"]
    ring = Timetable.generate(100, stations=9, family="ring", seed=2).deadhead
    line = Timetable.generate(100, stations=9, family="line", seed=2).deadhead
    assert ring[0, 8] < line[0, 8]  # a circle closes


def test_same_seed_same_day_and_another_seed_another():
    a, b, c = (Timetable.generate(60, seed=seed) for seed in (7, 7, 8))
    for name in ("origin", "destination", "departure", "arrival", "deadhead"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.departure, c.departure)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trips": -1}, "trips: got -1"),
        ({"stations": 1}, "stations: got 1, expected 2 or more for 'line'"),
        ({"stations": 3, "family": "two_hubs"}, "stations: got 3, expected 4 or more for 'two_hubs'"),
        ({"depots": 0}, "depots: got 0, expected 1 to 8"),
        ({"depots": 9}, "depots: got 9"),
        ({"family": "grid"}, "family: got 'grid', expected one of line, star, ring, two_hubs"),
    ],
)
def test_networks_that_cannot_be_drawn(wrong, message):
    with pytest.raises(ValueError, match=message):
        Timetable.generate(**{"trips": 10} | wrong)


# Plans


def plan_of(t, duties, *, cost=None, **more):
    cost = sum(duty.cost for duty in duties) if cost is None else cost
    fields = {
        "lower_bound": 1000.0, "gap": 1 - 1000.0 / cost if cost else np.nan, "uncovered": (), "status": "feasible",
        "lp_value": None, "history": (), "times": {"pricing": 0.5}, "timetable": t, "rules": CrewRules(),
    }  # fmt: skip
    return CrewPlan(tuple(duties), cost, **fields | more)


@pytest.fixture
def day():
    t = shuttle(480, 560, 640, 720)
    return t, [Duty((0, 1), 650.0, 0), Duty((2, 3), 650.0, 0)]


def test_a_good_plan_has_no_violations(day):
    t, duties = day
    assert check_plan(plan_of(t, duties), t, CrewRules()) == []
    assert check_plan(plan_of(t, [*duties, duties[0]]), t) == []  # a second crew rides along
    unproven = plan_of(t, duties, lower_bound=-np.inf, gap=np.nan, status="interrupted")
    assert check_plan(unproven, t) == []
    assert check_plan(plan_of(t, duties, lower_bound=1300.0, gap=0.0, status="optimal"), t) == []
    assert check_plan(plan_of(t, [], status="infeasible"), t) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"duties": [Duty((0, 1), 650.0, 0)]},
            "trip 3: A 10:40 - B 11:40 is in no duty, and not reported as uncovered.",
        ),
        ({"uncovered": (3,)}, "trip 4: B 12:00 - A 13:00 is reported as uncovered, but a duty has it."),
        ({"duties": [Duty((0, 1, 2, 3), 810.0, 0)]}, "Duty 1: trip 4: B 12:00 - A 13:00 ends 315 min after"),
        ({"duties": [Duty((0, 1), 640.0, 0), Duty((2, 3), 650.0, 0)]}, "Duty 1 costs 650.0, not the 640.0 it says."),
        ({"duties": [Duty((0, 1), 650.0, 1), Duty((2, 3), 650.0, 0)]}, "Duty 1: It begins at station number 1, which"),
        ({"cost": 1200.0}, "The duties cost 1,300.0 together, not the 1,200.0 the plan says."),
        ({"lower_bound": 1400.0, "gap": -1 / 13}, "The lower bound, 1,400.0, is above the cost, 1,300.0."),
        ({"status": "optimal"}, "It is called optimal at a cost of 1,300.0; 1,000.0 is proven."),
        ({"gap": 0.1}, "The gap is 23.0769%, not the 10.0000% the plan says."),
        ({"crews": 3}, "There are 2 duties for exactly 3 crews."),
    ],
)
def test_each_violation_is_one_sentence(day, change, sentence):
    t, duties = day
    change = {"duties": duties, **change}
    found = check_plan(plan_of(t, change.pop("duties"), **change), t)
    assert any(fault.startswith(sentence) for fault in found), found


def test_listed_transitions_have_rules_of_their_own():
    """Four tasks; 1-2, 1-3 and 3-4 are allowed. A limit of 100 minutes, each task once, as many crews as asked for."""
    t = Timetable.of([("x", "x", s, f) for s, f in ((0, 40), (50, 90), (50, 120), (125, 140))], depots=["x"])
    t = dataclasses.replace(t, links=np.array([[0, 1, 15], [0, 2, 12], [2, 3, 9]]), limit=100)
    good = [Duty((0, 1), 15.0), Duty((2, 3), 9.0)]
    plan = plan_of(t, good, lower_bound=24.0, gap=0.0, status="optimal", crews=2, rules=CrewRules.orlib(100))
    assert check_plan(plan, t) == []
    assert duty_cost([0], t) == 0
    assert duty_violations([0, 2], t, CrewRules.orlib(100), -1) == ["It lasts 120 min; 100 are allowed."]
    assert duty_violations([1, 3], t, CrewRules.orlib(100), -1)[0].endswith("may not follow trip 2: x 00:50 - x 01:30.")
    twice = plan_of(t, [*good, Duty((3,), 0.0)], crews=2, lower_bound=0.0, gap=1.0, rules=CrewRules.orlib(100))
    assert check_plan(twice, t) == [
        "trip 4: x 02:05 - x 02:20 is in 2 duties, not in exactly one.",
        "There are 3 duties for exactly 2 crews.",
    ]
    graph = DutyGraph.of(t)
    assert graph.rules == CrewRules.orlib(100)
    assert (graph.edge_index.tolist(), graph.cost.tolist()) == ([[0, 0, 2], [1, 2, 3]], [15, 12, 9])
    assert graph_cost(graph, [2, 3]) == 9


def test_rules_and_timetable_of_different_kinds():
    t = shuttle(480, 560)
    listed = dataclasses.replace(t, links=np.array([[0, 1, 5]]), limit=100)
    with pytest.raises(ValueError, match="rules: got CrewRules.orlib for a timetable without listed transitions"):
        DutyGraph.of(t, CrewRules.orlib(100))
    with pytest.raises(ValueError, match="rules: got CrewRules.. for a timetable that lists its transitions"):
        duty_cost([0], listed, CrewRules())


def test_the_summary_says_what_was_found_what_is_proven_and_what_is_missing(day):
    t, duties = day
    text = plan_of(t, duties, mode="fast", estimate=1250.0, notes=("The bound is weak.",)).summary()
    assert text.splitlines() == [
        "feasible: 2 duties for 4 of 4 trips (fast mode, 0.5 CPU seconds)",
        "cost                 1,300.0",
        "proven bound         1,000.0  (gap 23.08%)",
        "estimated least      1,250.0  (not proven)",
        "trips per duty           2.0",
        "The bound is weak.",
    ]
    partial = plan_of(t, duties[:1], uncovered=(2, 3), lower_bound=-np.inf, gap=np.nan)
    assert "uncovered: 2 trips; their cost is not in the cost above\n  trip 3: A 10:40 - B 11:40" in str(partial)
    assert "proven bound            none\n" in str(partial)
    assert repr(partial) == "CrewPlan(feasible, 1 duty, cost 650.0, 2 uncovered)"
    assert "(1 more as passenger)" in str(plan_of(t, [*duties, Duty((3,), 0.0, 0)]))
    with pytest.raises(ValueError, match="status: got 'done'"):
        plan_of(t, duties, status="done")
