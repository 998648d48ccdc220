# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: can a guess speed up a proof?
#
# Four functions: what a duty costs, which duty is worth adding, what has been proven, and which half-made duties may be
# forgotten. With them you have written the four ideas of `course_lib.beyond.cg_p`.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Can a guess speed up a proof?](../../notebooks/beyond/cg_p.ipynb).

# %%
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from course_lib.beyond.cg_p import CrewRules
from course_lib.checks.beyond import cg_p as check
from course_lib.checks.beyond.cg_p import Label

# %% [markdown]
# ## 1. What a duty costs
#
# Everything else in the chapter trusts these few lines. A duty's price is simple, its legality is not: whether a crew
# may take another trip depends on what it did hours before.
#
# ```{admonition} Level 2 of 5 · 12 minutes
# About ten lines, plain Python. All trips run between neighbouring platforms, so that nobody rides along.
# ```


# %% nbgrader={"solution": true, "grade_id": "duty_cost"}
def duty_cost(trips: Sequence[tuple[int, int]], rules: CrewRules) -> float | None:
    """What one duty costs, or None if it is illegal.

    A duty lasts from `rules.sign_on` minutes before its first departure to `rules.sign_off`
    minutes after its last arrival, and costs `rules.fixed_cost`, plus `rules.minute_cost` for
    each of these minutes. It is legal if

    - it lasts at most `max_duty` minutes;
    - it drives at most `max_driving` minutes, all trips together;
    - every wait, from an arrival to the next departure, is from `min_connection` to
      `max_wait` minutes long;
    - no trip arrives more than `max_stretch` minutes after the present stretch of work
      began. The first one begins with signing on. A wait of at least `break_minutes`
      is a break, and a new stretch begins with the departure after it.

    Args:
        trips: (departure, arrival) in minutes after midnight, in order; at least one.
        rules: has the limits and prices named above as fields; no others are asked for.

    Under the default rules, two trips of an hour with 20 minutes between them, `[(480, 540),
    (560, 620)]`, cost 480 + 170 = 650.0.
    """
    ### BEGIN SOLUTION
    begun, ended = trips[0][0] - rules.sign_on, trips[-1][1] + rules.sign_off
    driving, since, ready = 0, begun, None
    for departure, arrival in trips:
        if ready is not None:
            wait = departure - ready
            if not rules.min_connection <= wait <= rules.max_wait:
                return None
            if wait >= rules.break_minutes:
                since = departure
        if arrival - since > rules.max_stretch:
            return None
        driving, ready = driving + arrival - departure, arrival
    if driving > rules.max_driving or ended - begun > rules.max_duty:
        return None
    return rules.fixed_cost + rules.minute_cost * (ended - begun)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "duty_cost_check", "points": 2}
_ = check.duty_cost(duty_cost)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.duty_cost.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So ten minutes in a timetable can be worth a whole crew: legality has a sharp edge, and costs jump there.

# %% [markdown]
# ## 2. The duty to add
#
# The master has put a price on every trip. A duty is worth adding if it costs less than its trips are worth, and the one
# that saves most is added first. In the chapter this question is asked about millions of duties that nobody lists; here
# they are listed.
#
# ```{admonition} Level 2 of 5 · 13 minutes
# About three lines, NumPy.
# ```


# %% nbgrader={"solution": true, "grade_id": "best_column"}
def best_column(
    costs: NDArray[np.float64], cover: NDArray[np.bool_], duals: NDArray[np.float64]
) -> int | None:
    """The duty with the least reduced cost: its cost, less the prices of the trips it covers.

    Args:
        costs: (P,) float, what each duty costs.
        cover: (P, n) bool, whether duty p covers trip i.
        duals: (n,) float, the price of each trip, at least 0.

    Returns:
        Its index, the first of equals. None if no reduced cost is below -1e-6 (what is
        nearer to 0 is rounding), and None if there are no duties.

    Singles at 570 and the pair of both trips at 650, `costs = [570, 570, 650]`, with prices
    of 570 each: the pair's reduced cost is 650 - 1140 = -490, and the answer is 2.
    """
    ### BEGIN SOLUTION
    if not len(costs):
        return None
    reduced = costs - cover @ duals
    best = int(reduced.argmin())
    return best if reduced[best] < -1e-6 else None
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "best_column_check", "points": 2}
_ = check.best_column(best_column)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.best_column.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So prices turn one question about all duties together into one about each duty alone, and *None* ends the search.

# %% [markdown]
# ## 3. What has been proven
#
# While duties with negative reduced cost are left, the master's value says nothing about the best plan: it may still
# fall. But the prices can be lowered until no duty's trips are worth more than the duty costs. Then whatever plan
# covers all trips costs at least what all trips are worth.
#
# Let $\varrho$ be the least reduced cost of all duties. The trips of a duty of cost $c$ are worth at most
# $c - \varrho$. With $\varrho \leq 0$ and $c \geq c_{\min}$ that is at most $c\,(1 - \varrho / c_{\min})$: the factor
# by which the prices must fall stands in the brackets.
#
# ```{admonition} Level 3 of 5 · 20 minutes
# About three lines. Do the proof first, then the code.
# ```


# %% nbgrader={"solution": true, "grade_id": "lower_bound"}
def lower_bound(
    duals: NDArray[np.float64], min_reduced_cost: float, c_min: float, exact: bool
) -> float:
    """Farley's bound: what no plan can cost less than.

    Args:
        duals: (n,) float, the prices of the trips, at least 0; not necessarily the master's.
        min_reduced_cost: the least reduced cost that the pricing has found. Above 0 if every
            duty costs more than its trips are worth; the prices are then safe as they are, and
            are not raised.
        c_min: no duty costs less.
        exact: whether the pricing would have found any duty. If it looked at a part of the
            graph, or kept some labels only, nothing is proven.

    Returns:
        The bound; minus infinity if nothing is proven.

    Prices of 570 on three trips, a least reduced cost of -490 and c_min = 510 give about 872.1.
    """
    ### BEGIN SOLUTION
    if not exact:
        return float("-inf")
    return float(duals.sum() / (1 - min(min_reduced_cost, 0.0) / c_min))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "lower_bound_check", "points": 3}
_ = check.lower_bound(lower_bound)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.lower_bound.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So every exact pricing proves something, long before the end, and a heuristic one proves nothing, however good it is.

# %% [markdown]
# ## 4. What may be forgotten
#
# The pricing extends beginnings of duties trip by trip, and there would be millions, were not most of them dropped: a
# beginning may go if another one, ending with the same trip, can do all that it can, and for no more money. What stays
# is found by these lines (`check.survivors`), in a labelling that is given:
#
# ```python
# def survivors(labels, dominates):
#     return [b for b in labels if not any(dominates(a, b) for a in labels if a is not b)]
# ```
#
# A label holds what the rest of the duty depends on:
#
# | field | what it is |
# |---|---|
# | `cost` | reduced cost so far: fixed cost, less the minute of signing on, less the prices of the trips so far (a minute costs 1, and that of signing off is added at the end) |
# | `start` | minute of signing on; the duty must end within `max_duty` minutes of it |
# | `driving` | minutes driven; `max_driving` at most |
# | `stretch` | minute at which the present stretch of work began; the next break must come in time |
# | `fed` | whether no meal is owed any more; who owes one may not sign off in the afternoon |
# | `number` | tells the labels of one trip apart and means nothing else |
#
# Two labels may be equal in the first five. Read the second line of `survivors` with such a pair in mind.
#
# ```{admonition} Level 5 of 5 · 45 minutes
# Few lines, but prove each: if all your comparisons hold, take any rest of a duty that is legal for b, and show that it
# is legal for a and costs no more. The check runs your answer on days on which one resource alone decides.
# ```


# %% nbgrader={"solution": true, "grade_id": "dominates"}
def dominates(a: Label, b: Label) -> bool:
    """Whether b may be dropped because of a; both end with the same trip.

    Args:
        a, b: labels of the same trip, with different numbers.

    Returns:
        True if whatever b can still do, a can, and at no greater cost. Of labels that are
        equal in all but their number exactly one must survive `survivors`.

    A label with cost -60 that has worked since 8:00 does not dominate one with cost -50 that
    has worked since 9:20, nor the other way round: the first is cheaper, the second may
    work longer without a break.
    """
    ### BEGIN SOLUTION
    no_worse = (
        a.cost <= b.cost
        and a.start >= b.start
        and a.driving <= b.driving
        and a.stretch >= b.stretch
        and a.fed >= b.fed
    )
    twins = a._replace(number=b.number) == b
    return no_worse and (not twins or a.number < b.number)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "dominates_check", "points": 5}
_ = check.dominates(dominates)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.dominates.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a label may be dropped only if another can do all that it can. Forget one resource, and no illegal duty appears:
# legal ones disappear, and the method stops early, proud of a false optimum.
