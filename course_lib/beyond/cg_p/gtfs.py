"""One service day of a public timetable in the GTFS format, from a folder or a zip file, with the csv module alone."""

from __future__ import annotations

import csv
import datetime
import difflib
import io
import itertools
import math
import numbers
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

#: Days named where the one asked for has no service.
NEAREST = 5
#: Hours of a time; a train under way for longer is a misprint.
LATEST = 999
LAST_DAY = datetime.date.max.toordinal()
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class Piece:
    """A trip, or the part of one between two stations where the crew may change."""

    name: str
    origin: str  #: stop id of the station
    destination: str
    departure: int  #: minutes after midnight of the service day
    arrival: int
    follows_on: bool  #: the next piece in the list is the same train


@dataclass(frozen=True)
class ServiceDay:
    """What `read_gtfs` reads. Platforms are folded into their stations."""

    pieces: tuple[Piece, ...]  #: trip by trip
    names: dict[str, str]  #: by stop id of the stations where pieces begin or end, and of those asked for; no two equal
    places: dict[str, tuple[float, float] | None]  #: latitude and longitude in degrees, None where the feed has none
    asked: tuple[str, ...]  #: stop ids of the stations asked for by `also`


def read_gtfs(
    path: str | Path,
    *,
    date: str | datetime.date,
    route_types: Sequence[int],
    also: Sequence[str] = (),
    relief: Sequence[str] = (),
    longest: int | None = None,
) -> ServiceDay:
    """The trips of one service day.

    Times are rounded to minutes; those past 24:00 belong to the day on which the trip began. Trips that run by headway
    (`frequencies.txt`) are repeated. Vehicle blocks are not used.

    Args:
        path: folder or zip file.
        date: "2026-03-02", "20260302" or a date.
        route_types: as in `routes.txt`; some feeds write 100 to 117 for the kinds of trains.
        also: names or stop ids of stations wanted even if no piece ends there: the depots.
        relief: names or stop ids of stations at which passing trips are cut into pieces.
        longest: trips of more minutes are cut at stops with times, as late as that allows.

    Raises:
        FileNotFoundError: no such path, or a file the day cannot be known without.
        TypeError: one name or number in place of a list, or a list of something else.
        ValueError: no service, or no trip of these types, on the date; a malformed time or number, naming file and
            line; a missing column; a reference to something that is not there; a zip with paths outside itself.
    """
    day = _parse_date(date)
    for what, given, kind, kinds in (
        ("route_types", route_types, numbers.Integral, "whole numbers"), ("relief", relief, str, "names or stop ids"),
        ("depots", also, str, "names or stop ids"),
    ):  # fmt: skip
        if isinstance(given, str) or not isinstance(given, Iterable) or not all(isinstance(one, kind) for one in given):
            raise TypeError(f"{what}: got {given!r}, expected a list of {kinds}")
    if longest is not None and not (isinstance(longest, numbers.Integral) and longest >= 1):
        raise ValueError(f"longest: got {longest!r}, expected whole minutes from 1 up, or None")
    with _opened(path) as feed:
        trips = _trips(feed, _services(feed, day), set(route_types), day)
        headways = _headways(feed, trips) if feed.has("frequencies.txt") else {}
        stops = _stops(feed)
        calls = _calls(feed, trips, stops)
    cut = {_station(name, "relief", stops) for name in relief}
    asked = tuple(_station(name, "depots", stops) for name in also)
    pieces: list[Piece] = []
    for trip in sorted(calls):
        if trip not in headways:
            pieces += _cut(trip, calls[trip], 0, cut, longest)
        for k, start in enumerate(headways.get(trip, ()), 1):
            pieces += _cut(f"{trip} #{k}", calls[trip], start - calls[trip][0].departure, cut, longest)
    used = {end for piece in pieces for end in (piece.origin, piece.destination)} | set(asked)
    names = _unique_names(used, stops)
    return ServiceDay(tuple(pieces), names, {stop: stops[stop].place for stop in names}, asked)


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Along the great circle between two (latitude, longitude) in degrees.

    >>> round(kilometres((52.0, 5.0), (53.0, 5.0)))
    111
    """
    lat_a, lon_a, lat_b, lon_b = map(math.radians, (*a, *b))
    chord = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371.0 * math.asin(min(1.0, math.sqrt(chord)))


class _Feed:
    """The files of a feed, wherever they are."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None, members: dict[str, str]) -> None:
        self.path, self._archive, self._members = path, archive, members

    def has(self, name: str) -> bool:
        return name in self._members

    def rows(self, name: str, *columns: str, optional: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
        """Where ("stops.txt, line 3") and the asked-for columns, stripped; "" for optional ones that are not there."""
        if not self.has(name):
            raise FileNotFoundError(f"{self.path}: there is no {name}, which a GTFS feed must have")
        with self._text(name) as text:
            reader = csv.reader(text)
            try:
                header = [column.strip() for column in next(reader, [])]
                if missing := [column for column in columns if column not in header]:
                    raise ValueError(f"{name}, line 1: got no column {missing[0]}, expected {', '.join(columns)}")
                places = [header.index(column) if column in header else -1 for column in (*columns, *optional)]
                for row in reader:
                    if any(map(str.strip, row)):
                        yield (
                            f"{name}, line {reader.line_num}",
                            [row[k].strip() if 0 <= k < len(row) else "" for k in places],
                        )
            except (UnicodeDecodeError, csv.Error) as error:
                raise ValueError(f"{name}: got a file that is no UTF-8 table ({error})") from error

    @contextmanager
    def _text(self, name: str) -> Iterator[TextIO]:
        member = self._members[name]
        if self._archive is None:
            with open(self.path / member, encoding="utf-8-sig", newline="") as text:
                yield text
            return
        try:
            with self._archive.open(member) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
                yield text
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: it wants a password
            raise ValueError(f"path: got {self.path}, whose {name} cannot be unpacked ({error})") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[_Feed]:
    path = Path(path)
    if path.is_dir():
        yield _Feed(path, None, {file.name: file.name for file in path.glob("*.txt")})
        return
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or zip file")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"path: got {path}, expected a folder or a zip file ({error})") from error
    with archive:
        for name in archive.namelist():
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]:
                raise ValueError(f"path: got {path} with the member {name!r}, expected no paths outside the zip file")
        names = [name for name in archive.namelist() if name.endswith(".txt") and not name.startswith("__MACOSX/")]
        homes = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == "trips.txt"}
        home = "" if "" in homes else min(homes, default="")  # some publishers pack the folder itself
        if len(homes) > 1 and home:
            raise ValueError(f"path: got {path} with feeds in {', '.join(sorted(homes))}, expected one feed")
        yield _Feed(path, archive, {n.rpartition("/")[2]: n for n in names if n.rpartition("/")[0] == home})


def _parse_date(date: str | datetime.date) -> datetime.date:
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.date.fromisoformat(date)
    except (TypeError, ValueError) as error:
        raise ValueError(f"date: got {date!r}, expected a day such as '2026-03-02'") from error


def _day(where: str, text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()
    except ValueError as error:
        raise ValueError(f"{where}: got the date {text!r}, expected YYYYMMDD") from error


def _seconds(where: str, text: str) -> int:
    """H:MM:SS after midnight of the service day; hours go past 24."""
    parts = text.split(":")
    whole = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
    hours, minutes, seconds = map(int, parts) if whole else (0, 60, 60)
    if hours > LATEST or max(minutes, seconds) > 59:
        raise ValueError(f"{where}: got the time {text!r}, expected H:MM:SS")
    return 3600 * hours + 60 * minutes + seconds


def _number(where: str, what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{where}: got the {what} {text!r}, expected a whole number") from error


def _services(feed: _Feed, day: datetime.date) -> set[str]:
    """The services that run on the day: by weekday and period, then by exceptions; either file may be the only one."""
    if not feed.has("calendar.txt") and not feed.has("calendar_dates.txt"):
        raise FileNotFoundError(f"{feed.path}: there is neither calendar.txt nor calendar_dates.txt")
    running, known = set(), []
    if feed.has("calendar.txt"):
        weekday = DAYS[day.weekday()]
        for where, (service, runs, start, end) in feed.rows(
            "calendar.txt", "service_id", weekday, "start_date", "end_date"
        ):
            first, last = _day(where, start), _day(where, end)
            known += [first, last]
            if runs == "1" and first <= day <= last:
                running.add(service)
    if feed.has("calendar_dates.txt"):
        for where, (service, text, kind) in feed.rows("calendar_dates.txt", "service_id", "date", "exception_type"):
            if kind not in ("1", "2"):
                raise ValueError(f"{where}: got the exception_type {kind!r}, expected 1 (added) or 2 (removed)")
            known.append(_day(where, text))
            if known[-1] == day:
                (running.add if kind == "1" else running.discard)(service)
    if not running:
        period = f"it knows days from {min(known)} to {max(known)}" if known else "its calendar is empty"
        if near := sorted(sorted(_days_with_service(feed, day), key=lambda other: abs(other - day))[:NEAREST]):
            period += f", the nearest with service are {', '.join(map(str, near))}"
        raise ValueError(f"date: got {day}, on which {feed.path} has no service; {period}")
    return running


def _days_with_service(feed: _Feed, day: datetime.date) -> set[datetime.date]:
    """Within a year of a day."""
    running: dict[datetime.date, set[str]] = defaultdict(set)
    begin, stop = (datetime.date.fromordinal(min(max(1, day.toordinal() + days), LAST_DAY)) for days in (-366, 366))
    if feed.has("calendar.txt"):
        for where, (service, start, end, *runs) in feed.rows(
            "calendar.txt", "service_id", "start_date", "end_date", *DAYS
        ):
            first, last = max(_day(where, start), begin), min(_day(where, end), stop)
            for k in range((last - first).days + 1):
                other = first + datetime.timedelta(days=k)
                if runs[other.weekday()] == "1":
                    running[other].add(service)
    if feed.has("calendar_dates.txt"):
        for where, (service, text, kind) in feed.rows("calendar_dates.txt", "service_id", "date", "exception_type"):
            others = running[_day(where, text)]
            (others.add if kind == "1" else others.discard)(service)
    return {other for other, services in running.items() if services}


def _trips(feed: _Feed, services: set[str], route_types: set[int], day: datetime.date) -> set[str]:
    """Trip ids of the services and route types."""
    types: dict[str, int] = {}
    for where, (route, kind) in feed.rows("routes.txt", "route_id", "route_type"):
        if types.setdefault(route, _number(where, "route_type", kind)) != int(kind):
            raise ValueError(f"{where}: got the route {route!r} again, of another type, expected it once")
    chosen, others = set(), Counter[int]()
    for where, (route, service, trip) in feed.rows("trips.txt", "route_id", "service_id", "trip_id"):
        if service not in services:
            continue
        if route not in types:
            raise ValueError(f"{where}: got the route {route!r}, expected one of routes.txt")
        if types[route] in route_types:
            chosen.add(trip)
        else:
            others[types[route]] += 1
    if not chosen:
        found = ", ".join(f"{kind} ({count} trips)" for kind, count in sorted(others.items())) or "none at all"
        raise ValueError(
            f"route_types: got {sorted(route_types)}, of which nothing runs on {day}; that day has {found}"
        )
    return chosen


def _headways(feed: _Feed, trips: set[str]) -> dict[str, list[int]]:
    """The departures, in seconds, of the trips that run every so often."""
    starts: dict[str, list[int]] = defaultdict(list)
    for where, (trip, start, end, every) in feed.rows(
        "frequencies.txt", "trip_id", "start_time", "end_time", "headway_secs"
    ):
        if trip in trips:
            if (step := _number(where, "headway_secs", every)) < 1:
                raise ValueError(f"{where}: got the headway_secs {step}, expected 1 or more")
            if not (times := range(_seconds(where, start), _seconds(where, end), step)):
                raise ValueError(f"{where}: got the end_time {end}, expected one after the start_time, {start}")
            starts[trip] += times
    return starts


@dataclass(frozen=True)
class _Stop:
    station: str  # stop id of what it belongs to, its own if to nothing
    name: str
    place: tuple[float, float] | None


def _stops(feed: _Feed) -> dict[str, _Stop]:
    """All stops by id, each with the station at the top of its chain of parents."""
    rows: dict[str, tuple[str, ...]] = {}
    for where, (stop, *rest) in feed.rows(
        "stops.txt", "stop_id", optional=("stop_name", "stop_lat", "stop_lon", "parent_station")
    ):
        if stop in rows and rows[stop][1:] != (*rest,):
            raise ValueError(f"{where}: got the stop {stop!r} again, expected it once")
        rows[stop] = (where, *rest)
    stops = {}
    for stop, (where, name, lat, lon, parent) in rows.items():
        station, seen = stop, {stop}
        while parent:
            if parent not in rows or parent in seen:
                raise ValueError(f"{where}: got the parent_station {parent!r}, expected another stop of stops.txt")
            station, parent = parent, rows[parent][4]
            seen.add(station)
        stops[stop] = _Stop(station, name or stop, _place(where, lat, lon))
    return stops


def _place(where: str, lat: str, lon: str) -> tuple[float, float] | None:
    if not lat or not lon:
        return None
    try:
        place = float(lat), float(lon)
    except ValueError:
        place = math.nan, math.nan
    if not (abs(place[0]) <= 90 and abs(place[1]) <= 180):
        raise ValueError(f"{where}: got the coordinates {lat!r}, {lon!r}, expected degrees")
    return place


@dataclass(frozen=True, order=True)
class _Call:
    """A train at a station, in seconds; of all stops of a trip, those the feed names a time for."""

    sequence: int
    where: str
    station: str
    arrival: int
    departure: int


def _calls(feed: _Feed, trips: set[str], stops: dict[str, _Stop]) -> dict[str, list[_Call]]:
    """The calls of each trip in their order."""
    calls: dict[str, list[_Call]] = {trip: [] for trip in sorted(trips)}
    untimed: dict[str, list[tuple[int, str]]] = {trip: [] for trip in trips}
    for where, (trip, stop, sequence, *times) in feed.rows(
        "stop_times.txt", "trip_id", "stop_id", "stop_sequence", "arrival_time", "departure_time"
    ):
        if trip not in trips:
            continue
        if stop not in stops:
            raise ValueError(f"{where}: got the stop {stop!r}, expected one of stops.txt")
        order = _number(where, "stop_sequence", sequence)
        known = [_seconds(where, time) for time in times if time]  # one of the two stands for both
        if known:
            calls[trip].append(_Call(order, where, stops[stop].station, known[0], known[-1]))
        else:
            untimed[trip].append((order, where))
    for trip, found in calls.items():
        _check_calls(trip, sorted(found), untimed[trip])
        found.sort()
    return calls


def _check_calls(trip: str, timed: list[_Call], untimed: list[tuple[int, str]]) -> None:
    for order, where in untimed:
        if not timed or not timed[0].sequence < order < timed[-1].sequence:
            raise ValueError(f"{where}: got no time, expected one at the first and the last stop of a trip")
    if len(timed) < 2:
        raise ValueError(f"stop_times.txt: got {len(timed)} stops of the trip {trip!r}, expected two or more")
    for before, call in itertools.pairwise(timed):
        if call.sequence == before.sequence:
            raise ValueError(f"{call.where}: got the stop_sequence {call.sequence} again, expected it once in a trip")
    latest = 0
    for call in timed:
        if not latest <= call.arrival <= call.departure:
            raise ValueError(f"{call.where}: got times that go backwards, expected each stop after the one before")
        latest = call.departure


def _station(name: str, what: str, stops: dict[str, _Stop]) -> str:
    """The station of a stop id or a name."""
    if name in stops:
        return stops[name].station
    named = {stop.station for stop in stops.values() if stop.name == name}
    stations = {stop for stop in named if stops[stop].name == name} or named
    if len(stations) != 1:
        close = difflib.get_close_matches(name, {stop.name for stop in stops.values()})
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close and not stations else ""
        raise ValueError(f"{what}: got {name!r}, the name of {len(stations)} stations, expected one or a stop id{hint}")
    return stations.pop()


def _cut(name: str, timed: list[_Call], shift: int, relief: set[str], longest: int | None) -> Iterator[Piece]:
    """The pieces of one train, `shift` seconds later than its calls say."""
    ends = [k for k in range(1, len(timed) - 1) if timed[k].station in relief] + [len(timed) - 1]
    cuts = [0]
    for end in ends:
        while longest is not None and _minutes(timed[cuts[-1]].departure, timed[end].arrival) > longest:
            start = cuts[-1]
            fits = [k for k in range(start + 1, end) if _minutes(timed[start].departure, timed[k].arrival) <= longest]
            if not fits and start + 1 == end:
                break
            cuts.append(fits[-1] if fits else start + 1)
        cuts.append(end)
    ready = 0
    for k, (start, end) in enumerate(itertools.pairwise(cuts), 1):
        departure = max(ready, _minutes(0, timed[start].departure + shift))
        ready = max(departure + 1, _minutes(0, timed[end].arrival + shift))  # a train takes a minute at least
        part = f"{name} ({k}/{len(cuts) - 1})" if len(cuts) > 2 else name
        yield Piece(part, timed[start].station, timed[end].station, departure, ready, k < len(cuts) - 1)


def _minutes(start: int, end: int) -> int:
    return (end - start + 30) // 60


def _unique_names(stations: set[str], stops: dict[str, _Stop]) -> dict[str, str]:
    """Names by stop id; the id is added where two stations have the same."""
    count = Counter(stops[stop].name for stop in stations)
    return {
        stop: stops[stop].name if count[stops[stop].name] == 1 else f"{stops[stop].name} ({stop})"
        for stop in sorted(stations)
    }
