"""Solved timetables to learn from: which connections the linear program and the plan use.

Each arc's label is half the share of it that the linear program uses and half whether the plan uses it: linear programs
over duties have many optima, of which the solver finds one, and the plan is another witness.

Which timetables the training sees is fixed by numbers, so that every other one is new to it: its seeds begin at
`FIRST_SEED`, and no railway drawn as a ring is among them. Timetables of one seed share their lines and would be near
copies; another seed is another railway.

Source: arXiv 2207.01411 (labels from solved instances); all details are ours.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.dive import PATIENT
from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.search import Search
from course_lib.beyond.cg_p.solver import STAGES
from course_lib.beyond.cg_p.timetable import Timetable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.network import Family
    from course_lib.beyond.cg_p.rules import CrewRules

#: Plans of the railways in the training; "ring" is not among them.
FAMILIES: tuple[Family, ...] = ("line", "star", "two_hubs")
#: Of the training timetables, one a timetable, counting on. Timetables of smaller seeds are held out.
FIRST_SEED = 500_000
#: Timetables the kept weights were trained on.
INSTANCES = 96


@dataclass(frozen=True, eq=False)
class Example:
    """A solved instance: the connection graph, and (m,) float32 labels of its arcs in [0, 1]."""

    graph: DutyGraph
    labels: NDArray[np.float32]


def arc_labels(graph: DutyGraph) -> NDArray[np.float32]:
    """(m,) in [0, 1]: how much of each arc the optimum of the linear program and the plan made of it use, on average.

    Costs a solution in exact mode, without the proof.

    Raises:
        ValueError: rules of the OR-Library form, whose plans are not found this way.
    """
    if graph.rules.explicit:
        raise ValueError("graph: got one with listed transitions (OR-Library), expected one of CrewRules()")
    search = Search(graph)
    search.prepare()
    if not search.needed.any():
        return np.zeros(len(graph), dtype=np.float32)
    search.relax(stages=STAGES)
    assert search.fractional is not None
    linear = _usage(graph, search.fractional.columns, search.fractional.shares)
    plan = search.finish(search.pricer, PATIENT)
    return (0.5 * (linear + _usage(graph, plan, np.ones(plan.size)))).astype(np.float32)


def _usage(graph: DutyGraph, columns: Columns, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m,) how much of each arc the duties use, 1 at most."""
    used = np.zeros(len(graph))
    for c in np.flatnonzero(shares > 0):
        used[graph.arcs_along(columns.row(int(c)).tolist())] += shares[c]
    return np.minimum(used, 1.0)


def solve_examples(
    timetables: Iterable[Timetable], rules: CrewRules | None = None, *, processes: int = 1, progress: bool = False
) -> list[Example]:
    """Solve every timetable for its labels.

    Args:
        timetables: of 150 to 200 trips, some tenths of a second each; 500 take ten seconds.
        rules: None are the defaults.
        processes: that solve side by side; the labels do not depend on it.
        progress: say after each ten how many are done.
    """
    graphs = [DutyGraph.of(timetable, rules) for timetable in timetables]
    examples = []
    for graph, labels in zip(graphs, _mapped(graphs, processes), strict=True):
        examples.append(Example(graph, labels))
        if progress and len(examples) % 10 == 0:
            print(f"{len(examples)} of {len(graphs)} timetables solved", flush=True)
    return examples


def _mapped(graphs: Sequence[DutyGraph], processes: int) -> Iterator[NDArray[np.float32]]:
    if processes < 1:
        raise ValueError(f"processes: got {processes}, expected at least 1")
    if min(processes, len(graphs)) <= 1:
        yield from map(arc_labels, graphs)
        return
    # A forked copy of a process that has used torch's threads may wait for them for ever.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(arc_labels, graphs)


def training_timetables(count: int = INSTANCES) -> list[Timetable]:
    """The first of an endless row: 150 to 200 trips, 6 to 10 stations, 2 to 4 depots, three kinds of railway."""
    drawn = []
    for k in range(count):
        rng = np.random.default_rng(FIRST_SEED + k)
        trips, stations, depots = (int(rng.integers(low, high + 1)) for low, high in ((150, 200), (6, 10), (2, 4)))
        family = FAMILIES[k % len(FAMILIES)]
        drawn.append(Timetable.generate(trips, stations=stations, depots=depots, family=family, seed=FIRST_SEED + k))
    return drawn


def held_out_timetables(count: int = 3) -> dict[str, list[Timetable]]:
    """By kind of railway, `count` timetables of 200 trips that no training sees; of rings it sees none at all."""
    kinds: tuple[Family, ...] = (*FAMILIES, "ring")
    seeds = range(FIRST_SEED - count, FIRST_SEED)
    return {kind: [Timetable.generate(200, stations=6 + s % 3, family=kind, seed=s) for s in seeds] for kind in kinds}
