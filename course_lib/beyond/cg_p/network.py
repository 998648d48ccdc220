"""Small railways drawn at random: stations on a plan, lines between them, trains all day with two peaks, depots."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The plans: one line; arms from a hub; a circle; two hubs, a main line between them, and arms from both.
Family = Literal["line", "star", "ring", "two_hubs"]
FEWEST_STATIONS: dict[Family, int] = {"line": 2, "star": 3, "ring": 3, "two_hubs": 4}
#: Reach in minutes by which depots are chosen.
REACH = 60

NAMES = (
    "Alder", "Beech", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Ivy", "Juniper", "Kauri", "Larch", "Maple",
    "Nutmeg", "Oak", "Pine", "Quince", "Rowan", "Spruce", "Teak", "Umbrella Pine", "Viburnum", "Willow", "Yew",
)  # fmt: skip
MINUTES_PER_KM = 0.8  #: by deadhead
FIRST, LAST = 300, 1440  #: departures, from 5:00 to 24:00
LONGEST_KM = 110.0  #: of a line that is not between neighbours


@dataclass(frozen=True)
class Network:
    """What `draw_network` draws; arrays as in `Timetable`, sorted by departure, then arrival."""

    origin: NDArray[np.int64]
    destination: NDArray[np.int64]
    departure: NDArray[np.int64]
    arrival: NDArray[np.int64]
    stations: tuple[str, ...]
    depots: tuple[int, ...]
    deadhead: NDArray[np.int64]


def draw_network(trips: int, *, stations: int, depots: int, family: Family, seed: int) -> Network:
    """A day's trips on a random plan. Each trip has a depot within `REACH` of both its ends.

    So a duty of this one trip is legal under the default rules: no trip is uncoverable. Where the depots cannot reach
    all lines, the plan is drawn smaller until they do.

    Raises:
        ValueError: no trips are fine, but fewer are not; too few stations for the family; depots not in 1..stations.
    """
    _check_sizes(trips, stations, depots, family, seed)
    rng = np.random.default_rng(seed)
    edges = _plan(family, stations, rng)
    kilometres, hops = _distances(stations, edges)
    lines = [*edges, *_long_lines(kilometres, hops, rng)]
    count = _share(trips, rng.uniform(0.6, 1.4, len(lines)))
    ends, trains = np.array([line[:2] for line in lines]), count.sum(1)
    busy = np.bincount(ends.ravel(), np.repeat(trains, 2), stations).astype(np.int64)
    while True:
        deadhead = np.ceil(MINUTES_PER_KM * kilometres).astype(np.int64)
        reach: NDArray[np.bool_] = np.all(deadhead[:, ends] <= REACH, axis=2)  # (stations, lines)
        chosen = choose_depots(reach, trains, busy, depots)
        if np.all(np.any(reach[chosen], axis=0)):
            break
        kilometres = 0.9 * kilometres
    columns = []
    for (u, v, *_), there in zip(lines, count, strict=True):
        minutes = round(4 + rng.uniform(0.75, 1.0) * kilometres[u, v])
        for (a, b), m in zip(((u, v), (v, u)), there, strict=True):
            departure = _departures(m, rng)
            columns.append(np.stack([np.full(m, a), np.full(m, b), departure, departure + minutes]))
    table = np.concatenate(columns, 1)
    table = table[:, np.lexsort((table[3], table[2]))]
    names = (NAMES[k % len(NAMES)] + (f" {k // len(NAMES) + 1}" if k >= len(NAMES) else "") for k in range(stations))
    origin, destination, departure, arrival = table
    return Network(origin, destination, departure, arrival, tuple(names), tuple(sorted(chosen)), deadhead)


def _check_sizes(trips: int, stations: int, depots: int, family: Family, seed: int) -> None:
    if family not in get_args(Family):
        raise ValueError(f"family: got {family!r}, expected one of {', '.join(get_args(Family))}")
    for name, given in (("trips", trips), ("stations", stations), ("depots", depots), ("seed", seed)):
        if not isinstance(given, numbers.Integral) or isinstance(given, bool):
            raise TypeError(f"{name}: got {given!r}, expected a whole number")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected 0 or more")
    if trips < 0:
        raise ValueError(f"trips: got {trips}, expected 0 or more")
    if stations < FEWEST_STATIONS[family]:
        raise ValueError(f"stations: got {stations}, expected {FEWEST_STATIONS[family]} or more for {family!r}")
    if not 1 <= depots <= stations:
        raise ValueError(f"depots: got {depots}, expected 1 to {stations}")


Edge = tuple[int, int, float]


def _plan(family: Family, stations: int, rng: np.random.Generator) -> list[Edge]:
    """Neighbouring stations and the kilometres between them."""
    if family == "line":
        spots = np.concatenate([[0], np.sort(rng.uniform(0, 150, stations - 2)), [150]])
        gaps = np.maximum(np.diff(spots), 4.0)  # closer, and no train would be needed
        return [(k, k + 1, float(gap)) for k, gap in enumerate(gaps)]
    if family == "ring":
        return [(k, (k + 1) % stations, float(rng.uniform(12, 40))) for k in range(stations)]
    if family == "star":
        return _arms(0, list(range(1, stations)), 4, rng)
    rest = list(range(2, stations))
    return [(0, 1, float(rng.uniform(40, 80))), *_arms(0, rest[::2], 3, rng), *_arms(1, rest[1::2], 3, rng)]


def _arms(hub: int, rest: list[int], arms: int, rng: np.random.Generator) -> list[Edge]:
    """Stations one behind the other on up to `arms` arms from a hub."""
    inner = [hub] * arms + rest
    return [(u, v, float(rng.uniform(12, 40))) for u, v in zip(inner, rest, strict=False)]


def _distances(stations: int, edges: list[Edge]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shortest kilometres and fewest hops between any two stations (Floyd and Warshall)."""
    km, hops = (np.full((stations, stations), np.inf) for _ in range(2))
    for matrix, lengths in ((km, [length for *_, length in edges]), (hops, [1.0] * len(edges))):
        np.fill_diagonal(matrix, 0)
        for (u, v, _), length in zip(edges, lengths, strict=True):
            matrix[u, v] = matrix[v, u] = length
        for k in range(stations):
            np.minimum(matrix, matrix[:, k, None] + matrix[None, k], out=matrix)
    return km, hops


def _long_lines(km: NDArray[np.float64], hops: NDArray[np.float64], rng: np.random.Generator) -> list[Edge]:
    """A few through trains over two to four hops."""
    pairs = np.argwhere(np.triu((hops >= 2) & (km <= LONGEST_KM)))
    taken = rng.permutation(len(pairs))[: max(1, len(km) // 2)]
    return [(int(u), int(v), float(km[u, v])) for u, v in pairs[np.sort(taken)]]


def _share(trips: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """(lines, 2) trips by line and direction, in proportion to the weights; they sum to `trips` exactly."""
    wanted = trips * np.repeat(weights, 2) / (2 * weights.sum())
    count = np.floor(wanted).astype(np.int64)
    count[np.argsort(count - wanted, kind="stable")[: trips - count.sum()]] += 1
    return count.reshape(-1, 2)


def _departures(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Regular, but denser in the two peaks: one departure in each of `count` equal shares of the day's traffic."""
    minutes = np.arange(FIRST, LAST)
    peaks = np.exp(-(((minutes - 450) / 75) ** 2)) + np.exp(-(((minutes - 1035) / 90) ** 2))
    traffic = np.cumsum(0.5 + peaks)
    shares = (np.arange(count) + rng.uniform(0, 1, count)) / max(count, 1)
    return minutes[np.searchsorted(traffic, shares * traffic[-1])]


def choose_depots(
    reach: NDArray[np.bool_], weight: NDArray[np.int64], busy: NDArray[np.int64], count: int | None = None
) -> list[int]:
    """The busiest station, then again and again the one that brings most into reach, the busier on a tie.

    Args:
        reach: (S, L) whether a depot at the station would reach each of L places; weight: (L,) of each.
        busy: (S,)
        count: how many; None stops where another would bring nothing into reach.
    """
    chosen: list[int] = []
    while len(chosen) < (len(busy) if count is None else min(count, len(busy))):
        missing = ~np.any(reach[chosen], axis=0)
        gain = (reach & missing) @ weight if chosen else np.zeros_like(busy)
        best = next(int(k) for k in np.lexsort((-busy, -gain)) if k not in chosen)
        if count is None and chosen and not gain[best]:
            break
        chosen.append(best)
    return chosen
