"""What the network is told of trips and of arcs: numbers that are known before anything is solved.

Prices of trips and reduced costs are not among them: they come out of the solving that is to be shortened. Ranks are:
whether a wait of 25 minutes is a good one depends on what else the crew could do, not on the clock.

Source: which features the paper (arXiv 2207.01411) uses could not be read; these are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph

#: In the order of the columns; all times are divided by what is usual of them, so that most numbers are about 1.
NODE_FEATURES = (
    "departure", "duration", "way from a depot", "way to a depot", "begins at a depot", "ends at a depot",
    "successors", "predecessors",
)  # fmt: skip
EDGE_FEATURES = (
    "wait", "gap", "deadhead", "no deadhead", "break", "rank among successors", "rank among predecessors",
    "rank among successors, deadheads last", "rank among predecessors, deadheads last",
)  # fmt: skip
#: Minutes that stand for a depot out of reach.
OUT_OF_REACH = 120
#: Minutes that no gap has, added to arcs with a deadhead to rank them last.
LAST = 1_000_000.0


class Features(NamedTuple):
    """Float32 arrays."""

    nodes: NDArray[np.float32]  #: (n, 8), see `NODE_FEATURES`
    edges: NDArray[np.float32]  #: (m, 9), see `EDGE_FEATURES`


def features(graph: DutyGraph) -> Features:
    """Of all n trips and m arcs of a connection graph.

    >>> from course_lib.beyond.cg_p import DutyGraph, Timetable
    >>> pair = Timetable.of([("A", "B", 480, 540), ("B", "A", 570, 630)], depots=["A"])
    >>> nodes, edges = features(DutyGraph.of(pair))
    >>> nodes.shape, dict(zip(EDGE_FEATURES, edges[0].tolist()))["wait"]
    ((2, 8), 0.5)
    """
    table = graph.timetable
    home = np.isin(np.stack([table.origin, table.destination]), table.depots)
    way = [np.minimum(ends.min(0, initial=OUT_OF_REACH), OUT_OF_REACH) for ends in (graph.sources, graph.sinks)]
    degree = [np.log1p(np.diff(start)) / 5 for start in (graph.out_start, graph.in_start)]
    nodes = [table.departure / 1440, table.duration / 120, way[0] / 60, way[1] / 60, *home, *degree]
    lost = graph.gap + graph.ride / 2
    keys = [lost, np.where(graph.ride > 0, lost + LAST, lost)]
    ranks = [np.log1p(rank(key, end)) / 3 for key in keys for end in (graph.tail, graph.head)]
    wait = graph.gap - graph.ride
    edges = [wait / 60, graph.gap / 60, graph.ride / 60, graph.ride == 0, graph.rests, *ranks]
    return Features(*(np.stack(columns, 1).astype(np.float32) for columns in (nodes, edges)))


def rank(key: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same group have a smaller key.  key, group (m,) -> (m,); equals share a rank.

    >>> rank(np.array([5.0, 3.0, 3.0, 4.0]), np.array([0, 0, 0, 1])).tolist()
    [2, 0, 0, 0]
    """
    order = np.lexsort((key, group))
    key, group = key[order], group[order]
    first = np.searchsorted(group, group)  # where each group begins
    new = np.ones(len(key), dtype=bool)
    new[1:] = (np.diff(group) != 0) | (np.diff(key) != 0)
    run = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))  # where each run of equals begins
    ranks = np.empty(len(key), dtype=np.int64)
    ranks[order] = run - first
    return ranks
