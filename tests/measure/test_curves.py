import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.measure import CostCurve

points = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1)), min_size=1, max_size=12)


def curve_of(pairs):
    return CostCurve([c for c, _ in pairs], [a for _, a in pairs])


@given(points)
def test_sorted_and_nothing_lost(pairs):
    curve = curve_of(pairs)
    assert list(zip(curve.costs, curve.accuracies, strict=True)) == sorted(pairs)


@given(points)
def test_the_front_is_monotone_and_dominates_every_point(pairs):
    front = curve_of(pairs).envelope()
    assert all(a < b for a, b in zip(front.costs, front.costs[1:], strict=False))
    assert all(a < b for a, b in zip(front.accuracies, front.accuracies[1:], strict=False))
    kept = list(zip(front.costs, front.accuracies, strict=True))
    assert set(kept) <= set(pairs)
    assert all(any(c <= cost and a >= accuracy for c, a in kept) for cost, accuracy in pairs)
    assert front.envelope() == front


@given(points, st.floats(0, 1))
def test_interpolation_stays_between_and_hits_the_points(pairs, share):
    curve = curve_of(pairs)
    cost = curve.costs[0] + share * (curve.costs[-1] - curve.costs[0])
    cost = min(max(cost, curve.costs[0]), curve.costs[-1])
    tolerance = 1e-9
    assert min(curve.accuracies) - tolerance <= curve.at_cost(cost) <= max(curve.accuracies) + tolerance
    for c in curve.costs:
        assert curve.at_cost(c) == max(a for other, a in pairs if other == c)


@given(points)
def test_cost_and_accuracy_are_inverse_on_the_front(pairs):
    front = curve_of(pairs).envelope()
    for cost, accuracy in zip(front.costs, front.accuracies, strict=True):
        assert front.cost_at_accuracy(accuracy) == cost


def test_by_hand():
    curve = CostCurve([4, 1, 2], [0.9, 0.5, 0.7])
    assert curve.costs == (1, 2, 4)
    assert curve.at_cost(3) == pytest.approx(0.8)
    assert curve.cost_at_accuracy(0.8) == pytest.approx(3)
    bumpy = CostCurve([1, 2, 3, 4], [0.5, 0.8, 0.6, 0.9])
    assert bumpy.cost_at_accuracy(0.8) == 2  # the first time it is reached
    assert bumpy.envelope() == CostCurve([1, 2, 4], [0.5, 0.8, 0.9])


@pytest.mark.parametrize("cost", [0.9, 4.1, math.nan])
def test_no_cost_outside(cost):
    with pytest.raises(ValueError, match="cost: got"):
        CostCurve([1, 4], [0.5, 0.9]).at_cost(cost)


@pytest.mark.parametrize("accuracy", [0.4, 0.95, math.nan])
def test_no_accuracy_outside(accuracy):
    with pytest.raises(ValueError, match="accuracy: got"):
        CostCurve([1, 4], [0.5, 0.9]).cost_at_accuracy(accuracy)


@pytest.mark.parametrize(("costs", "accuracies"), [([], []), ([1], []), ([1, 2], [0.5]), ([math.nan], [0.5])])
def test_bad_points(costs, accuracies):
    with pytest.raises(ValueError, match="accuracies"):
        CostCurve(costs, accuracies)
