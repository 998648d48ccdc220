"""A duty's day, minute by minute: what the crew does between signing on and signing off."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from course_lib.beyond.cg_p.rules import CrewRules, rides_of, rules_for
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable

if TYPE_CHECKING:
    from course_lib.beyond.cg_p.plan import CrewPlan

#: What a crew does: "ride" is a deadhead, "passenger" a trip that another crew drives.
Kind = Literal["sign on", "ride", "drive", "passenger", "wait", "break", "sign off"]


@dataclass(frozen=True)
class Activity:
    """One thing a crew does for a while."""

    kind: Kind
    start: int  #: minutes after midnight
    end: int
    origin: int  #: station
    destination: int  #: the same one where the crew stays
    trip: int = -1  #: of "drive" and "passenger"

    @property
    def minutes(self) -> int:
        """How long."""
        return self.end - self.start


def duty_timeline(
    trips: Sequence[int],
    timetable: Timetable,
    rules: CrewRules | None = None,
    *,
    depot: int | None = None,
    ridden: Collection[int] = (),
) -> list[Activity]:
    """What a crew does, in order and without holes: from sign-on to sign-off, all of it paid.

    A crew waits first and rides then, as the rules reckon breaks. It need not be a legal duty: the day is drawn as far
    as there is time for everything in it. Nothing that lasts no time is listed.

    Args:
        trips: indices, in the order driven.
        rules: None are the defaults, or those of the OR-Library file, which know neither depots nor breaks.
        depot: the station where it begins; None takes the one with the shortest rides.
        ridden: of the trips those another crew drives.

    Raises:
        ValueError: no trips, two at the same time, or a ride for which there is no way or no time.

    >>> trips = [("A", "B", 480, 540), ("B", "A", 560, 620)]
    >>> [(a.kind, a.minutes) for a in duty_timeline([0, 1], Timetable.of(trips, depots=["A"]))]
    [('sign on', 15), ('drive', 60), ('wait', 20), ('drive', 60), ('sign off', 15)]
    """
    rules = rules_for(timetable, rules)
    if not len(trips):
        raise ValueError("trips: got none, expected one or more")
    return [activity for activity in _day(trips, timetable, rules, depot, ridden) if activity.minutes]


def plan_timelines(plan: CrewPlan) -> list[list[Activity]]:
    """Of every duty of a plan, in its order. Whoever comes second to a trip that is already driven rides along."""
    covered: set[int] = set()
    timelines = []
    for duty in plan.duties:
        depot = duty.depot if duty.depot >= 0 else None
        timelines.append(duty_timeline(duty.trips, plan.timetable, plan.rules, depot=depot, ridden=covered))
        covered.update(duty)
    return timelines


def _day(
    trips: Sequence[int], table: Timetable, rules: CrewRules, depot: int | None, ridden: Collection[int]
) -> Iterator[Activity]:
    if rules.explicit:
        first, last = int(table.origin[trips[0]]), int(table.destination[trips[-1]])
        rides = [(first, first, 0)] + [(first, first, 0)] * (len(trips) - 1) + [(last, last, 0)]
    else:
        rides = rides_of(trips, table, rules, _nearest(trips, table, rules) if depot is None else depot)
    if missing := [(here, there) for here, there, minutes in rides if minutes >= NO_WAY]:
        here, there = (table.stations[station] for station in missing[0])
        raise ValueError(f"trips: got a duty that needs a ride from {here} to {there}, expected one with a way")
    home, first, out = rides[0]
    leaves = int(table.departure[trips[0]])
    yield Activity("sign on", leaves - out - rules.sign_on, leaves - out, home, home)
    yield Activity("ride", leaves - out, leaves, home, first)
    yield _worked(trips[0], table, ridden)
    for (before, trip), ride in zip(itertools.pairwise(trips), rides[1:-1], strict=True):
        yield from _between(before, trip, ride, table, rules)
        yield _worked(trip, table, ridden)
    last, home, back = rides[-1]
    ends = int(table.arrival[trips[-1]])
    yield Activity("ride", ends, ends + back, last, home)
    yield Activity("sign off", ends + back, ends + back + rules.sign_off, home, home)


def _worked(trip: int, table: Timetable, ridden: Collection[int]) -> Activity:
    kind: Kind = "passenger" if trip in ridden else "drive"
    ends = int(table.origin[trip]), int(table.destination[trip])
    return Activity(kind, int(table.departure[trip]), int(table.arrival[trip]), *ends, int(trip))


def _between(
    before: int, trip: int, ride: tuple[int, int, int], table: Timetable, rules: CrewRules
) -> Iterator[Activity]:
    """Waiting, then riding, between two trips."""
    here, there, minutes = ride
    arrived, leaves = int(table.arrival[before]), int(table.departure[trip])
    if leaves - minutes < arrived:
        who = f"{table.describe(before)} and {table.describe(trip)}"
        raise ValueError(f"trips: got {who} with {leaves - arrived} min between them, expected {minutes} or more")
    on_board = table.follows[before] == trip
    rests = leaves - minutes - arrived >= rules.break_minutes and not on_board and not rules.explicit
    yield Activity("break" if rests else "wait", arrived, leaves - minutes, here, here)
    yield Activity("ride", leaves - minutes, leaves, here, there)


def _nearest(trips: Sequence[int], table: Timetable, rules: CrewRules) -> int:
    def rides(depot: int) -> int:
        out, *_, back = rides_of(trips, table, rules, depot)
        return out[2] + back[2]

    return min(table.depots, key=rides)
