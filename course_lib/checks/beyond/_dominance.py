"""The fourth check of `beyond/cg_p`: when one beginning of a duty may be dropped for another.

The labelling that calls the answer is written for this check, on days between two stations; it shares nothing with
`course_lib.beyond.cg_p.labelling`. Its least reduced costs equal those of all duties listed one by one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from course_lib.checks import Case, Check

if TYPE_CHECKING:
    from course_lib.beyond.cg_p import CrewRules


class Label(NamedTuple):
    """The beginning of a duty, up to and including one trip."""

    cost: float  #: reduced cost so far
    start: int  #: minute of signing on; how long the duty may still last depends on it
    driving: int  #: minutes driven
    stretch: int  #: minute at which the present stretch of work began: signing on, or the end of the last break
    fed: bool  #: no meal is owed any more
    number: int  #: the how manieth of its trip; no two labels of a trip have the same


Dominates = Callable[[Label, Label], bool]
Trip = tuple[str, str, int, int]


def survivors(labels: list[Label], dominates: Dominates) -> list[Label]:
    """The labels of one trip that no other dominates."""
    return [b for b in labels if not any(dominates(a, b) for a in labels if a is not b)]


# Days between two stations -------------------------------------------------------------------------------------------


def day(seed: int) -> list[Trip]:
    """Twelve trips there and back, in the order of their departure; crews live in A."""
    drawn = random.Random(seed)
    starts = sorted(drawn.randrange(420, 960, 5) for _ in range(12))
    ends = [drawn.choice([("A", "B"), ("B", "A")]) for _ in range(12)]
    trips = [(*way, start, start + drawn.randrange(25, 70, 5)) for start, way in zip(starts, ends, strict=True)]
    return sorted(trips, key=lambda trip: trip[2:])


def prices(seed: int) -> list[float]:
    """A dual for each trip."""
    drawn = random.Random(1000 + seed)
    return [float(drawn.randrange(150, 330, 10)) for _ in range(12)]


def least_reduced_cost(trips: list[Trip], duals: list[float], rules: CrewRules, dominates: Dominates) -> Any:
    """The least reduced cost that the labelling finds, and how many labels it keeps."""
    kept: list[list[Label]] = []
    least, count = 0.0, 0
    lo, hi = rules.meal_window or (-1, 10_000)
    for j, (origin, destination, departure, arrival) in enumerate(trips):
        reached = []
        if origin == "A":
            on = departure - rules.sign_on
            reached.append((rules.fixed_cost - on - duals[j], on, arrival - departure, on, on > lo))
        for i in range(j):
            gap, rests = departure - trips[i][3], departure - trips[i][3] >= rules.break_minutes
            if trips[i][1] != origin or not rules.min_connection <= gap <= rules.max_wait:
                continue
            eats = rests and max(trips[i][3], lo) <= min(departure - rules.break_minutes, hi)
            reached += [
                (a.cost - duals[j], a.start, a.driving + arrival - departure, departure if rests else a.stretch,
                 a.fed or eats)
                for a in kept[i]
            ]  # fmt: skip
        legal = [
            Label(cost, start, driving, stretch, fed, number)
            for number, (cost, start, driving, stretch, fed) in enumerate(reached)
            if driving <= rules.max_driving
            and arrival - stretch <= rules.max_stretch
            and arrival + rules.sign_off - start <= rules.max_duty
        ]
        kept.append(survivors(legal, dominates))
        count += len(kept[-1])
        if destination == "A":
            off = arrival + rules.sign_off
            least = min([least] + [label.cost + off for label in kept[-1] if label.fed or off < hi])
    return {"least reduced cost": round(least, 6), "labels kept": count}


@cache
def _rules(kind: str) -> CrewRules:
    from course_lib.beyond.cg_p import CrewRules

    return {
        "default": CrewRules(),
        "long stretches forbidden": CrewRules(max_stretch=150),
        "little driving": CrewRules(max_driving=200),
        "short duties": CrewRules(max_duty=300),
        "a meal between 11:00 and 13:00": CrewRules(meal_window=(660, 780)),
    }[kind]


def _priced(seed: int, kind: str, answer: Dominates) -> Any:
    return least_reduced_cost(day(seed), prices(seed), _rules(kind), answer)


# The answers ---------------------------------------------------------------------------------------------------------


def _by_hand(a: Label, b: Label) -> bool:
    """One respect after the other; a draw goes to the first."""
    better = [
        (b.cost - a.cost),
        (a.start - b.start),
        (b.driving - a.driving),
        (a.stretch - b.stretch),
        (int(a.fed) - int(b.fed)),
    ]
    if min(better) < 0:
        return False
    return max(better) > 0 or a.number < b.number


def _compare(
    a: Label,
    b: Label,
    *,
    leave_out: str = "",
    smaller: tuple[str, ...] = ("cost", "driving"),
    some: Callable[[list[bool]], bool] = all,
    ties: Callable[[Label, Label], bool] = lambda a, b: a.number < b.number,
) -> bool:
    names = [name for name in Label._fields[:-1] if name != leave_out]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    if all(one == other for one, other in pairs):
        return ties(a, b)
    return some([(x <= y) if name in smaller else (x >= y) for name, (x, y) in zip(names, pairs, strict=True)])


def _strictly(a: Label, b: Label) -> bool:
    return a.cost < b.cost and a.start > b.start and a.driving < b.driving and a.stretch > b.stretch and a.fed >= b.fed


_OLD = Label(-60.0, 480, 120, 480, True, 0)
_LATER_BREAK = _OLD._replace(cost=-50.0, stretch=560, number=1)


def _pair(name: str, show: str, **better: Any) -> Case:
    """The second label is worse in cost and better in what is named, or the other way round."""
    return Case.of(name, _OLD, _OLD._replace(number=1, **better), show=show)


def _reduced_cost(name: str, kind: str, seed: int) -> Case:
    return Case(name, partial(_priced, seed, kind), show=f"twelve trips between A and B, {kind}")


dominates = Check(
    "dominates",
    chapter="beyond/cg_p",
    title="when a label may be dropped",
    level=5,
    minutes=45,
    reference=_by_hand,
    cases=[
        _pair("a is cheaper, and otherwise they are equal", "costs -60 and -50", cost=-50.0),
        _pair(
            "a is cheaper, b began its stretch of work later",
            "costs -60 and -50, stretches since 8:00 and 9:20",
            cost=-50.0,
            stretch=560,
        ),
        _pair("a is cheaper, b signed on later", "costs -60 and -50, since 8:00 and 8:05", cost=-50.0, start=485),
        _pair("b signed on earlier, and otherwise they are equal", "since 8:00 and 7:55", start=475),
        _pair("a is cheaper, b has driven less", "costs -60 and -50, 120 and 90 minutes", cost=-50.0, driving=90),
        Case.of(
            "a is cheaper and owes a meal, b does not",
            _OLD._replace(fed=False),
            _OLD._replace(cost=-50.0, number=1),
            show="costs -60 and -50",
        ),
        _pair("b is cheaper", "costs -60 and -70", cost=-70.0),
        _pair("a is no worse in anything and better in the break", "stretches since 8:00 and 7:40", stretch=460),
        _pair("a owes no meal, b does", "otherwise equal", fed=False),
        Case(
            "two equal labels: how many stay",
            lambda answer: len(survivors([_OLD, _OLD._replace(number=1)], answer)),
            show="numbers 0 and 1, otherwise equal",
        ),
        Case(
            "three equal labels and a cheaper one of another kind",
            lambda answer: len(survivors([_OLD._replace(number=k) for k in range(3)] + [_LATER_BREAK], answer)),
            show="how many stay",
        ),
        _reduced_cost("a day on which the break decides", "long stretches forbidden", 290),
        _reduced_cost("a day on which the driving decides", "little driving", 209),
        _reduced_cost("a day on which the sign-on decides", "short duties", 279),
        _reduced_cost("a day on which the meal decides", "a meal between 11:00 and 13:00", 558),
    ],
    wrong_answers={
        "forgets_the_break": partial(_compare, leave_out="stretch"),
        "earlier_start_is_better": partial(_compare, smaller=("cost", "start", "driving")),
        "kills_its_twin": partial(_compare, ties=lambda a, b: True),
        "keeps_both_twins": partial(_compare, ties=lambda a, b: False),
        "forgets_the_sign_on": partial(_compare, leave_out="start"),
        "forgets_the_driving": partial(_compare, leave_out="driving"),
        "forgets_the_meal": partial(_compare, leave_out="fed"),
        "forgets_the_cost": partial(_compare, leave_out="cost"),
        "earlier_stretch_is_better": partial(_compare, smaller=("cost", "driving", "stretch")),
        "more_driving_is_better": partial(_compare, smaller=("cost",)),
        "better_in_anything": partial(_compare, some=any),
        "cheaper_is_enough": lambda a, b: (a.cost, a.number) < (b.cost, b.number),
        "better_in_everything": _strictly,
        "owing_is_better": partial(_compare, smaller=("cost", "driving", "fed")),
        "only_equally_fed": lambda a, b: a.fed == b.fed and _by_hand(a, b),
        "asks_the_number_always": lambda a, b: a.number < b.number and _by_hand(a, b),
        "looks_the_wrong_way": lambda a, b: _by_hand(b, a),
    },
    diagnoses={
        "forgets_the_break": "You dropped a dearer label whose crew had rested later. Which of the two can still drive "
        "a long trip without a break?",
        "earlier_start_is_better": "You take the earlier sign-on for the better one. A duty may last nine hours from "
        "signing on: which of the two crews goes home first?",
        "kills_its_twin": "Of two equal labels none stayed: each dropped the other. In which of the two directions may "
        "the answer be yes?",
        "keeps_both_twins": "Of two equal labels both stayed. That finds the right duty; how many labels are there "
        "after ten trips, if each trip doubles them?",
        "forgets_the_sign_on": "You dropped a dearer label that had signed on later. Which of the two has more of its "
        "duty left?",
        "forgets_the_driving": "You dropped a dearer label that had driven less. Which of the two may still take "
        "another trip when the driving limit is near?",
        "forgets_the_meal": "You dropped a dearer label that had eaten. Which of the two may sign off in the afternoon "
        "without another break?",
        "forgets_the_cost": "You dropped a cheaper label. What is the labelling looking for?",
        "earlier_stretch_is_better": "You take the longer stretch of work for the better one. From what moment on does "
        "the limit of 270 minutes count?",
        "more_driving_is_better": "You take the label that has driven more for the better one. What does the limit on "
        "driving leave to each of the two?",
        "better_in_anything": "You drop a label as soon as another is better in one respect. What may the dropped one "
        "still be able to do that the other cannot?",
        "cheaper_is_enough": "You compare costs only. Can the cheaper crew still do everything that the dearer one "
        "can?",
        "better_in_everything": "You drop a label only if another is better in every respect. What if they are equal "
        "in one, as they are in most?",
        "owing_is_better": "You take the label that owes a meal for the better one. Which of the two may sign off when "
        "it likes?",
        "only_equally_fed": "You compare only labels that are alike in the meal. Is there anything that a crew may do "
        "only before it has eaten?",
        "asks_the_number_always": "You drop a label only for one with a smaller number. For which pairs does the "
        "number have to decide?",
        "looks_the_wrong_way": "You say when b may drop a. Which of the two does `dominates(a, b)` ask about?",
    },
    accepted=[
        _compare,
        lambda a, b: (
            a.cost <= b.cost
            and a.start >= b.start
            and a.driving <= b.driving
            and a.stretch >= b.stretch
            and a.fed >= b.fed
            and (a[:5] != b[:5] or a.number > b.number)
        ),
        lambda a, b: (
            (
                (a.cost, -a.start, a.driving, -a.stretch, not a.fed)
                != (b.cost, -b.start, b.driving, -b.stretch, not b.fed)
                and all(
                    x <= y
                    for x, y in zip(
                        (a.cost, -a.start, a.driving, -a.stretch, not a.fed),
                        (b.cost, -b.start, b.driving, -b.stretch, not b.fed),
                        strict=True,
                    )
                )
            )
            or (a[:5] == b[:5] and a.number < b.number)
        ),
    ],
    hints=(
        "For each of the five fields ask: which of two crews, equal in all else, can do everything that the other can, "
        "and for no more money? Then ask what happens if they are equal in all five.",
        "a: cost -60, signed on 8:00, 120 min driven, working since 8:00, fed. b: cost -50, signed on 8:00, 120 min "
        "driven, working since 9:20, fed. Neither dominates: a is cheaper, b has rested later.",
        "cost <=, start >=, driving <=, stretch >=, fed >=, all five; and then: some of the five differ, or "
        "a.number < b.number.",
    ),
    shows="A label may be dropped only if another can do all that it can, and for no more; forget one resource and the "
    "method stops early, proud of a false optimum.",
    tolerance=1e-6,
)
