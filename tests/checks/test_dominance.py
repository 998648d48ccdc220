"""The labelling that judges `dominates` finds what a list of all duties finds, on days made for each resource."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from course_lib.beyond.cg_p import DutyGraph, Timetable, duty_cost
from course_lib.checks.beyond import _dominance
from course_lib.checks.beyond._dominance import Label, dominates

DAYS = {
    "default": (3, ""),
    "long stretches forbidden": (290, "forgets_the_break"),
    "little driving": (209, "forgets_the_driving"),
    "short duties": (279, "forgets_the_sign_on"),
    "a meal between 11:00 and 13:00": (558, "forgets_the_meal"),
}


def reduced_costs(kind: str, seed: int) -> Iterator[float]:
    """Of every legal duty, by the plain rules."""
    rules, duals = _dominance._rules(kind), _dominance.prices(seed)
    table = Timetable.of(_dominance.day(seed), depots=["A"])
    graph = DutyGraph.of(table, rules)

    def extend(path: tuple[int, ...]) -> Iterator[float]:
        cost = duty_cost(path, table, rules)
        if cost is not None:
            yield cost - sum(duals[trip] for trip in path)
        for arc in graph.out_arcs[graph.out_start[path[-1]] : graph.out_start[path[-1] + 1]]:
            yield from extend((*path, int(graph.head[arc])))

    for trip in range(len(table)):
        yield from extend((trip,))


@pytest.mark.parametrize("kind", DAYS)
def test_the_least_reduced_cost_is_that_of_all_duties(kind: str):
    seed, mistake = DAYS[kind]
    trips, duals, rules = _dominance.day(seed), _dominance.prices(seed), _dominance._rules(kind)
    assert trips == sorted(trips, key=lambda trip: trip[2:])
    least = min(0.0, *reduced_costs(kind, seed))
    found = _dominance.least_reduced_cost(trips, duals, rules, dominates.reference)
    assert found["least reduced cost"] == pytest.approx(least)
    nothing_dropped = _dominance.least_reduced_cost(trips, duals, rules, lambda a, b: False)
    assert nothing_dropped["least reduced cost"] == pytest.approx(least)
    assert nothing_dropped["labels kept"] > found["labels kept"]
    if mistake:
        wrong = _dominance.least_reduced_cost(trips, duals, rules, dominates.wrong_answers[mistake])
        assert wrong["least reduced cost"] > least


def test_of_equal_labels_one_survives():
    twins = [Label(0.0, 480, 60, 480, True, number) for number in range(4)]
    assert _dominance.survivors(twins, dominates.reference) == twins[:1]
    assert _dominance.survivors(twins, dominates.wrong_answers["kills_its_twin"]) == []
