"""Branch and price: proof where the duties that a better plan could contain are too many to list.

Where the linear program shares a connection between several duties, two smaller problems take its place: one in which
no duty uses the connection, and one in which at least one does. Both are linear programs that column generation solves
to optimality; what bounds both bounds the whole. A problem whose bound reaches the cost of the best plan is done with,
as is one whose duties of small reduced cost are few enough for an integer program.

Connections, beginnings and ends of duties are all branched on; together they are the "uses" of a duty. A use is taken
out of the graph, or demanded by a row of the master, `sum of the duties with the use >= 1`. Its dual w >= 0 is paid to
the duties that have it: the pricing works with arc costs lowered by w. Costs may become negative, which neither
dominance nor the completion bound minds, for both add the same number to all that they compare. Nothing else is taken
out where a use is demanded: crews may ride along, and a trip may be entered and left in several ways.

Whole uses do not always mean whole duties (two duties may meet at a trip that both cover, and the linear program may
swap their rests). Then nothing is left to branch on, and unless the integer program settles the problem, its bound is
all that is proven.

Measured on 36 generated timetables of 150, 200 and 250 trips (four plans, 8 and 12 stations, with and without a meal
window), with 40 nodes: 13 plans were proven without the tree, 18 more with it, all in its first node, in 0.4 to 19 CPU
seconds; 5 stayed open after 8 to 35, their gaps now 0.004 to 0.21 % instead of 0.2 to 1.4 %. At 300 trips two children
were needed once (4 s), and another timetable had no answer after a minute. Those of 150 trips were all proven, within a
second; hence the default, no nodes above `SMALL` trips. `solve(nodes=...)` gives more.

Source: Barnhart et al., Branch-and-price (1998), rules that branch on what the pricing can be told.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from course_lib.beyond.cg_p import bounds
from course_lib.beyond.cg_p.columns import Columns, Pool
from course_lib.beyond.cg_p.master import Master, Solution
from course_lib.beyond.cg_p.pricing import Pricer, Pricing
from course_lib.beyond.cg_p.proof import MANY, choose, duties_within
from course_lib.beyond.cg_p.timetable import NO_WAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph
    from course_lib.beyond.cg_p.search import Search

#: Nodes that `solve` allows by default, and the trips up to which it does.
NODES = 20
SMALL = 150
#: Labels kept a trip by the stages of a node's pricing; 0 for all.
STAGES = (16, 64, 0)
#: Columns a node's master begins with, per trip.
INHERITED = 6.0
#: Duties given to the integer program of a node, and the nodes of its own tree.
ROOT_FEW = 10_000
FEW = 1500
ROOT_EFFORT = 1000
EFFORT = 20
#: Added to a limit on reduced costs: sums of floating point numbers.
SLACK = 1e-3
#: A share, or a sum of shares, this near to a whole number is one.
WHOLE = 1e-5

#: (tail, head): the connection of two trips; (-1, trip) begins a duty, (trip, -1) ends one.
Use = tuple[int, int]


def uses(columns: Columns, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every use of every duty, as numbers: (tail + 1) * (n + 1) + head + 1.

    Returns:
        (k + 1,) and flat, as in `Columns`: a duty of j trips has j + 1 uses.

    >>> uses(Columns.of([((0, 2), 650.0, 0)]), 3)[1].tolist()  # (-1, 0), (0, 2), (2, -1)
    [1, 7, 12]
    """
    tails = np.insert(columns.trips.astype(np.int64), columns.first[:-1], -1)
    heads = np.insert(columns.trips.astype(np.int64), columns.first[1:], -1)
    return columns.first + np.arange(columns.size + 1), (tails + 1) * (n + 1) + heads + 1


def numbers(chosen: Sequence[Use], n: int) -> NDArray[np.int64]:
    """The same numbers for some uses."""
    return np.array([(tail + 1) * (n + 1) + head + 1 for tail, head in chosen], dtype=np.int64)


@dataclass(order=True, frozen=True)
class Node:
    """A part of all plans. In the order of the search: least bound first, of equal ones the deepest."""

    bound: float  #: none of its plans costs less
    depth: int  #: counted downwards
    number: int
    forbidden: tuple[Use, ...] = field(compare=False, default=())
    demanded: tuple[Use, ...] = field(compare=False, default=())
    duals: NDArray[np.float64] | None = field(compare=False, default=None, repr=False)  #: (n,) of the node above


class Part:
    """The pricing of one node: duties that avoid the forbidden uses, and a premium on the demanded ones.

    Duties get further trips here, n, n + 1, ..., one for each demanded use they have, so that a row of the master that
    demands a use is a trip to cover like any other.

    Args:
        graph: of n trips, with all uses.
        forbidden, demanded: uses.
    """

    def __init__(self, graph: DutyGraph, forbidden: Sequence[Use], demanded: Sequence[Use]) -> None:
        self.n, self.demanded = len(graph.timetable), tuple(demanded)
        self._forbidden = numbers(forbidden, self.n)
        self._wanted = numbers(self.demanded, self.n)
        cut = [(tail, head) for tail, head in forbidden if tail >= 0 and head >= 0]
        kept = np.ones(len(graph), dtype=bool)
        sources, sinks = graph.sources.copy(), graph.sinks.copy()
        for tail, head in cut:
            kept[graph.arcs_along((tail, head))] = False
        sources[:, [head for tail, head in forbidden if tail < 0]] = NO_WAY
        sinks[:, [tail for tail, head in forbidden if head < 0]] = NO_WAY
        self.graph = replace(graph.keep(kept), sources=sources, sinks=sinks)
        self.unit = graph.rules.cost_unit
        self._plain = Pricer(self.graph).flats
        self.pricer = Pricer(self.graph)

    def legal(self, columns: Columns) -> Columns:
        """Those without a forbidden use."""
        first, used = uses(columns, self.n)
        wrong = np.concatenate([[0], np.cumsum(np.isin(used, self._forbidden))])
        return columns.take(np.flatnonzero(wrong[first[1:]] == wrong[first[:-1]]))

    def extended(self, columns: Columns) -> Columns:
        """With a further trip for each demanded use."""
        if not self.demanded:
            return columns
        first, used = uses(columns, self.n)
        duty = np.repeat(np.arange(columns.size), np.diff(first))
        which, where = (used[:, None] == self._wanted).nonzero()
        trips = np.insert(columns.trips, columns.first[duty[which] + 1], (self.n + where).astype(np.int32))
        more = np.bincount(duty[which], minlength=columns.size)
        return columns._replace(first=columns.first + np.concatenate([[0], np.cumsum(more)]), trips=trips)

    def plain(self, columns: Columns) -> Columns:
        """Without the further trips."""
        own = np.concatenate([[0], np.cumsum(columns.trips < self.n)])
        return columns._replace(first=own[columns.first], trips=columns.trips[columns.trips < self.n])

    def _set_prices(self, duals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put the premiums into the pricer's graph; returns the trips' prices that go with them.

        A premium on beginning with a trip raises the price of the trip, and all arcs into it take it back.
        """
        premium = np.zeros(len(self.graph))
        price = duals[: self.n].copy()
        for (tail, head), dual in zip(self.demanded, duals[self.n :].tolist(), strict=True):
            if tail < 0:
                price[head] += dual
                premium[self.graph.in_start[head] : self.graph.in_start[head + 1]] -= dual
            elif head < 0:
                price[tail] += dual
                premium[self.graph.out_arcs[self.graph.out_start[tail] : self.graph.out_start[tail + 1]]] -= dual
            else:
                premium[self.graph.arcs_along((tail, head))] += dual
        self.pricer.flats = [flat._replace(cost=flat.cost - premium) for flat in self._plain]
        return price

    def _true(self, columns: Columns, price: NDArray[np.float64], duals: NDArray[np.float64]) -> Columns:
        """Extended, and with the costs the duties have without premiums: the reduced cost is the same either way."""
        if not self.demanded:
            return columns
        extended = self.extended(columns)
        cost = columns.reduced(price) + extended.total(duals)
        return extended._replace(cost=np.rint(cost / self.unit) * self.unit)

    def price(self, duals: NDArray[np.float64], *, cap: int, search: Search) -> tuple[Columns, Pricing]:
        """`Pricer.price` with (n + demanded,) duals; the columns are extended and at their true costs."""
        price = self._set_prices(duals)
        found = self.pricer.price(price, cap=cap, proceed=search.proceed)
        return self._true(found.columns, price, duals), found

    def duties_within(self, duals: NDArray[np.float64], gap: float, *, most: int) -> tuple[Columns, bool]:
        """`proof.duties_within` with (n + demanded,) duals, likewise."""
        price = self._set_prices(duals)
        found, complete = duties_within(self.pricer, price, gap, most=most)
        return self._true(found, price, duals), complete


class Tree:
    """The search through the nodes.  `best` is the best plan so far, also when it is interrupted.

    Args:
        search: its linear program solved, by exact pricing on the whole graph. Its `bound` is raised.
        plan: a plan.
        seed: of the integer program's randomness.
    """

    def __init__(self, search: Search, plan: Columns, *, seed: int = 0) -> None:
        assert search.master is not None
        self.search, self.best, self.seed = search, plan, seed
        self.n, self.unit = search.n, search.graph.rules.cost_unit
        self.pool = Pool()
        self.pool.add(search.master.columns)
        self.open = [Node(search.bound, 0, 0)]
        self.made = 1
        self.stuck = math.inf  #: the least bound of the nodes that could be neither settled nor branched

    @property
    def cost(self) -> float:
        """Of the best plan."""
        return float(self.best.cost.sum())

    @property
    def proven(self) -> bool:
        """Whether no plan is better."""
        return self._done(self.search.bound)

    def run(self, nodes: int) -> Columns:
        """Look at so many nodes, or until nothing is open: the best plan; it is proven best if it costs `search.bound`.

        Raises:
            TimeUp: at the search's deadline. KeyboardInterrupt: by hand. Plan and bound are then as good as they got.
        """
        for _ in range(nodes):
            self._raise_bound()
            if not self.open or self._done(self.open[0].bound):
                break
            node = self.open[0]  # it stays open while it is looked at
            children = self._branch(node)
            heapq.heappop(self.open)
            for child in children:
                heapq.heappush(self.open, child)
        self._raise_bound()
        return self.best

    def _done(self, bound: float) -> bool:
        """Whether no plan can be better where none costs less than this."""
        return bounds.round_up(bound, self.unit) > self.cost - self.unit / 2

    def _raise_bound(self) -> None:
        least = min([self.cost, self.stuck, *(node.bound for node in self.open[:1])])
        self.search.bound = max(self.search.bound, least)

    def _improve(self, plan: Columns) -> None:
        if plan.size and float(plan.cost.sum()) < self.cost - self.unit / 2:
            self.best = plan

    def _branch(self, node: Node) -> list[Node]:
        """The open parts of a node: none if it is settled."""
        part = Part(self.search.graph, node.forbidden, node.demanded)
        solved = self._solve(node, part)
        if solved is None:
            return []
        solution, columns, bound = solved
        bound = max(node.bound, bound)
        if solution.uncovered > 0.5:  # some trip or demanded use is in no duty of this part: else no dual reaches M
            return []
        use = self._most_divided(part, columns, solution.shares)
        if use is None and np.all(np.abs(solution.shares - np.rint(solution.shares)) < WHOLE):
            self._improve(part.plain(columns.take(np.flatnonzero(solution.shares > 0.5))))
        with self.search.timed("proof"):
            bound = max(bound, self._settle(part, solution.duals, root=node.depth == 0))
        if self._done(bound):
            return []
        if use is None:
            self.stuck = min(self.stuck, bound)
            return []
        parts = [((*node.forbidden, use), node.demanded), (node.forbidden, (*node.demanded, use))]
        children = []
        for forbidden, demanded in parts:
            children.append(Node(bound, node.depth - 1, -self.made, forbidden, demanded, solution.duals[: self.n]))
            self.made += 1
        return children

    def _solve(self, node: Node, part: Part) -> tuple[Solution, Columns, float] | None:
        """Column generation in a node: its solution, columns and bound; None if the bound settles it."""
        search, depth = self.search, len(node.demanded)
        master = Master(np.append(search.needed, np.ones(depth, dtype=bool)), search.penalty)
        columns = part.legal(self.pool.columns)
        if node.duals is not None:
            order = np.argsort(columns.reduced(node.duals), kind="stable")
            columns = columns.take(np.sort(order[: round(INHERITED * self.n)]))
        master.add(part.extended(part.legal(search.start)))
        master.add(part.extended(columns))
        stage = 0
        while True:
            search.proceed()
            solution = search.solve_master(master)
            with search.timed("pricing"):
                fresh, pricing = part.price(solution.duals, cap=STAGES[stage], search=search)
            bound = self._bound(solution.duals, pricing)
            if self._done(bound):
                return None
            if not (fresh.size and master.add(fresh)):
                if stage == len(STAGES) - 1:
                    break
                stage += 1
            self.pool.add(part.plain(fresh))
        search._report("branching", solution.value, master.columns.size, 0, pricing, False)
        return solution, master.columns, bound

    def _bound(self, duals: NDArray[np.float64], pricing: Pricing) -> float:
        """What a node's plans cost at least, if they are better than the best."""
        least_cost = self.search.least_cost
        crews = self.cost / max(least_cost, 1e-9)
        return max(
            bounds.farley(duals, pricing.least, least_cost, exact=pricing.exact),
            bounds.lagrangian(duals, pricing.least, crews, exact=pricing.exact),
        )

    def _most_divided(self, part: Part, columns: Columns, shares: NDArray[np.float64]) -> Use | None:
        """The use whose shares add up to a number below 1 and nearest to one half; None if all are whole."""
        some = np.flatnonzero(shares > WHOLE)
        first, used = uses(part.plain(columns.take(some)), self.n)
        kinds, where = np.unique(used, return_inverse=True)
        flow = np.bincount(where, weights=np.repeat(shares[some], np.diff(first)), minlength=len(kinds))
        far = np.where(flow < 1, np.abs(flow - 0.5), np.inf)
        k = int(far.argmin())
        if far[k] > 0.5 - WHOLE:
            return None
        tail, head = divmod(int(kinds[k]), self.n + 1)
        return tail - 1, head - 1

    def _settle(self, part: Part, duals: NDArray[np.float64], *, root: bool) -> float:
        """What the duties of small reduced cost tell about a node: a bound, and perhaps a better plan.

        Those within d contain every plan of the node that costs at most d more than its linear program.
        """
        value, cost = float(duals.sum()), self.cost
        columns, reach, whole = self._within(part, duals, ROOT_FEW if root else FEW)
        bound = self._pick(part, columns, value + reach, whole=whole, root=root)
        if root and not whole and self.cost < cost:  # nearer to the bound, there may be few enough duties for all
            columns, complete = part.duties_within(duals, self.cost - self.unit - value + SLACK, most=MANY)
            if complete:
                bound = max(bound, self._pick(part, columns, self.cost - self.unit, whole=True, root=True))
        return max(value, bound)

    def _within(self, part: Part, duals: NDArray[np.float64], most: int) -> tuple[Columns, float, bool]:
        """All duties within a reach of the linear program's value that is as large as need be, or as can be."""
        reach = self.cost - self.unit - float(duals.sum())  # where a better plan would be
        whole = True
        while True:
            columns, complete = part.duties_within(duals, reach + SLACK, most=most)
            if complete:
                return columns, reach, whole
            reach, whole = reach / 2, False
            if reach < self.unit:
                return Columns.of([]), -math.inf, False

    def _pick(self, part: Part, columns: Columns, within: float, *, whole: bool, root: bool) -> float:
        """The best plan of these duties; returns what the plans of the node cost at least.

        Args:
            part: the node.
            columns: extended; every plan of the node that costs at most `within` consists of them.
            within: a cost.
            whole: a plan that costs more is no better than the best known.
            root: more effort; and where the duties prove little, the best plan of them is still worth having.
        """
        if not columns.size and not whole:
            return -math.inf
        self.search.proceed()
        needed = np.append(self.search.needed, np.ones(len(part.demanded), dtype=bool))
        choice = choose(
            columns, needed, seconds=min(60.0, self.search.seconds_left()), unit=self.unit, seed=self.seed,
            enough=math.inf if root and not whole else within, nodes=ROOT_EFFORT if root else EFFORT,
        )  # fmt: skip
        known, cost = self.cost, math.inf
        if choice.chosen is not None:
            cost = float(columns.cost[choice.chosen].sum())
            self._improve(part.plain(columns.take(choice.chosen)))
        among = cost if choice.settled else bounds.round_up(choice.bound, self.unit)
        return min(among, known if whole else within)
