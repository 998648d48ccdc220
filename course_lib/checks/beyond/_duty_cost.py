"""The first check of `beyond/cg_p`: what a duty costs, if it is legal.  `cg_p` has it with the others.

The reference looks at the crew once a minute.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from course_lib.checks import Case, Check

if TYPE_CHECKING:
    from course_lib.beyond.cg_p import CrewRules

Trips = Sequence[tuple[int, int]]


def _minute_by_minute(trips: Trips, rules: CrewRules) -> float | None:
    """Walk through the day and look at the crew once a minute."""
    on, off = trips[0][0] - rules.sign_on, trips[-1][1] + rules.sign_off
    driving, idle, working_since = 0, 0, on
    for minute in range(on, off):
        at_wheel = any(start <= minute < end for start, end in trips)
        arrives = any(end == minute + 1 for _, end in trips)
        waiting = trips[0][0] <= minute < trips[-1][1] and not at_wheel
        if waiting:
            idle += 1
        elif idle:
            if not rules.min_connection <= idle <= rules.max_wait:
                return None
            if idle >= rules.break_minutes:
                working_since = minute
            idle = 0
        driving += at_wheel
        if driving > rules.max_driving or (arrives and minute + 1 - working_since > rules.max_stretch):
            return None
    return None if off - on > rules.max_duty else rules.fixed_cost + rules.minute_cost * (off - on)


def _driven(trips: Trips) -> int:
    return sum(arrival - departure for departure, arrival in trips)


def _cost(
    trips: Trips,
    rules: CrewRules,
    *,
    first: Callable[[int, CrewRules], int] = lambda departure, rules: departure - rules.sign_on,
    is_break: Callable[[int, CrewRules], bool] = lambda wait, rules: wait >= rules.break_minutes,
    too_long: Callable[[int, int], bool] = lambda value, limit: value > limit,
    again: Callable[[int, int], int] = lambda arrival, departure: departure,
    paid: Callable[[Trips, CrewRules], int] = lambda trips, rules: (
        trips[-1][1] + rules.sign_off - trips[0][0] + rules.sign_on
    ),
    lasts: Callable[[Trips, CrewRules], int] | None = None,
    stretch: bool = True,
    driving: bool = True,
    drives: Callable[[Trips], int] = _driven,
    ended: bool = True,
    waits: bool = True,
    home: bool = False,
    illegal: float | None = None,
) -> float | None:
    since = first(trips[0][0], rules)
    for k, (departure, arrival) in enumerate(trips):
        if k:
            wait = departure - trips[k - 1][1]
            if waits and not rules.min_connection <= wait <= rules.max_wait:
                return illegal
            if is_break(wait, rules):
                since = again(trips[k - 1][1], departure)
        final = k == len(trips) - 1
        worked = arrival + (rules.sign_off if home and final else 0) - since
        if stretch and (ended or final) and too_long(worked, rules.max_stretch):
            return illegal
    if driving and too_long(drives(trips), rules.max_driving):
        return illegal
    length = trips[-1][1] + rules.sign_off - trips[0][0] + rules.sign_on
    if too_long(lasts(trips, rules) if lasts else length, rules.max_duty):
        return illegal
    return rules.fixed_cost + rules.minute_cost * paid(trips, rules)


def _rules() -> CrewRules:
    from course_lib.beyond.cg_p import CrewRules

    return CrewRules()


def _hours(*trips: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return trips


_FOUR = {third: _hours((480, 540), (560, 620), (third, third + 60), (720, 780)) for third in (640, 650)}


def _duties(name: str, show: str, *duties: Trips, rules: Callable[[], CrewRules] = _rules) -> Case:
    """Several duties at once, of which at least one is legal: a cost is never mistaken for no answer."""
    return Case(name, lambda answer: [answer(duty, rules()) for duty in duties], show=show)


def _cheap() -> CrewRules:
    from course_lib.beyond.cg_p import CrewRules

    return CrewRules(sign_on=20, sign_off=5, fixed_cost=100.0, minute_cost=2.0, break_minutes=25, max_stretch=200)


def _between(*waits: int, length: int = 60, start: int = 480) -> tuple[tuple[int, int], ...]:
    trips = [(start, start + length)]
    for wait in waits:
        trips.append((trips[-1][1] + wait, trips[-1][1] + wait + length))
    return tuple(trips)


duty_cost = Check(
    "duty_cost",
    chapter="beyond/cg_p",
    title="what a duty costs, if it is legal",
    level=2,
    minutes=12,
    reference=_minute_by_minute,
    cases=[
        _duties("two trips, 20 minutes between them", "8:00-9:00, 9:20-10:20", _FOUR[640][:2]),
        _duties(
            "all four trips: the third at 10:40, and at 10:50",
            "8:00-9:00, 9:20-10:20, then 10:40 or 10:50, 12:00-13:00",
            _FOUR[640],
            _FOUR[650],
        ),
        _duties(
            "280 minutes after signing on, 265 after the first departure; and 270 after signing on",
            "trips of 125 and 120 minutes, 20 between; the second 10 minutes shorter",
            ((480, 605), (625, 745)),
            ((480, 605), (625, 735)),
        ),
        _duties(
            "a wait of exactly 30 minutes, and of 29",
            "trips of 2 hours",
            _between(30, length=120),
            _between(29, length=120),
        ),
        _duties(
            "a break of 60 minutes, then 240 of work, 265, and 280",
            "a stretch begins when the break ends",
            ((480, 540), (600, 720), (740, 840)),
            ((480, 540), (600, 740), (760, 865)),
            ((480, 540), (600, 740), (760, 880)),
        ),
        _duties(
            "255 minutes of work, then a break and an hour; and 295, and the same",
            "trips of 140 and 80 minutes, or of 140 and 120; the break lasts 40 minutes",
            ((480, 620), (640, 720), (760, 820)),
            ((480, 620), (640, 760), (800, 860)),
        ),
        _duties(
            "330 minutes of driving, and 331",
            "two trips with 40 minutes between them",
            ((480, 645), (685, 850)),
            ((480, 645), (685, 851)),
        ),
        _duties(
            "540 minutes from sign-on to sign-off, 541, and 590",
            "waits are long enough for breaks",
            ((480, 580), (700, 800), (890, 990)),
            ((480, 580), (700, 800), (891, 991)),
            ((480, 580), (700, 800), (940, 1040)),
        ),
        _duties("a wait of 10 minutes, and of 9", "trips of an hour", _between(10), _between(9)),
        _duties("a wait of 150 minutes, and of 151", "trips of an hour", _between(150), _between(151)),
        _duties(
            "a single trip of 245 minutes, and of 260",
            "260 and 275 minutes after signing on",
            ((480, 725),),
            ((480, 740),),
        ),
        _duties(
            "other rules",
            "sign-on 20, sign-off 5, fixed 100, a minute 2, break 25, stretch 200",
            _between(25, length=90),
            _between(24, length=90),
            rules=_cheap,
        ),
    ],
    wrong_answers={
        "break_from_first_departure": functools.partial(_cost, first=lambda departure, rules: departure),
        "every_wait_is_a_break": functools.partial(_cost, is_break=lambda wait, rules: True),
        "unpaid_sign_on": functools.partial(_cost, paid=lambda trips, rules: trips[-1][1] - trips[0][0]),
        "break_must_be_longer": functools.partial(_cost, is_break=lambda wait, rules: wait > rules.break_minutes),
        "no_wait_is_a_break": functools.partial(_cost, is_break=lambda wait, rules: False),
        "break_counts_as_work": functools.partial(_cost, again=lambda arrival, departure: arrival),
        "forgets_the_stretch": functools.partial(_cost, stretch=False),
        "forgets_the_driving": functools.partial(_cost, driving=False),
        "forgets_the_waits": functools.partial(_cost, waits=False),
        "forgets_the_length": functools.partial(_cost, lasts=lambda trips, rules: 0),
        "length_without_signing": functools.partial(_cost, lasts=lambda trips, rules: trips[-1][1] - trips[0][0]),
        "limits_are_too_strict": functools.partial(_cost, too_long=lambda value, limit: value >= limit),
        "stretch_until_signing_off": functools.partial(_cost, home=True),
        "pays_driving_only": functools.partial(
            _cost, paid=lambda trips, rules: sum(b - a for a, b in trips) + rules.sign_on + rules.sign_off
        ),
        "measures_the_last_stretch_only": functools.partial(_cost, ended=False),
        "signs_on_after_a_break": functools.partial(_cost, again=lambda arrival, departure: departure - 15),
        "waits_are_driving": functools.partial(_cost, drives=lambda trips: trips[-1][1] - trips[0][0]),
        "default_limits": lambda trips, rules: _cost(trips, _rules()),
        "illegal_is_infinite": functools.partial(_cost, illegal=math.inf),
        "illegal_is_free": functools.partial(_cost, illegal=0.0),
    },
    diagnoses={
        "break_from_first_departure": "You let the first stretch begin with the first departure. What has the crew "
        "done in the quarter of an hour before?",
        "every_wait_is_a_break": "You start a new stretch after every wait. How long must a wait be to count as a "
        "break?",
        "unpaid_sign_on": "You pay from the first departure to the last arrival. When does the crew come to work, and "
        "when does it leave?",
        "break_must_be_longer": "A wait of exactly the break's length is no break for you. What do the rules say, "
        "`at least` or `more than`?",
        "no_wait_is_a_break": "Your stretch runs from signing on to the end, whatever the crew waits. What ends a "
        "stretch of work?",
        "break_counts_as_work": "Your new stretch begins when the break begins. From when on does the crew work again?",
        "forgets_the_stretch": "You allowed a stretch that is too long. How many minutes may pass without a break?",
        "forgets_the_driving": "You allowed more driving than the rules do. Which minutes of a duty are driving?",
        "forgets_the_waits": "You allowed waits that are too short or too long. What do `min_connection` and "
        "`max_wait` ask?",
        "forgets_the_length": "You allowed a duty that is too long. From when to when does a duty last?",
        "length_without_signing": "You measured the duty from the first departure to the last arrival. What belongs "
        "to its length as well?",
        "limits_are_too_strict": "You forbid duties that reach a limit exactly. Is the limit itself still allowed?",
        "stretch_until_signing_off": "You counted signing off into the last stretch. Up to which moment is a stretch "
        "measured?",
        "pays_driving_only": "You pay signing and driving, but no waiting. Is a crew that waits at work?",
        "measures_the_last_stretch_only": "You measured the stretch in which the duty ends, and no earlier one. What "
        "did the crew do before its last break?",
        "signs_on_after_a_break": "You let the crew sign on again after its break. When does the new stretch begin?",
        "waits_are_driving": "You counted waits as driving. Which minutes does the crew drive?",
        "default_limits": "You are right under the default rules, and not under others. Where do the numbers of this "
        "agreement stand?",
        "illegal_is_infinite": "You gave an illegal duty an infinite cost. What does the task ask you to return?",
        "illegal_is_free": "You gave an illegal duty the cost 0. What would a solver do with a free duty?",
    },
    accepted=[
        _cost,
        lambda trips, rules: (
            None
            if any(
                not rules.min_connection <= later[0] - earlier[1] <= rules.max_wait
                for earlier, later in itertools.pairwise(trips)
            )
            or sum(end - start for start, end in trips) > rules.max_driving
            or trips[-1][1] - trips[0][0] > rules.max_duty - rules.sign_on - rules.sign_off
            or any(
                end
                - max(
                    [trips[0][0] - rules.sign_on]
                    + [
                        later[0]
                        for earlier, later in itertools.pairwise(trips[: k + 1])
                        if later[0] - earlier[1] >= rules.break_minutes
                    ]
                )
                > rules.max_stretch
                for k, (_, end) in enumerate(trips)
            )
            else rules.fixed_cost + rules.minute_cost * (trips[-1][1] - trips[0][0] + rules.sign_on + rules.sign_off)
        ),
    ],
    hints=(
        "Keep one number while you walk through the trips: since when the crew has been working without a break. It "
        "changes only at waits that are long enough.",
        "8:00-9:00, 9:20-10:20, 10:40-11:40, 12:00-13:00: sign-on 7:45, no wait reaches 30 minutes, so the last trip "
        "ends 315 minutes into the stretch: None. With 10:50 there is a wait of 30 at 10:20; work begins again at "
        "10:50, and the rest is legal: 480 + 330 = 810.",
        "since = first departure - sign_on; for each later trip: if wait >= break_minutes then since = departure; for "
        "every trip: arrival - since > max_stretch is illegal. Then driving, length, waits.",
    ),
    shows="So ten minutes can be worth a whole crew: legality is a sharp edge, and costs jump there.",
    tolerance=1e-6,
)
