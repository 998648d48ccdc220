"""What the law and the agreement ask of one duty, and what it costs: written plainly, trip by trip.

Nothing here is fast. The pricing has its own arithmetic on flat arrays (`graph`, `labelling`); this is the other
opinion it is checked against.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np

from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable, clock, is_whole

#: What the fields of the rules are kept as, whatever kind of number they were given as.
PLAIN = {"int": int, "float": float, "bool": bool}
#: Prices that a search to six places can tell apart: the dearest is between these.
CHEAP, DEAR = 1e-3, 1e9


@dataclass(frozen=True)
class CrewRules:
    """Rules of a duty, in whole minutes, and its price.  All are paid: signing on and off, riding along, waiting.

    A duty begins at a depot: sign on, ride to the first trip, drive, wait, ride, drive ..., ride home, sign off.

    Raises:
        TypeError: a limit that is no whole number. ValueError: rules that contradict themselves, so that no duty, no
            connection, no break or no meal could ever be legal; a negative limit or price; prices in a unit of money so
            large or small that rounding would hide them.

    >>> CrewRules().least_cost
    510.0
    """

    sign_on: int = 15
    sign_off: int = 15
    min_connection: int = 10  #: from an arrival to the next departure, beyond the ride between the two
    max_wait: int = 150  #: from an arrival to the next departure, a ride between the two included
    max_deadhead: int = 60  #: one ride, to the first trip and from the last one too
    max_duty: int = 540  #: sign-on to sign-off
    max_driving: int = 330  #: the durations of all trips, those ridden as a passenger too
    max_stretch: int = 270  #: from sign-on, or the end of the last break, to any arrival
    break_minutes: int = 30  #: a wait of at least this, rides not counted, is a break
    same_depot: bool = True  #: ends where it began; else at any depot
    meal_window: tuple[int, int] | None = None  #: who is on duty all through it takes a break that begins within it
    fixed_cost: float = 480.0  #: of a duty
    minute_cost: float = 1.0  #: of each minute from sign-on to sign-off
    deadhead_cost: float = 0.5  #: of each minute ridden, on top
    explicit: bool = False  #: OR-Library: the timetable's `links` say what may follow what, and at which cost

    def __post_init__(self) -> None:
        _check(self)
        for item in fields(self):
            if item.type in PLAIN:
                object.__setattr__(self, item.name, PLAIN[item.type](getattr(self, item.name)))
        if self.meal_window is not None:
            object.__setattr__(self, "meal_window", tuple(map(int, self.meal_window)))

    @classmethod
    def orlib(cls, limit: int) -> CrewRules:
        """Beasley's form: listed transitions and their costs, last finish minus first start at most `limit`.

        Each task exactly once, by exactly as many crews as asked for.
        """
        return cls(
            sign_on=0, sign_off=0, min_connection=0, max_wait=limit, max_deadhead=0, max_duty=limit, max_driving=limit,
            max_stretch=limit, break_minutes=0, fixed_cost=0.0, minute_cost=0.0, deadhead_cost=0.0, explicit=True,
        )  # fmt: skip

    @property
    def least_cost(self) -> float:
        """No duty costs less: signing on and off, and nothing else."""
        return self.fixed_cost + self.minute_cost * (self.sign_on + self.sign_off)

    @property
    def cost_unit(self) -> float:
        """Every duty's cost is a multiple of this; a bound may be rounded up to the next one.

        >>> CrewRules().cost_unit, CrewRules.orlib(480).cost_unit
        (0.5, 1.0)
        """
        if self.explicit:
            return 1.0
        prices = [Fraction(str(price)) for price in (self.fixed_cost, self.minute_cost, self.deadhead_cost)]
        denominator = math.lcm(*(price.denominator for price in prices))
        return math.gcd(*(int(price * denominator) for price in prices)) / denominator


def rules_for(timetable: Timetable, rules: CrewRules | None = None) -> CrewRules:
    """The rules a timetable is planned under: those given, else those of its OR-Library file, else the defaults.

    Raises:
        TypeError: something that is no timetable, or no rules.
        ValueError: a timetable that lists its transitions without the rules of that form, or these without such a list.
    """
    if not isinstance(timetable, Timetable):
        raise TypeError(f"timetable: got {timetable!r}, expected a Timetable, such as Timetable.of makes")
    if not isinstance(rules, CrewRules | None):
        raise TypeError(f"rules: got {rules!r}, expected CrewRules(...) or None")
    if rules is None:
        return CrewRules() if timetable.limit is None else CrewRules.orlib(timetable.limit)
    if rules.explicit and timetable.links is None:
        raise ValueError("rules: got CrewRules.orlib for a timetable without listed transitions, expected CrewRules()")
    if not rules.explicit and timetable.links is not None:
        raise ValueError("rules: got CrewRules() for a timetable that lists its transitions, expected CrewRules.orlib")
    return rules


def duty_cost(
    trips: Sequence[int], timetable: Timetable, rules: CrewRules | None = None, *, depot: int | None = None
) -> float | None:
    """What one duty costs, or None if it is illegal.

    Args:
        trips: indices, in the order driven.
        depot: the station where it begins (and ends, under `same_depot`); None takes the cheapest.

    Four trips of an hour: with 20 minutes between any two, the crew works 315 minutes without a break. Ten more in the
    middle are one.

    >>> def day(third):
    ...     trips = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "B", third, third + 60), ("B", "A", 720, 780)]
    ...     return Timetable.of(trips, depots=["A"])
    >>> duty_cost([0, 1], day(640)), duty_cost([2, 3], day(640)), duty_cost([0, 1, 2, 3], day(640))
    (650.0, 650.0, None)
    >>> duty_cost([0, 1, 2, 3], day(650))
    810.0
    """
    rules = rules_for(timetable, rules)
    homes = [-1] if rules.explicit else timetable.depots if depot is None else [depot]
    costs = [cost for faults, cost in (_walk(trips, timetable, rules, home) for home in homes) if not faults]
    return min(costs, default=None)


def duty_violations(trips: Sequence[int], timetable: Timetable, rules: CrewRules, depot: int) -> list[str]:
    """What is wrong with one duty, a sentence each; nothing for a legal one.

    Args:
        depot: the station where it begins; ignored under the OR-Library's rules, which know none.
    """
    return _walk(trips, timetable, rules_for(timetable, rules), depot)[0]


def _walk(trips: Sequence[int], timetable: Timetable, rules: CrewRules, depot: int) -> tuple[list[str], float]:
    """Go through the duty's day once: its faults, and its cost, which means nothing where there are faults."""
    if not len(trips):
        return ["It has no trips."], math.nan
    if strange := [trip for trip in trips if not 0 <= trip < len(timetable)]:
        return [f"Trip number {strange[0]} is not in the timetable of {len(timetable)} trips."], math.nan
    if rules.explicit:
        return _walk_links(trips, timetable, rules)
    if depot not in timetable.depots:
        return [f"It begins at station number {depot}, which is no depot."], math.nan
    return _walk_day(trips, timetable, rules, depot)


def _walk_day(trips: Sequence[int], timetable: Timetable, rules: CrewRules, depot: int) -> tuple[list[str], float]:
    rides = rides_of(trips, timetable, rules, depot)
    faults = list(_ride_faults(rides, timetable, rules))
    if any(minutes >= NO_WAY for *_, minutes in rides):
        return faults, math.nan  # nothing after such a ride has a time
    (*_, out), *between, (*_, back) = rides
    sign_on = int(timetable.departure[trips[0]]) - out - rules.sign_on
    sign_off = int(timetable.arrival[trips[-1]]) + back + rules.sign_off
    driving, stretch, breaks, before = 0, sign_on, [], None
    for trip, (*_, ride) in zip(trips, [rides[0], *between], strict=True):
        departure, arrival = int(timetable.departure[trip]), int(timetable.arrival[trip])
        if before is not None and timetable.follows[before] != trip:  # else it stays on the train: no wait at all
            ready = int(timetable.arrival[before])
            faults += _connection_faults(ready, departure, ride, timetable.describe(trip), rules)
            if departure - ride - ready >= rules.break_minutes:
                stretch = departure - ride
                breaks.append((ready, stretch))
        driving += arrival - departure
        if arrival - stretch > rules.max_stretch:
            worked = f"{arrival - stretch} min after the last break or signing on; {rules.max_stretch} are allowed"
            faults.append(f"{timetable.describe(trip)} ends {worked}.")
        before = trip
    lasts = sign_off - sign_on
    if driving > rules.max_driving:
        faults.append(f"It drives {driving} min; {rules.max_driving} are allowed.")
    if lasts > rules.max_duty:
        hours = f"from {clock(sign_on)} to {clock(sign_off)}"
        faults.append(f"It lasts {lasts} min, {hours}; {rules.max_duty} are allowed.")
    if rules.meal_window is not None and not _eats(sign_on, sign_off, breaks, rules.break_minutes, rules.meal_window):
        earliest, latest = rules.meal_window
        faults.append(f"No break begins between {clock(earliest)} and {clock(latest)}, and it is on duty all the time.")
    ridden = sum(ride for *_, ride in rides)
    return faults, rules.fixed_cost + rules.minute_cost * lasts + rules.deadhead_cost * ridden


def rides_of(trips: Sequence[int], timetable: Timetable, rules: CrewRules, depot: int) -> list[tuple[int, int, int]]:
    """(from, to, minutes) before each trip, and home; 0 minutes where the crew is there already, or on the train."""
    first, last = timetable.origin[trips[0]], timetable.destination[trips[-1]]
    home = depot if rules.same_depot else min(timetable.depots, key=lambda end: timetable.deadhead[last, end])
    legs = [(depot, first)]
    legs += [(timetable.destination[i], timetable.origin[j]) for i, j in itertools.pairwise(trips)]
    legs += [(last, home)]
    rides = [(int(here), int(there), int(timetable.deadhead[here, there])) for here, there in legs]
    for k, (i, j) in enumerate(itertools.pairwise(trips), 1):
        if timetable.follows[i] == j:
            rides[k] = (*rides[k][:2], 0)
    return rides


def _ride_faults(rides: Sequence[tuple[int, int, int]], timetable: Timetable, rules: CrewRules) -> Iterator[str]:
    for here, there, minutes in rides:
        way = f"From {timetable.stations[here]} to {timetable.stations[there]}"
        if minutes >= NO_WAY:
            yield f"{way} there is no way."
        elif minutes > rules.max_deadhead:
            yield f"{way} the ride takes {minutes} min; {rules.max_deadhead} are allowed."


def _connection_faults(ready: int, departure: int, ride: int, trip: str, rules: CrewRules) -> Iterator[str]:
    gap = departure - ready
    if gap < 0:
        yield f"{trip} leaves {-gap} min before the crew has arrived."
    elif gap < ride + rules.min_connection:
        needed = f"{ride} for the ride and {rules.min_connection} to change" if ride else f"{rules.min_connection}"
        yield f"{trip} leaves {gap} min after the crew has arrived; {needed} are needed."
    elif gap > rules.max_wait:
        yield f"{trip} leaves {gap} min after the crew has arrived; {rules.max_wait} are allowed."


def _eats(
    sign_on: int, sign_off: int, breaks: Sequence[tuple[int, int]], minutes: int, window: tuple[int, int]
) -> bool:
    """Whether somebody on duty all through the window has a break of full length that begins within it."""
    earliest, latest = window
    if sign_on > earliest or sign_off < latest:
        return True
    return any(max(begin, earliest) + minutes <= end and begin <= latest for begin, end in breaks)


def _walk_links(trips: Sequence[int], timetable: Timetable, rules: CrewRules) -> tuple[list[str], float]:
    assert timetable.links is not None
    faults, cost = [], 0
    for before, trip in itertools.pairwise(trips):
        listed = (timetable.links[:, 0] == before) & (timetable.links[:, 1] == trip)
        if not listed.any():
            faults.append(f"{timetable.describe(trip)} may not follow {timetable.describe(before)}.")
        cost += int(timetable.links[listed, 2].sum())
    lasts = int(timetable.arrival[trips[-1]] - timetable.departure[trips[0]])
    if lasts > rules.max_duty:
        faults.append(f"It lasts {lasts} min; {rules.max_duty} are allowed.")
    return faults, float(cost)


def _check(rules: CrewRules) -> None:
    for item in fields(rules):
        value = getattr(rules, item.name)
        if item.type == "int" and not is_whole(value):
            raise TypeError(f"{item.name}: got {value!r}, expected whole minutes")
        if item.type == "float" and not (isinstance(value, numbers.Real) and not isinstance(value, bool)):
            raise TypeError(f"{item.name}: got {value!r}, expected a number")
        if item.type == "bool" and not isinstance(value, bool | np.bool_):
            raise TypeError(f"{item.name}: got {value!r}, expected True or False")
        if item.type in ("int", "float") and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{item.name}: got {value!r}, expected a number from 0 up")
        if item.type == "int" and value >= NO_WAY:
            raise ValueError(f"{item.name}: got {value!r}, expected fewer than {NO_WAY:,} minutes")
    at_work = rules.sign_on + rules.sign_off
    contradictions = [
        ("max_duty", rules.max_duty <= at_work, f"more than the {at_work} minutes of signing on and off"),
        ("max_driving", rules.max_driving < 1, "at least 1 minute"),
        ("max_stretch", rules.max_stretch <= rules.sign_on, f"more than the {rules.sign_on} minutes of signing on"),
        ("max_wait", rules.max_wait < rules.min_connection, f"at least min_connection, {rules.min_connection}"),
        ("max_wait", rules.max_wait < rules.break_minutes, f"at least break_minutes, {rules.break_minutes}"),
    ]
    for name, wrong, expected in contradictions:
        if wrong:
            raise ValueError(f"{name}: got {getattr(rules, name)}, expected {expected}")
    if not rules.explicit:
        _check_prices(rules.fixed_cost, rules.minute_cost, rules.deadhead_cost)
    if rules.meal_window is not None:
        _check_window(rules.meal_window)


def _check_prices(*prices: float) -> None:
    names = "fixed_cost, minute_cost, deadhead_cost"
    if not any(prices):
        raise ValueError(f"{names}: got 0 for all three, expected a price")
    if not CHEAP <= max(prices) <= DEAR:
        raise ValueError(
            f"{names}: got {max(prices):g} for the dearest, expected {CHEAP:g} to {DEAR:g} in some unit of money"
        )


def _check_window(window: tuple[int, int]) -> None:
    pair = isinstance(window, Sequence) and len(window) == 2
    if not (pair and all(map(is_whole, window))):
        raise TypeError(f"meal_window: got {window!r}, expected two whole minutes after midnight, such as (660, 840)")
    if not 0 <= window[0] <= window[1]:
        raise ValueError(f"meal_window: got {window!r}, expected its begin before its end")
