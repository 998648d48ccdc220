"""Crew scheduling files of the OR-Library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


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
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if text.split():
            try:
                yield line, [int(word) for word in text.split()]
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: got {text.strip()!r}, expected whole numbers") from error


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
