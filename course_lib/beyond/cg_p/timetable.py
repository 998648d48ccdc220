"""Timetables: the trips a railway has promised to run, and where crews may begin, end and be moved between them.

Everything is in whole minutes after midnight of the service day; 24:35 is 1475. Trips are kept in the order of their
departure, so a trip's index says what can come after what.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from course_lib.beyond.cg_p.gtfs import kilometres, read_gtfs
from course_lib.beyond.cg_p.network import REACH, Family, choose_depots, draw_network
from course_lib.beyond.cg_p.orlib import Csp, read_csp

if TYPE_CHECKING:
    import datetime

    from numpy.typing import NDArray

#: Minutes that no rule allows: the entry of the deadhead table where there is no way.
NO_WAY = 1_000_000
#: Trips listed by `print`.
SHOWN = 6


def clock(minutes: int) -> str:
    """Minutes after midnight as people write them; the service day goes on past 24:00.

    >>> clock(485), clock(1475)
    ('08:05', '24:35')
    """
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else ''}{hours:02d}:{rest:02d}"


@dataclass(frozen=True, eq=False, repr=False)
class Timetable:
    """n trips between S stations, D of them depots; arrays are read-only, int64 and sorted by departure, then arrival.

    Made by `generate`, `from_gtfs`, `from_orlib_csp`, or by hand with `of`.

    Raises:
        TypeError: times that are no whole numbers. ValueError: arrays of different lengths, a station that is not
            there, an arrival not after its departure, trips out of order, a negative time on the way.

    >>> Timetable.of([("A", "B", 480, 540), ("B", "A", 560, 620)], depots=["A"])
    Timetable(2 trips, 2 stations, depots A, 08:00-10:20)
    """

    origin: NDArray[np.int64]  #: (n,) station
    destination: NDArray[np.int64]  #: (n,) station
    departure: NDArray[np.int64]  #: (n,) minutes
    arrival: NDArray[np.int64]  #: (n,) minutes, after the departure
    stations: tuple[str, ...]  #: S names
    depots: tuple[int, ...]  #: stations where duties begin and end
    deadhead: NDArray[np.int64]  #: (S, S) minutes without driving; 0 on the diagonal, `NO_WAY` where there is none
    names: tuple[str, ...]  #: n
    follows: NDArray[np.int64]  #: (n,) the next piece of the same train, on which the crew may stay, or -1
    links: NDArray[np.int64] | None = None  #: (m, 3) trip, trip, cost: the only transitions allowed (OR-Library)
    limit: int | None = None  #: minutes a duty may last, where the file itself says so (OR-Library)

    def __post_init__(self) -> None:
        for name in ("origin", "destination", "departure", "arrival", "deadhead", "follows", "links"):
            if (given := getattr(self, name)) is not None:
                array = np.array(given)
                if array.size and array.dtype.kind not in "iu":
                    raise TypeError(f"{name}: got {array.dtype}, expected whole numbers")
                array = array.astype(np.int64)
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        _check(self)

    def __len__(self) -> int:
        return len(self.departure)

    @property
    def duration(self) -> NDArray[np.int64]:
        """(n,) minutes."""
        return self.arrival - self.departure

    def describe(self, trip: int) -> str:
        """One trip in words: its name, from where and when to where and when.

        >>> Timetable.of([("A", "B", 480, 540)], depots=["A"]).describe(0)
        'trip 1: A 08:00 - B 09:00'
        """
        start, end = self.stations[self.origin[trip]], self.stations[self.destination[trip]]
        return f"{self.names[trip]}: {start} {clock(self.departure[trip])} - {end} {clock(self.arrival[trip])}"

    @classmethod
    def of(
        cls,
        trips: Iterable[tuple[str, str, int, int]],
        *,
        depots: Sequence[str],
        deadhead: Mapping[tuple[str, str], int] | None = None,
        names: Sequence[str] | None = None,
    ) -> Timetable:
        """By hand.

        Args:
            trips: (origin, destination, departure, arrival) in any order; sorted by departure, then arrival.
            depots: station names; one that no trip calls at is allowed.
            deadhead: minutes between two stations, in both directions unless the other is given too; none without.
            names: in the order of `trips`; "trip 1" and so on, in the sorted order, if not given.

        Raises:
            TypeError: clock times or broken minutes, one name in place of a list. ValueError: as the class.
        """
        rows = [_checked(row) for row in trips]
        for what, given in (("depots", depots), ("names", names)):
            if isinstance(given, str):
                raise TypeError(f"{what}: got {given!r}, expected a list")
        if names is not None and len(names) != len(rows):
            raise ValueError(f"names: got {len(names)}, expected one for each of {len(rows)} trips")
        known = dict.fromkeys(name for row in rows for name in row[:2])
        known |= dict.fromkeys(depots) | dict.fromkeys(name for pair in deadhead or () for name in pair)
        index = {name: k for k, name in enumerate(known)}
        table = np.array([(index[a], index[b], *times) for a, b, *times in rows]).reshape(-1, 4)
        made = cls._in_order(
            table,
            [""] * len(rows) if names is None else names,
            [-1] * len(rows),
            stations=tuple(index),
            depots=tuple(index[name] for name in depots),
            deadhead=_given_deadheads(deadhead or {}, index),
        )
        return made if names is not None else dataclasses.replace(made, names=_numbered(len(rows)))

    @classmethod
    def _in_order(cls, table: NDArray, names: Sequence[str], follows: Sequence[int], **rest: Any) -> Timetable:
        """Sorted by departure, then arrival.

        Args:
            table: (n, 4) origin, destination, departure, arrival.
            names, follows: (n,) in the order of the table.
            rest: the other fields, which do not depend on the order.
        """
        order = np.lexsort((table[:, 3], table[:, 2]))
        place = np.append(np.argsort(order), -1)  # what follows nothing, -1, stays -1
        origin, destination, departure, arrival = table[order].T
        return cls(
            origin, destination, departure, arrival, names=tuple(names[k] for k in order),
            follows=place[np.array(follows, dtype=np.int64)][order], **rest,
        )  # fmt: skip

    def __repr__(self) -> str:
        n, s = len(self), len(self.stations)
        hours = f"{clock(self.departure[0])}-{clock(self.arrival.max())}" if n else "no service"
        depots = ", ".join(self.stations[d] for d in self.depots)
        parts = [f"{n} trip{'s' * (n != 1)}", f"{s} station{'s' * (s != 1)}", f"depots {depots or 'none'}", hours]
        return f"Timetable({', '.join(parts)})"

    def __str__(self) -> str:
        """`repr` above the first trips."""
        shown = [self.describe(trip) for trip in range(min(len(self), SHOWN))]
        more = [f"... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n  ".join([repr(self), *shown, *more])

    @classmethod
    def generate(
        cls, trips: int, *, stations: int = 8, depots: int = 3, family: Family = "line", seed: int = 0
    ) -> Timetable:
        """A random day: two peaks, trains both ways between neighbours and on a few longer lines.

        Riding along takes 0.8 minutes a kilometre. Every trip can be covered under the default rules: some depot is
        within an hour of both its ends.

        Args:
            stations, depots: how many.
            family: "line", up to 150 km long; "star", with four arms; "ring"; "two_hubs".
            seed: same arguments, same timetable.

        >>> Timetable.generate(200, seed=1)
        Timetable(200 trips, 8 stations, depots Cedar, Elm, Ginkgo, 05:09-24:55)
        """
        drawn = draw_network(trips, stations=stations, depots=depots, family=family, seed=seed)
        return cls(**vars(drawn), names=_numbered(trips), follows=np.full(trips, -1))

    @classmethod
    def from_gtfs(
        cls,
        path: str | Path,
        *,
        date: str | datetime.date,
        route_types: Sequence[int] = (2,),
        depots: Sequence[str] | int | None = None,
        deadhead: float | Mapping[tuple[str, str], int] | Literal["none"] | None = None,
        relief: Sequence[str] = (),
        longest: int | None = 240,
    ) -> Timetable:
        """One service day of a public timetable, a folder or a zip file; trips keep their `trip_id` as name.

        Platforms are folded into their stations. See `gtfs.read_gtfs` for what is read and for the errors.

        Args:
            date: "2026-03-02", "20260302" or a date.
            route_types: as in the feed's `routes.txt`; 2 is rail.
            depots: names or stop ids; or how many; None takes the stations where trains stand overnight, until every
                end of a trip that can have a depot within an hour has one.
            deadhead: minutes a kilometre in a straight line between stations, rounded up; None is 1.0, right for
                regional trains (2.0 for a city); a mapping of minutes by pairs of station names; "none" for no
                deadheads at all, with which the ends of a branch may have no legal duty.
            relief: names or stop ids of stations where crews may change on passing trains: trips are cut into pieces
                there, and a crew may stay on board. Each multiplies the connections.
            longest: trips of more minutes are cut at stops on the way, as late as that allows; None cuts none. With
                the default rules no crew may drive more than 255 minutes without a break.
        """
        also = () if depots is None or is_whole(depots) else cast("Sequence[str]", depots)
        count = cast("int | None", depots) if also == () else None
        if isinstance(also, str | bool) or (depots is not None and not also and (count or 0) < 1):
            raise ValueError(f"depots: got {depots!r}, expected a list of names or stop ids, or how many")
        day = read_gtfs(path, date=date, route_types=route_types, also=also, relief=relief, longest=longest)
        index = {stop: k for k, stop in enumerate(day.names)}
        if isinstance(deadhead, Mapping):
            table = _given_deadheads(deadhead, {name: index[stop] for stop, name in day.names.items()})
        elif deadhead == "none":
            table = _given_deadheads({}, index)
        else:
            table = _coordinate_deadheads([day.places[stop] for stop in index], _pace(deadhead))
        rows = [(index[piece.origin], index[piece.destination], piece.departure, piece.arrival) for piece in day.pieces]
        trips = cls._in_order(
            np.array(rows),
            [piece.name for piece in day.pieces],
            [k + 1 if piece.follows_on else -1 for k, piece in enumerate(day.pieces)],
            stations=tuple(day.names.values()),
            depots=tuple(dict.fromkeys(index[stop] for stop in day.asked)),
            deadhead=table,
        )
        return trips if also else dataclasses.replace(trips, depots=_terminal_depots(trips, count))

    @classmethod
    def from_orlib_csp(cls, path: str | Path | Csp) -> Timetable:
        """A crew scheduling file of the OR-Library (Beasley and Cao): tasks, a time limit, and what may follow what.

        Tasks keep their number as their name ("task 7"). See `orlib.read_csp` for the format and its errors.

        Args:
            path: the file, or what `orlib.draw_csp` has drawn.
        """
        csp = path if isinstance(path, Csp) else read_csp(path)
        n = len(csp.start)
        place = np.argsort(np.lexsort((csp.finish, csp.start)))
        anywhere = np.zeros(n, dtype=np.int64)
        return cls._in_order(
            np.stack([anywhere, anywhere, csp.start, csp.finish], 1),
            [f"task {k + 1}" for k in range(n)],
            [-1] * n,
            stations=("anywhere",),
            depots=(0,),
            deadhead=np.zeros((1, 1), dtype=np.int64),
            links=np.stack([place[csp.links[:, 0]], place[csp.links[:, 1]], csp.links[:, 2]], 1),
            limit=csp.limit,
        )


def _checked(row: tuple[str, str, int, int]) -> tuple[str, str, int, int]:
    if len(row) != 4:
        raise ValueError(f"trips: got {row!r}, expected (origin, destination, departure, arrival)")
    if not all(is_whole(minutes) for minutes in row[2:]):
        raise TypeError(f"trips: got {row!r}, expected whole minutes after midnight, 485 for 08:05")
    return row


def is_whole(number: object) -> bool:
    """Whether something is a whole number; True and False are none."""
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)


def _numbered(n: int) -> tuple[str, ...]:
    return tuple(f"trip {k + 1}" for k in range(n))


def _coordinate_deadheads(places: Sequence[tuple[float, float] | None], minutes_per_km: float) -> NDArray[np.int64]:
    """(S, S) minutes in a straight line, rounded up; `NO_WAY` to and from stations without coordinates."""
    table = np.full((len(places), len(places)), NO_WAY, dtype=np.int64)
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        if i == j:
            table[i, j] = 0
        elif a is not None and b is not None:
            table[i, j] = math.ceil(minutes_per_km * kilometres(a, b))
    return table


def _terminal_depots(trips: Timetable, count: int | None) -> tuple[int, ...]:
    """Stations where trains stand overnight, until these bring no more ends of trips within `REACH` minutes."""
    trains = np.array([_overnight(trips, station) for station in range(len(trips.stations))])
    ends = np.bincount(np.concatenate([trips.origin, trips.destination]), minlength=len(trains))
    reach = (trips.deadhead <= REACH) & (trains > 0)[:, None]
    return tuple(sorted(choose_depots(reach, ends, trains, count)))


def _overnight(trips: Timetable, station: int) -> int:
    """The trains that stand there before the first departure, plus those that do after the last arrival."""
    out, back = trips.departure[trips.origin == station], np.sort(trips.arrival[trips.destination == station])
    before = max((k + 1 - int(np.searchsorted(back, time, side="right")) for k, time in enumerate(out)), default=0)
    before = max(before, 0)
    return 2 * before + len(back) - len(out)


def _given_deadheads(given: Mapping[tuple[str, str], int], index: Mapping[str, int]) -> NDArray[np.int64]:
    """(S, S) minutes: as given, the other way round if only one is, else `NO_WAY`."""
    table = np.full((len(index), len(index)), NO_WAY, dtype=np.int64)
    np.fill_diagonal(table, 0)
    for (a, b), minutes in given.items():
        if a not in index or b not in index:
            raise ValueError(f"deadhead: got {a!r} to {b!r}, expected two of the stations {', '.join(index)}")
        if not is_whole(minutes):
            raise TypeError(f"deadhead: got {minutes!r} from {a} to {b}, expected whole minutes")
        if not minutes >= 0:
            raise ValueError(f"deadhead: got {minutes} minutes from {a} to {b}, expected 0 or more")
        table[index[a], index[b]] = minutes
        if (b, a) not in given:
            table[index[b], index[a]] = minutes
    return table


def _pace(minutes_per_km: object) -> float:
    if minutes_per_km is None:
        return 1.0
    if isinstance(minutes_per_km, numbers.Real) and not isinstance(minutes_per_km, bool):
        pace = float(minutes_per_km)
        if 0 < pace < math.inf:
            return pace
    raise ValueError(
        f"deadhead: got {minutes_per_km!r}, expected minutes a kilometre, minutes by pairs, 'none' or None"
    )


def _check(timetable: Timetable) -> None:
    n, s = len(timetable.departure), len(timetable.stations)
    for name in ("origin", "destination", "arrival", "names", "follows"):
        if len(getattr(timetable, name)) != n:
            raise ValueError(f"{name}: got {len(getattr(timetable, name))}, expected one for each of {n} departures")
    for name in ("origin", "destination", "depots"):
        stations = np.asarray(getattr(timetable, name), dtype=np.int64)
        if ((stations < 0) | (stations >= s)).any():
            raise ValueError(f"{name}: got station {stations.max()}, expected 0 to {s - 1}")
    if timetable.deadhead.shape != (s, s) or (timetable.deadhead < 0).any() or timetable.deadhead.diagonal().any():
        raise ValueError(
            f"deadhead: got {timetable.deadhead}, expected ({s}, {s}) minutes from 0 up, 0 on the diagonal"
        )
    if len(set(timetable.depots)) != len(timetable.depots):
        raise ValueError(f"depots: got {[timetable.stations[d] for d in timetable.depots]}, expected each station once")
    if (late := np.flatnonzero(timetable.duration <= 0)).size:
        raise ValueError(f"arrival: got {timetable.describe(late[0])}, expected it after the departure")
    if (far := np.flatnonzero(np.maximum(-timetable.departure, timetable.arrival) >= NO_WAY)).size:
        raise ValueError(f"departure: got {timetable.describe(far[0])}, expected less than {NO_WAY:,} minutes")
    if (np.diff(timetable.departure) < 0).any():
        raise ValueError("departure: got trips out of order, expected them sorted (Timetable.of sorts)")
    train = np.flatnonzero(timetable.follows >= 0)
    after = timetable.follows[train]
    if (after >= n).any() or (timetable.departure[after[after < n]] < timetable.arrival[train[after < n]]).any():
        raise ValueError("follows: got a piece that begins before the one it follows has ended, expected a later one")
    _check_links(timetable)


def _check_links(timetable: Timetable) -> None:
    links, n = timetable.links, len(timetable)
    if links is None:
        return
    if links.ndim != 2 or links.shape[1] != 3 or ((links[:, :2] < 0) | (links[:, :2] >= n)).any():
        raise ValueError(
            f"links: got shape {links.shape}, expected (m, 3) with two of {n} trips and a cost in each row"
        )
    if timetable.limit is None:
        raise ValueError("limit: got None, expected the minutes a duty may last, with links")
    early = np.flatnonzero(timetable.departure[links[:, 1]] < timetable.arrival[links[:, 0]])
    if early.size:
        i, j, _ = links[early[0]]
        raise ValueError(f"links: got {timetable.describe(i)} before {timetable.describe(j)}, expected a later trip")
