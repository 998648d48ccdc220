"""A plan: the duties found, what they cost, and how far from the best possible that may be."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from course_lib.beyond.cg_p.rules import CrewRules, duty_cost, duty_violations, rules_for
from course_lib.beyond.cg_p.timetable import SHOWN, Timetable, clock

#: How the search ended: proven best, ended with a plan, proven impossible, stopped by the time limit or by hand.
Status = Literal["optimal", "feasible", "infeasible", "interrupted"]
#: Of the file that `CrewPlan.to_csv` writes.
COLUMNS = ("duty", "depot", "duty_cost", "trip", "origin", "departure", "destination", "arrival", "crew")


@dataclass(frozen=True)
class Duty:
    """One crew's day.  Iterating over it gives its trips."""

    trips: tuple[int, ...]  #: in the order of the timetable
    cost: float
    depot: int = -1  #: station where it begins, and ends under `same_depot`; -1 for the OR-Library form

    def __iter__(self) -> Iterator[int]:
        return iter(self.trips)

    def __len__(self) -> int:
        return len(self.trips)


@dataclass(frozen=True)
class Step:
    """One round of the search, as kept in a plan's history and given to a progress callback."""

    seconds: float  #: since the start
    phase: str  #: "volume", "reduced", "full", "dive", ...
    value: float  #: of the restricted master
    lower_bound: float  #: best proven so far; -inf as long as there is none
    columns: int  #: in the master
    added: int = 0  #: columns found in this round
    least_reduced_cost: float = float("nan")
    exact: bool = False  #: the pricing would have missed nothing


@dataclass(frozen=True, eq=False, repr=False)
class CrewPlan:
    """Duties for a timetable, with a proven lower bound where there is one.  `print(plan)` shows its summary."""

    duties: tuple[Duty, ...]
    cost: float  #: of the duties; nothing is added for uncovered trips
    lower_bound: float  #: proven, in whole units of cost, so perhaps above `lp_value`; -inf where nothing was
    gap: float  #: (cost - lower_bound) / cost; NaN where it is unknown
    uncovered: tuple[int, ...]  #: trips in no duty
    status: Status
    lp_value: float | None  #: of the linear program over all duties; None where it was not solved (fast mode)
    history: tuple[Step, ...]
    times: Mapping[str, float]  #: CPU seconds by phase
    timetable: Timetable
    rules: CrewRules
    mode: str = "exact"
    crews: int | None = None  #: asked for, in the OR-Library form
    estimate: float | None = None  #: of the least cost, not proven
    notes: tuple[str, ...] = ()  #: what else its reader should know, a sentence each

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"status: got {self.status!r}, expected one of {', '.join(get_args(Status))}")

    def __repr__(self) -> str:
        gap = "" if math.isnan(self.gap) else f", gap {self.gap + 0.0:.2%}"
        missing = f", {len(self.uncovered)} uncovered" if self.uncovered else ""
        return f"CrewPlan({self.status}, {_count(self.duties)}, cost {self.cost:,.1f}{gap}{missing})"

    def summary(self) -> str:
        """What was found, what is proven, and what is missing, on a few lines."""
        seconds = sum(self.times.values())
        covered = len(self.timetable) - len(self.uncovered)
        trips = "tasks" if self.rules.explicit else "trips"
        found = (
            f"{self.status}: {_count(self.duties)} for {covered} of {len(self.timetable)} {trips} "
            f"({self.mode} mode, {seconds:.1f} CPU seconds)"
        )
        if not self.duties:
            return "\n".join([found, *_first(self.notes)])
        rides = sum(map(len, self.duties)) - covered
        lines = [
            found,
            f"cost            {self.cost:>12,.1f}",
            f"proven bound    {_number(self.lower_bound)}{_gap(self.gap)}",
            *([] if self.estimate is None else [f"estimated least {_number(self.estimate)}  (not proven)"]),
            f"{trips} per duty  {covered / len(self.duties):>12.1f}{_passengers(rides)}",
        ]
        missing = [self.timetable.describe(trip) for trip in self.uncovered]
        if missing:
            reasons = [next((note for note in self.notes if note.startswith(who)), who) for who in missing[:SHOWN]]
            lines.append(f"uncovered: {len(missing)} {trips}; their cost is not in the cost above")
            lines += [f"  {line}" for line in _first(reasons, len(missing))]
        return "\n".join([*lines, *(note for note in self.notes if not note.startswith(tuple(missing)))])

    __str__ = summary

    def to_csv(self, path: str | Path) -> None:
        """One row for each trip of each duty, in the order worked; uncovered trips last, without a duty."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            covered: set[int] = set()
            for number, duty in enumerate(self.duties, 1):
                home = self.timetable.stations[duty.depot] if duty.depot >= 0 else ""
                for trip in duty:
                    # Whoever comes second to a trip that is already driven rides along.
                    role = "passenger" if trip in covered else "driver"
                    writer.writerow([number, home, duty.cost, *self._row(trip), role])
                covered.update(duty)
            writer.writerows(["", "", "", *self._row(trip), "uncovered"] for trip in self.uncovered)

    def _row(self, trip: int) -> tuple[str, ...]:
        table = self.timetable
        origin, destination = (table.stations[end[trip]] for end in (table.origin, table.destination))
        return table.names[trip], origin, clock(table.departure[trip]), destination, clock(table.arrival[trip])


def check_plan(plan: CrewPlan, timetable: Timetable, rules: CrewRules | None = None) -> list[str]:
    """What is wrong with a plan, one sentence for each violation; an empty list for a good one.

    Recomputed from the timetable, trip by trip: nothing of the pricing is used. A trip in two duties is fine, one crew
    rides along (and its driving limit counts the trip all the same), except in the OR-Library form.

    Args:
        rules: None are the defaults, or those of the OR-Library file.
    """
    rules = rules_for(timetable, rules)
    faults = []
    for number, duty in enumerate(plan.duties, 1):
        wrong = duty_violations(duty.trips, timetable, rules, duty.depot)
        faults += [f"Duty {number}: {sentence}" for sentence in wrong]
        cost = None if wrong else duty_cost(duty.trips, timetable, rules, depot=duty.depot)
        if cost is not None and not _same(cost, duty.cost):
            faults.append(f"Duty {number} costs {cost:,.1f}, not the {duty.cost:,.1f} it says.")
    if not _same(total := sum(duty.cost for duty in plan.duties), plan.cost):
        faults.append(f"The duties cost {total:,.1f} together, not the {plan.cost:,.1f} the plan says.")
    return faults + _coverage_faults(plan, timetable, rules) + _bound_faults(plan)


def _coverage_faults(plan: CrewPlan, timetable: Timetable, rules: CrewRules) -> list[str]:
    if plan.status == "infeasible" and not plan.duties:
        return []  # it claims nothing
    faults = []
    times = Counter(trip for duty in plan.duties for trip in duty)
    for trip in range(len(timetable)):
        if not times[trip] and trip not in plan.uncovered:
            faults.append(f"{timetable.describe(trip)} is in no duty, and not reported as uncovered.")
        if times[trip] and trip in plan.uncovered:
            faults.append(f"{timetable.describe(trip)} is reported as uncovered, but a duty has it.")
        if times[trip] > 1 and rules.explicit:
            faults.append(f"{timetable.describe(trip)} is in {times[trip]} duties, not in exactly one.")
    if plan.crews is not None and len(plan.duties) != plan.crews:
        faults.append(f"There are {len(plan.duties)} duties for exactly {plan.crews} crews.")
    return faults


def _bound_faults(plan: CrewPlan) -> list[str]:
    faults = []
    tolerance = 1e-6 * max(1.0, abs(plan.cost))
    if plan.lower_bound > plan.cost + tolerance and not plan.uncovered and plan.duties:
        faults.append(f"The lower bound, {plan.lower_bound:,.1f}, is above the cost, {plan.cost:,.1f}.")
    if plan.status == "optimal" and not plan.cost - plan.lower_bound <= tolerance:
        faults.append(f"It is called optimal at a cost of {plan.cost:,.1f}; {plan.lower_bound:,.1f} is proven.")
    gap = (plan.cost - plan.lower_bound) / plan.cost if plan.cost else 0.0
    if not math.isnan(plan.gap) and not abs(plan.gap - gap) <= 1e-6:
        faults.append(f"The gap is {gap:.4%}, not the {plan.gap:.4%} the plan says.")
    return faults


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(a))


def _count(duties: tuple[Duty, ...]) -> str:
    return f"{len(duties)} {'duty' if len(duties) == 1 else 'duties'}"


def _first(lines: Sequence[str], count: int | None = None) -> list[str]:
    """The first few, and how many of `count` are left out."""
    more = (len(lines) if count is None else count) - SHOWN
    return [*lines[:SHOWN], *([f"... and {more} more"] if more > 0 else [])]


def _number(value: float) -> str:
    return f"{value:>12,.1f}" if math.isfinite(value) else f"{'none':>12}"


def _gap(gap: float) -> str:
    return "" if math.isnan(gap) else f"  (gap {gap + 0.0:.2%})"


def _passengers(rides: int) -> str:
    return f"  ({rides} more as passenger{'s' * (rides != 1)})" if rides else ""
