"""Columns of the master: duties, each with its trips, its cost and its depot, one after another in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Columns(NamedTuple):
    """k duties; the trips of duty c are trips[first[c]:first[c + 1]]."""

    first: NDArray[np.int64]  #: (k + 1,)
    trips: NDArray[np.int32]
    cost: NDArray[np.float64]  #: (k,)
    depot: NDArray[np.int32]  #: (k,) number of the depot among the graph's

    @classmethod
    def of(cls, rows: Iterable[tuple[Sequence[int], float, int]]) -> Columns:
        """From (trips, cost, depot) rows.

        >>> Columns.of([((0, 2), 650.0, 0), ((1,), 570.0, 1)]).size
        2
        """
        listed = list(rows)
        return cls(
            np.cumsum([0, *(len(trips) for trips, _, _ in listed)]),
            np.array([trip for trips, _, _ in listed for trip in trips], dtype=np.int32),
            np.array([cost for _, cost, _ in listed], dtype=np.float64),
            np.array([depot for _, _, depot in listed], dtype=np.int32),
        )

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """One after another."""
        if not parts:
            return cls.of([])
        offsets = np.cumsum([0, *(len(part.trips) for part in parts)])
        first = [part.first[:-1] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        return cls(
            np.concatenate([*first, offsets[-1:]]),
            *(np.concatenate([part[k] for part in parts]) for k in (1, 2, 3)),
        )

    @property
    def size(self) -> int:
        """How many duties."""
        return len(self.cost)

    def row(self, c: int) -> NDArray[np.int32]:
        """The trips of duty c."""
        return self.trips[self.first[c] : self.first[c + 1]]

    def take(self, chosen: NDArray[np.intp]) -> Columns:
        """Some of them, in the order given."""
        length = np.diff(self.first)[chosen]
        first = np.concatenate([[0], np.cumsum(length)])
        where = np.arange(first[-1]) + np.repeat(self.first[chosen] - first[:-1], length)
        return Columns(first, self.trips[where], self.cost[chosen], self.depot[chosen])

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of (n,) values over each duty's trips."""
        # No duty is empty, so that every segment has a beginning of its own.
        return np.add.reduceat(values[self.trips], self.first[:-1]) if self.size else np.zeros(0)

    def reduced(self, duals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reduced costs: what each costs more than its trips are worth."""
        return self.cost - self.total(duals)


class Pool:
    """All columns generated so far, none of them twice."""

    def __init__(self) -> None:
        self._parts: list[Columns] = []
        self._cost: dict[bytes, float] = {}

    def add(self, columns: Columns) -> Columns:
        """Take in what is new, or cheaper than the same trips were; returns just these."""
        fresh = []
        for c in range(columns.size):
            key = columns.row(c).tobytes()
            if columns.cost[c] < self._cost.get(key, np.inf) - 1e-9:
                self._cost[key] = float(columns.cost[c])
                fresh.append(c)
        if len(fresh) < columns.size:
            columns = columns.take(np.array(fresh, dtype=np.intp))
        if fresh:
            self._parts.append(columns)
        return columns

    @property
    def size(self) -> int:
        """How many."""
        return sum(part.size for part in self._parts)

    @property
    def columns(self) -> Columns:
        """All of them, in the order they came."""
        self._parts = [Columns.join(self._parts)]
        return self._parts[0]
