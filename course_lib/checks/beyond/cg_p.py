"""Checks of `beyond/cg_p`: what a duty costs, which column to add, what is proven, and which label may be dropped.

The references walk through days, count in loops and try scales; they share nothing with `course_lib.beyond.cg_p`.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib.checks import Case, Check
from course_lib.checks.beyond._dominance import Label, dominates, survivors
from course_lib.checks.beyond._duty_cost import duty_cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TASKS", "Label", "best_column", "dominates", "duty_cost", "lower_bound", "survivors"]

CHAPTER = "beyond/cg_p"

# The best column -----------------------------------------------------------------------------------------------------


def _listed(costs: NDArray[np.float64], cover: NDArray[np.bool_], duals: NDArray[np.float64]) -> int | None:
    """Duty by duty, trip by trip."""
    found, least = None, -1e-6
    for p in range(len(costs)):
        reduced = float(costs[p])
        for i in range(cover.shape[1]):
            if cover[p, i]:
                reduced -= float(duals[i])
        if reduced < least:
            found, least = p, reduced
    return found


def _column(
    costs: NDArray[np.float64],
    cover: NDArray[np.bool_],
    duals: NDArray[np.float64],
    *,
    reduce: Callable[..., NDArray[np.float64]] = lambda costs, worth, trips: costs - worth,
    score: Callable[..., NDArray[np.float64]] | None = None,
    margin: float = -1e-6,
    give: Callable[[int, NDArray[np.float64]], Any] = lambda p, reduced: p,
) -> Any:
    if not len(costs):
        return None
    asked = costs, cover @ duals, np.maximum(cover.sum(1), 1)
    reduced = reduce(*asked)
    p = int((reduced if score is None else score(*asked)).argmin())
    return give(p, reduced) if reduced[p] < margin else None


_COSTS = np.array([570.0, 570.0, 570.0, 650.0, 650.0, 620.0])
_COVER = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).astype(bool)
_FIRST = np.full(3, 570.0)


def _columns(name: str, *triples: tuple[Any, Any, Any], show: str) -> Case:
    """Several questions at once, of which at least one has an index for an answer."""

    def run(answer: Callable[..., Any]) -> Any:
        return [answer(*(np.array(part) for part in triple)) for triple in triples]

    return Case(name, run, show=show)


def _random_columns(seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    drawn = random.Random(seed)
    cover = np.array([[drawn.random() < 0.4 for _ in range(6)] for _ in range(9)])
    costs = np.array([510.0 + 5 * drawn.randrange(60) for _ in range(9)])
    return costs, cover, np.array([5.0 * drawn.randrange(90) for _ in range(6)])


best_column = Check(
    "best_column",
    chapter=CHAPTER,
    title="the duty that saves most at given prices",
    level=2,
    minutes=13,
    reference=_listed,
    cases=[
        _columns(
            "three trips at 570 each, six duties", (_COSTS, _COVER, _FIRST), show="singles 570, pairs 650, 650 and 620"
        ),
        _columns(
            "the same at 325 each and at 285 each: nothing below its price, and one duty",
            (_COSTS, _COVER, np.full(3, 285.0)),
            (_COSTS, _COVER, np.array([330.0, 330.0, 285.0])),
            show="duals (285, 285, 285), then (330, 330, 285)",
        ),
        _columns(
            "a reduced cost of -1e-12 is rounding",
            (_COSTS, _COVER, np.array([0.0, 570.0 + 1e-9, 0.0])),
            (_COSTS, _COVER, np.array([0.0, 571.0, 0.0])),
            show="duals (0, 570.000000001, 0), then (0, 571, 0)",
        ),
        _columns(
            "two duties that save the same",
            (_COSTS[:5], _COVER[:5], _FIRST),
            show="singles 570, two pairs 650, all prices 570",
        ),
        _columns("20 random cases", *(_random_columns(seed) for seed in range(20)), show="nine duties, six trips"),
        _columns(
            "no duties at all, and one that is worth it",
            (np.zeros(0), np.zeros((0, 3), dtype=bool), _FIRST),
            (_COSTS[3:4], _COVER[3:4], _FIRST),
            show="none, then one of 650",
        ),
    ],
    wrong_answers={
        "cheapest_cost": functools.partial(_column, score=lambda costs, worth, trips: costs),
        "adds_duals": functools.partial(_column, reduce=lambda costs, worth, trips: costs + worth),
        "accepts_noise": functools.partial(_column, margin=0.0),
        "always_answers": functools.partial(_column, margin=math.inf),
        "first_below_price": functools.partial(
            _column, score=lambda costs, worth, trips: np.where(costs - worth < -1e-6, -1.0, 0.0)
        ),
        "least_worth_having": functools.partial(
            _column, score=lambda costs, worth, trips: np.where(costs - worth < -1e-6, worth - costs, math.inf)
        ),
        "most_valuable_trips": functools.partial(_column, score=lambda costs, worth, trips: -worth),
        "best_per_trip": functools.partial(_column, reduce=lambda costs, worth, trips: (costs - worth) / trips),
        "most_expensive_duty": functools.partial(_column, score=lambda costs, worth, trips: worth - costs),
        "last_of_equals": functools.partial(
            _column, score=lambda costs, worth, trips: costs - worth - 1e-9 * np.arange(len(costs))
        ),
        "returns_the_reduced_cost": functools.partial(_column, give=lambda p, reduced: float(reduced[p])),
        "averages_the_prices": functools.partial(_column, reduce=lambda costs, worth, trips: costs - worth / trips),
    },
    diagnoses={
        "cheapest_cost": "You took the duty that costs least. What does it cover for that money, and what is that "
        "worth?",
        "adds_duals": "You added the prices to the cost. Does a duty become better or worse if its trips are worth "
        "more?",
        "accepts_noise": "You answered for a reduced cost of minus a billionth. If the master takes such a duty and "
        "its value does not move, what will you answer next?",
        "always_answers": "You named a duty though none costs less than its trips are worth. How is the search to "
        "know that it may stop?",
        "first_below_price": "You took the first duty below its price. Which one is furthest below?",
        "least_worth_having": "You took the duty that is least below its price. Which one saves most?",
        "most_valuable_trips": "You took the duty whose trips are worth most. What does it cost?",
        "best_per_trip": "You divided the saving by the number of trips. What is it that the pricing has to find the "
        "least of?",
        "most_expensive_duty": "You took the largest reduced cost. Which sign has a duty that is worth having?",
        "last_of_equals": "Two duties save the same, and you named the later one. Which of them does the task ask for?",
        "returns_the_reduced_cost": "You returned how much the duty saves. What was asked, the saving or which duty?",
        "averages_the_prices": "You compared the cost with the mean price of the trips. A duty is paid once; for how "
        "many trips?",
    },
    accepted=[
        _column,
        lambda costs, cover, duals: (
            min(range(len(costs)), key=lambda p: costs[p] - duals[cover[p]].sum())
            if any(costs[p] - duals[cover[p]].sum() < -1e-6 for p in range(len(costs)))
            else None
        ),
    ],
    hints=(
        "For each duty two numbers: what it costs, and what its trips are worth at these prices. The difference "
        "decides.",
        "Duals 570, 570, 570: the pair of trips 1 and 3 costs 620 and is worth 1,140; its reduced cost is -520, and "
        "no duty has less.",
        "reduced = costs - cover @ duals; p = reduced.argmin(); p if reduced[p] < -1e-6, else None. Mind the case "
        "without duties.",
    ),
    shows="So prices turn one question about all duties together into one about each duty alone.",
    tolerance=1e-9,
)


# The lower bound -----------------------------------------------------------------------------------------------------


def _tried(duals: NDArray[np.float64], min_reduced_cost: float, c_min: float, exact: bool) -> float:
    """Halve an interval for the largest scale at which the cheapest duty could not be worth more than it costs."""
    if not exact:
        return -math.inf
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        worth = c_min - min_reduced_cost  # what the trips of a duty that costs c_min are worth at most
        low, high = (middle, high) if middle * worth <= c_min else (low, middle)
    return float(sum(low * dual for dual in duals))


def _bound(
    duals: NDArray[np.float64],
    min_reduced_cost: float,
    c_min: float,
    exact: bool,
    *,
    scale: Callable[..., float] = lambda duals, rho, c_min: 1 / (1 - min(rho, 0.0) / c_min),
    plus: Callable[[float], float] = lambda rho: 0.0,
    inexact: float | None = -math.inf,
    asks: bool = True,
) -> float | None:
    if asks and not exact:
        return inexact
    return float(duals.sum() * scale(duals, min_reduced_cost, c_min) + plus(min_reduced_cost))


@functools.cache
def _instances() -> list[tuple[NDArray[np.float64], float, float, float]]:
    """20 small set coverings at random prices: duals, least reduced cost, least cost, and the value of the LP."""
    from scipy.optimize import linprog

    found = []
    for seed in range(20):
        drawn = random.Random(seed)
        cover = np.array([[i == k or drawn.random() < 0.3 for i in range(7)] for k in range(7)] * 2)
        costs = np.array([510.0 + 5 * drawn.randrange(80) for _ in range(14)])
        duals = np.array([5.0 * drawn.randrange(100) for _ in range(7)])
        least = float((costs - cover @ duals).min())
        value = float(linprog(costs, A_ub=-cover.T.astype(float), b_ub=-np.ones(7)).fun)
        found.append((duals, least, 510.0, value))
    return found


def _never_above(answer: Callable[..., Any]) -> Any:
    """How many of the 20 answers are above the value they shall bound, and the sum of all, to tell answers apart."""
    values = [float(answer(duals.copy(), least, c_min, True)) for duals, least, c_min, _ in _instances()]
    above = sum(value > lp + 1e-6 for value, (*_, lp) in zip(values, _instances(), strict=True))
    return {"above the LP's value": above, "mean": round(sum(values) / len(values), 3)}


lower_bound = Check(
    "lower_bound",
    chapter=CHAPTER,
    title="what no plan can cost less than",
    level=3,
    minutes=20,
    reference=_tried,
    cases=[
        Case.of(
            "three trips, singles only", _FIRST, -490.0, 510.0, True, show="prices 570 each, least -490, c_min 510"
        ),
        Case.of("at the end nothing is below its price", np.full(3, 325.0), 0.0, 510.0, True, show="prices 325 each"),
        Case.of("the pricing kept eight labels a trip", _FIRST, -490.0, 510.0, False, show="exact is False"),
        Case("20 instances with their LP's values", _never_above, show="7 trips, 14 duties, random prices"),
        Case.of(
            "every duty costs more than its trips are worth",
            np.full(3, 200.0),
            110.0,
            510.0,
            True,
            show="prices 200 each, least reduced cost +110",
        ),
        Case.of(
            "a dearer least duty",
            np.array([300.0, 0.0, 900.0]),
            -240.0,
            720.0,
            True,
            show="prices 300, 0 and 900, least -240, c_min 720",
        ),
    ],
    wrong_answers={
        "master_value": functools.partial(_bound, scale=lambda duals, rho, c_min: 1.0),
        "trusts_heuristic_pricing": functools.partial(_bound, asks=False),
        "wrong_sign": functools.partial(_bound, scale=lambda duals, rho, c_min: 1 / (1 + rho / c_min)),
        "adds_it_once": functools.partial(_bound, scale=lambda duals, rho, c_min: 1.0, plus=lambda rho: min(rho, 0.0)),
        "adds_whatever_was_found": functools.partial(_bound, scale=lambda duals, rho, c_min: 1.0, plus=lambda rho: rho),
        "adds_it_for_each_trip": functools.partial(
            _bound, scale=lambda duals, rho, c_min: 1 + len(duals) * min(rho, 0.0) / duals.sum()
        ),
        "adds_where_it_should_subtract": functools.partial(
            _bound, scale=lambda duals, rho, c_min: 1 / (1 + min(rho, 0.0) / c_min)
        ),
        "takes_the_absolute_value": functools.partial(
            _bound, scale=lambda duals, rho, c_min: 1 / (1 + abs(rho) / c_min)
        ),
        "nothing_instead_of_minus_infinity": functools.partial(_bound, inexact=0.0),
        "none_instead_of_minus_infinity": functools.partial(_bound, inexact=None),
        "positive_reduced_cost_counts": functools.partial(
            _bound, scale=lambda duals, rho, c_min: 1 / (1 - rho / c_min)
        ),
        "scale_upside_down": functools.partial(_bound, scale=lambda duals, rho, c_min: 1 - min(rho, 0.0) / c_min),
        "multiplies_instead_of_divides": functools.partial(
            _bound, scale=lambda duals, rho, c_min: max(0.0, 1 + min(rho, 0.0) / c_min)
        ),
        "divides_by_the_prices": functools.partial(
            _bound, scale=lambda duals, rho, c_min: 1 / (1 - min(rho, 0.0) / max(duals.sum(), 1.0))
        ),
        "always_510": functools.partial(_bound, scale=lambda duals, rho, c_min: 1 / (1 - min(rho, 0.0) / 510)),
    },
    diagnoses={
        "master_value": "You returned the sum of the prices, which is the restricted master's value. There are duties "
        "that it has not seen: can the value still fall?",
        "trusts_heuristic_pricing": "You gave a bound though the pricing looked at part of the duties. What if the "
        "least reduced cost was among the others?",
        "wrong_sign": "Your bound lies above the master's value, or below zero. Must the prices be raised or lowered "
        "until no duty is worth more than it costs?",
        "adds_it_once": "You added the least reduced cost once. How many duties does a plan have, and might each of "
        "them be that much too cheap?",
        "adds_whatever_was_found": "You added the least reduced cost to the sum of the prices, whatever its sign. A "
        "plan has many duties: how much too cheap may each of them be?",
        "adds_it_for_each_trip": "Your bound is true, and weak: it lets every trip fill a duty of its own. What "
        "becomes of it if you use that a duty costs c_min at least?",
        "adds_where_it_should_subtract": "Your factor shrinks as the least reduced cost falls. If trips are worth more "
        "than their duty costs, is the factor above 1 or below?",
        "takes_the_absolute_value": "You lowered the prices though no duty's trips are worth more than it costs. Which "
        "sign of the least reduced cost asks for lower prices?",
        "nothing_instead_of_minus_infinity": "You returned 0 where nothing is proven. For costs 0 may even be true; "
        "what is the value that can never be wrong?",
        "none_instead_of_minus_infinity": "You returned None where nothing is proven. What does `max(bound, None)` do "
        "in the next round, and which number is below all others?",
        "positive_reduced_cost_counts": "You raised the prices where every duty costs more than its trips are worth. "
        "By which factor is that safe for a duty that costs a thousand?",
        "scale_upside_down": "Your scale is above 1. How much of the prices may stay if a duty's trips are worth more "
        "than it costs?",
        "multiplies_instead_of_divides": "Your bound is true, and lower than it must be: at 570 each it is "
        "hardly above 0. If trips are worth (1 + r) times their duty, by what must they be divided?",
        "divides_by_the_prices": "You compared the least reduced cost with the sum of all prices. Which number was "
        "meant, what all trips are worth or what a duty costs at least?",
        "always_510": "You took 510 for the least cost of a duty. Where is it given?",
    },
    accepted=[
        _bound,
        lambda duals, min_reduced_cost, c_min, exact: (
            float((duals * c_min).sum() / (c_min + max(-min_reduced_cost, 0.0))) if exact else float("-inf")
        ),
    ],
    hints=(
        "The prices may be too high: some duty's trips are worth more than the duty costs. By which factor must all "
        "prices fall so that this is true of no duty? Use that no duty costs less than c_min.",
        "Prices 570, 570, 570 and a least reduced cost of -490: a duty's trips are worth at most c + 490, which is at "
        "most c (1 + 490/510). Divided by 1.961 the prices are safe: 1,710 / 1.961 = 872.1.",
        "duals.sum() / (1 - min(min_reduced_cost, 0) / c_min), and minus infinity unless exact.",
    ),
    shows="So every exact pricing proves something, long before the end, and a heuristic one proves nothing.",
    tolerance=1e-6,
)

TASKS = (duty_cost, best_column, lower_bound, dominates)
