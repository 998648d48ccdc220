"""Shares, budgets and thresholds: worked values of the method's card, and what must hold for any input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import decision

CIFAR = [6.860, 14.350, 27.537, 41.715, 58.481]

# six images a..f at three exits
WORKED = torch.tensor(
    [[0.9, 0.95, 0.99], [0.8, 0.7, 0.9], [0.6, 0.9, 0.8], [0.5, 0.6, 0.7], [0.4, 0.8, 0.9], [0.3, 0.5, 0.6]]
)


def test_worked_shares():
    assert decision.exit_shares(0.75, 5).tolist() == pytest.approx([0.3278, 0.2458, 0.1844, 0.1383, 0.1037], abs=5e-5)
    assert decision.exit_shares(1.0, 4).tolist() == [0.25] * 4
    assert decision.exit_shares(0.0, 3).tolist() == [1, 0, 0]
    assert decision.exit_shares(math.inf, 3).tolist() == [0, 0, 1]
    assert decision.exit_shares(5.0, 1).tolist() == [1]


@given(st.floats(0, 1e300, allow_subnormal=False), st.integers(1, 12))
def test_shares_sum_to_one_and_fall_by_the_same_ratio(rho, exits):
    shares = decision.exit_shares(rho, exits)
    assert shares.shape == (exits,) and float(shares.sum()) == pytest.approx(1, abs=1e-6)
    assert (shares.diff() <= 1e-7).all() if rho <= 1 else (shares.diff() >= -1e-7).all()
    if 0.1 < rho < 10:
        assert (shares[1:] / shares[:-1]).tolist() == pytest.approx([rho] * (exits - 1), rel=1e-4)


def test_q_and_rho_are_the_same_formula():
    q = 0.3  # share k is z (1-q)^(k-1) q
    z = 1 / (1 - (1 - q) ** 5)
    assert decision.exit_shares(1 - q, 5).tolist() == pytest.approx([z * (1 - q) ** k * q for k in range(5)])


def test_worked_budgets():
    assert decision.solve_budget(CIFAR, 20.0) == pytest.approx(0.661, abs=5e-4)
    assert decision.solve_budget(CIFAR, 30.0) == pytest.approx(1.008, abs=5e-4)
    assert decision.mean_cost(decision.exit_shares(1.0, 5), CIFAR) == pytest.approx(29.8, abs=0.05)
    assert decision.solve_budget(CIFAR, CIFAR[0]) == 0
    assert decision.solve_budget(CIFAR, CIFAR[-1]) == math.inf
    assert decision.solve_budget([3.0], 3.0) == 0


@given(
    st.lists(st.floats(0.5, 100), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
)
def test_budget_is_met(increments, where):
    costs = torch.tensor(increments, dtype=torch.float64).cumsum(0).tolist()
    budget = costs[0] + where * (costs[-1] - costs[0])
    rho = decision.solve_budget(costs, budget)
    shares = decision.exit_shares(rho, len(costs))
    assert decision.mean_cost(shares, costs) == pytest.approx(budget, rel=1e-3)
    assert decision.solve_budget(costs, costs[0] + where * 0.9 * (costs[-1] - costs[0])) <= rho


def test_worked_thresholds():
    thresholds = decision.find_thresholds(WORKED, torch.tensor([1 / 2, 1 / 3, 1 / 6]))
    assert thresholds.tolist() == pytest.approx([0.6, 0.6, -math.inf])
    assert decision.choose_exit(WORKED, thresholds).tolist() == [0, 0, 0, 1, 1, 2]


def slow_thresholds(scores, shares):
    """One image after the other, in plain Python."""
    left, thresholds = list(range(len(scores))), []
    for k in range(len(shares) - 1):
        wanted = min(math.floor(shares[k] * len(scores) + 1e-9), len(left))
        best = sorted((scores[i][k] for i in left), reverse=True)[:wanted]
        thresholds.append(best[-1] if best else math.inf)
        left = [i for i in left if scores[i][k] < thresholds[-1]]
    return [*thresholds, -math.inf]


@given(st.integers(1, 5), st.integers(0, 30), st.integers(0, 10**6), st.sampled_from([3, 10, 10**6]))
def test_thresholds_equal_the_slow_way(exits, number, seed, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (number, exits), generator=generator).double() / levels
    counts = torch.rand(exits, generator=generator, dtype=torch.float64)
    shares = counts / counts.sum()
    got = decision.find_thresholds(scores, shares)
    assert got.tolist() == slow_thresholds(scores.tolist(), shares.tolist())


@given(st.integers(2, 5), st.integers(20, 60), st.integers(0, 10**6), st.floats(0.1, 3))
def test_planned_shares_are_realised_on_the_same_set(exits, number, seed, rho):
    scores = torch.rand(number, exits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = decision.exit_shares(rho, exits)
    realised = decision.choose_exit(scores, decision.find_thresholds(scores, shares)).bincount(minlength=exits) / number
    assert ((realised - shares).abs()[:-1] <= 1 / number + 1e-6).all()  # the floor; no ties among random doubles


def test_nobody_wanted_and_everybody_wanted():
    assert decision.find_thresholds(WORKED, [0.1, 0.1, 0.8]).tolist() == [math.inf, math.inf, -math.inf]
    everybody = decision.find_thresholds(WORKED, [1.0, 0.0, 0.0])
    assert everybody.tolist() == pytest.approx([0.3, math.inf, -math.inf])
    assert decision.find_thresholds(WORKED[:0], [0.5, 0.3, 0.2]).tolist() == [math.inf, math.inf, -math.inf]


def test_ties_leave_together_and_leave_fewer_for_later():
    scores = torch.tensor([[1.0, 0.9], [1.0, 0.8], [1.0, 0.7], [0.2, 0.6]])
    thresholds = decision.find_thresholds(scores, [0.25, 0.75])
    assert decision.choose_exit(scores, thresholds).tolist() == [0, 0, 0, 1]


def test_shares_in_float32_lose_nobody_to_rounding():
    scores = torch.arange(10_000, 0, -1).float()[:, None].expand(-1, 2) / 10_000
    thresholds = decision.find_thresholds(scores, torch.tensor([0.7, 0.3]))
    assert int((scores[:, 0] >= thresholds[0]).sum()) == 7000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decision.exit_shares(-0.1, 3), "rho: got -0.1"),
        (lambda: decision.exit_shares(math.nan, 3), "rho: got nan"),
        (lambda: decision.exit_shares(1.0, 0), "exits: got 0"),
        (
            lambda: decision.solve_budget(CIFAR, 6.0),
            "budget: got 6, expected between the first exit's 6.86 and the last's",
        ),
        (lambda: decision.solve_budget(CIFAR, 60.0), "budget: got 60"),
        (lambda: decision.solve_budget(CIFAR, math.nan), "budget: got nan"),
        (lambda: decision.solve_budget([1.0, 1.0], 1.0), "costs: got"),
        (lambda: decision.solve_budget([], 1.0), "costs: got"),
        (
            lambda: decision.find_thresholds(WORKED, [0.5, 0.5]),
            r"shares: got shape \(2,\), expected one share for each of 3",
        ),
        (lambda: decision.find_thresholds(WORKED, [0.5, 0.5, 0.5]), "sum to 1"),
        (lambda: decision.find_thresholds(WORKED, [1.5, -0.5, 0.0]), "shares >= 0"),
        (lambda: decision.find_thresholds(WORKED[0], [1.0]), r"confidence: got shape \(3,\)"),
        (lambda: decision.find_thresholds(WORKED * math.nan, [0.5, 0.3, 0.2]), "confidence: got NaN"),
        (lambda: decision.mean_cost([0.5, 0.5], [1.0]), r"shares: got shape \(2,\)"),
    ],
)
def test_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
