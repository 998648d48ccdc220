"""Crew scheduling files of the OR-Library, and random ones of the same shape to try a solver on.

Source: Beasley and Cao, A tree search algorithm for the crew scheduling problem (1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


#: Of the numbers in a file.
LARGEST = 10**9
#: Of what `draw_csp` draws: the minutes in which tasks begin, and how long the shortest and the longest last.
DAY, SHORTEST, LONGEST = 1150, 20, 260
#: Share of the transitions that time and limit allow which are listed.
LISTED = 0.5
#: A transition costs its idle minutes, and from 1 up to as many and these on top.
SURCHARGE = 40


@dataclass(frozen=True)
class Csp:
    """A file as it stands, with tasks counted from 0."""

    limit: int  #: minutes a crew may be on duty, first start to last finish
    start: NDArray[np.int64]  #: (n,)
    finish: NDArray[np.int64]  #: (n,)
    links: NDArray[np.int64]  #: (m, 3) task, task, cost


def read_csp(path: str | Path) -> Csp:
    """Read `N limit`, then N lines `start finish`, then lines `i j cost` with tasks counted from 1.

    The header does not say how many transitions there are: a file cut short *between two of them* is a legal file, and
    nobody can tell.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming file and line: too few tasks, a line cut short, something that is no whole number, a task
            that is not there, a finish not after its start, a transition to a task already begun, or one listed twice.
    """
    path = Path(path)
    lines = list(_numbers(path))
    if not lines or len(lines[0][1]) != 2 or min(lines[0][1]) < 1:
        found = f"got {len(lines[0][1])} numbers" if lines else "got an empty file"
        raise ValueError(f"{path}, line 1: {found}, expected how many tasks there are and the time limit")
    n, limit = lines[0][1]
    if len(lines) <= n:
        raise ValueError(f"{path}: got {len(lines) - 1} tasks, expected {n}: the file is cut short")
    tasks = np.array([_task(path, line, row) for line, row in lines[1 : n + 1]], dtype=np.int64)
    links, seen = [], set()
    for line, row in lines[n + 1 :]:
        links.append(_link(path, line, row, tasks))
        if links[-1][:2] in seen:
            raise ValueError(f"{path}, line {line}: got the transition {row[0]} {row[1]} again, expected it once")
        seen.add(links[-1][:2])
    return Csp(limit, tasks[:, 0], tasks[:, 1], np.array(links, dtype=np.int64).reshape(-1, 3))


def _numbers(path: Path) -> Iterator[tuple[int, list[int]]]:
    """Line number and whole numbers of each line that is not blank."""
    for line, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if text.split():
            try:
                numbers = [int(word) for word in text.split()]
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: got {text.strip()!r}, expected whole numbers") from error
            if max(map(abs, numbers)) > LARGEST:
                raise ValueError(f"{path}, line {line}: got {text.strip()!r}, expected numbers up to {LARGEST:,}")
            yield line, numbers


def _task(path: Path, line: int, row: list[int]) -> tuple[int, int]:
    if len(row) != 2:
        raise ValueError(f"{path}, line {line}: got {len(row)} numbers, expected a start and a finish")
    if not 0 <= row[0] < row[1]:
        raise ValueError(
            f"{path}, line {line}: got a task from {row[0]} to {row[1]}, expected a finish after the start"
        )
    return row[0], row[1]


def _link(path: Path, line: int, row: list[int], tasks: NDArray[np.int64]) -> tuple[int, int, int]:
    """One transition, with tasks counted from 0."""
    if len(row) != 3:
        raise ValueError(
            f"{path}, line {line}: got {len(row)} numbers, expected two tasks and the cost of a transition"
        )
    i, j, cost = row
    if not (1 <= i <= len(tasks) and 1 <= j <= len(tasks)):
        raise ValueError(f"{path}, line {line}: got the transition {i} {j}, expected tasks from 1 to {len(tasks)}")
    if tasks[j - 1, 0] < tasks[i - 1, 1]:
        raise ValueError(f"{path}, line {line}: got the transition {i} {j}, expected one to a task that begins later")
    return i - 1, j - 1, cost


def draw_csp(tasks: int, *, limit: int = 480, seed: int = 0) -> Csp:
    """Tasks and transitions drawn at random, of the shape of the OR-Library's ten files; none of these is among them.

    What is alike: tasks all day, sorted by start; about half of the transitions that time allows are not
    listed, so that 13 % of all pairs are (17,000 at 500 tasks); none breaks the limit by itself; a transition costs
    more than its idle minutes, up to twice as much and a little, with a correlation of 0.9; two to three tasks a duty
    where crews are fewest.

    Args:
        tasks: how many.
        limit: minutes from the first start of a duty to its last finish.
        seed: same arguments, same file.

    Raises:
        ValueError: no tasks; a limit that the longest task breaks.

    >>> drawn = draw_csp(50)
    >>> len(drawn.start), len(drawn.links)
    (50, 148)
    """
    if tasks < 1:
        raise ValueError(f"tasks: got {tasks}, expected at least 1")
    if limit < LONGEST:
        raise ValueError(f"limit: got {limit}, expected at least the {LONGEST} minutes of the longest task")
    rng = np.random.default_rng(seed)
    start = np.sort(rng.integers(0, DAY, tasks))
    finish = start + rng.integers(SHORTEST, LONGEST, tasks, endpoint=True)
    before, after = np.triu_indices(tasks, 1)
    idle = start[after] - finish[before]
    listed = (idle > 0) & (finish[after] - start[before] <= limit) & (rng.random(len(idle)) < LISTED)
    before, after, idle = before[listed], after[listed], idle[listed]
    cost = idle + rng.integers(1, idle + SURCHARGE, endpoint=True)
    return Csp(limit, start, finish, np.stack([before, after, cost], 1))


def write_csp(path: str | Path, csp: Csp) -> None:
    """A file that `read_csp` reads, with the OR-Library's leading blanks."""
    tasks, links = np.stack([csp.start, csp.finish], 1), csp.links + np.array([1, 1, 0])
    rows = [(len(tasks), csp.limit), *tasks.tolist(), *links.tolist()]
    Path(path).write_text("".join("".join(f" {number}" for number in row) + "\n" for row in rows), encoding="utf-8")
