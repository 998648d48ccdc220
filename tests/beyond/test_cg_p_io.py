"""Timetables from files: GTFS feeds and OR-Library files written here, whole, odd and broken; plans to CSV."""

import csv
import datetime
import zipfile
from pathlib import Path

import numpy as np
import pytest

from course_lib.beyond.cg_p import NO_WAY, CrewPlan, CrewRules, Duty, DutyGraph, Timetable, duty_cost, solve

DAY = "2026-03-02"  # a Monday

#: A branch of three stations, two of them with platforms; two trains to and fro, one of them after midnight, one bus.
#: Columns in an odd order, a byte order mark, hours without a leading zero, sequences with holes, services by dates.
FEED = {
    "stops.txt": """\ufeffstop_name,stop_id,parent_station,stop_lat,stop_lon,location_type
Central,C,,52.0,5.0,1
Central platform 1,C1,C,52.0,5.0,0
Central platform 2,C2,C,52.0,5.0,0
Midway,M,,52.1,5.0,0
"West, the end",W,,52.3,5.0,1
West platform,W1,W,52.3,5.0,0
Yard,Y,,52.01,5.0,0
""",
    "routes.txt": "route_id,route_type\nR,2\nB,3\n",
    "trips.txt": "route_id,service_id,trip_id\nR,S,out\nR,S,back\nR,S,late\nB,S,bus\nR,other,never\n",
    "stop_times.txt": """trip_id,arrival_time,departure_time,stop_id,stop_sequence
back,7:30:00,7:30:00,W1,1
out,6:05:00,6:05:00,C1,0
out,6:50:00,6:50:00,W1,20
out,6:20:00,6:21:00,M,10
back,8:15:00,8:15:00,C2,7
back,,,M,4
late,23:50:10,23:50:10,W1,1
late,24:35:40,24:35:40,C2,2
bus,bad,bad,C1,1
""",
    "calendar_dates.txt": "service_id,date,exception_type\nS,20260302,1\nother,20260303,1\nother,20260304,2\n",
}


def write(folder: Path, **changed: str | None) -> Path:
    """The feed with some files replaced, named without their ending, or left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (FEED | {f"{stem}.txt": text for stem, text in changed.items()}).items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def pack(target: Path, prefix: str = "", **more: str) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in FEED.items():
            archive.writestr(prefix + name, text)
        for name, text in more.items():
            archive.writestr(name, text)
    return target


def with_calendar(days: str, start: str = "20260101", end: str = "20261231") -> str:
    names = "monday,tuesday,wednesday,thursday,friday,saturday,sunday"
    return f"service_id,{names},start_date,end_date\nS,{','.join(days)},{start},{end}\n"


# GTFS


def test_platforms_are_folded_and_times_go_past_midnight(tmp_path):
    t = Timetable.from_gtfs(write(tmp_path), date=DAY, depots=["Central"])
    assert t.names == ("out", "back", "late")
    assert [t.describe(trip) for trip in range(3)] == [
        "out: Central 06:05 - West, the end 06:50",
        "back: West, the end 07:30 - Central 08:15",
        "late: West, the end 23:50 - Central 24:36",
    ]
    assert [t.stations[d] for d in t.depots] == ["Central"]
    assert (t.follows == -1).all()


@pytest.mark.parametrize("kind", ["zip", "zip with a folder", "text path", "date object"])
def test_folder_or_zip_path_or_text(tmp_path, kind):
    path = write(tmp_path / "feed")
    day = datetime.date(2026, 3, 2) if kind == "date object" else DAY
    if kind.startswith("zip"):
        prefix = "feed/" if kind == "zip with a folder" else ""
        path = pack(tmp_path / "feed.zip", prefix, **{"__MACOSX/stops.txt": "rubbish"})
    t = Timetable.from_gtfs(str(path) if kind == "text path" else path, date=day)
    assert t.names == ("out", "back", "late")


def test_one_feed_a_zip(tmp_path):
    extra = {"readme.txt": "hello", "old/trips.txt": "trip_id\n"}
    assert len(Timetable.from_gtfs(pack(tmp_path / "a.zip", **extra), date=DAY)) == 3
    with pytest.raises(ValueError, match="path: got .* with feeds in new, old, expected one feed"):
        Timetable.from_gtfs(pack(tmp_path / "b.zip", "new/", **extra), date=DAY)
    assert len(Timetable.from_gtfs(pack(tmp_path / "c.zip", "new/", **{"readme.txt": "hello"}), date=DAY)) == 3


def test_deadheads_from_coordinates_given_or_none(tmp_path):
    path = write(tmp_path)
    t = Timetable.from_gtfs(path, date=DAY)
    assert t.stations == ("Central", "West, the end")
    assert t.deadhead.tolist() == [[0, 34], [34, 0]]  # 0.3 degrees of latitude are 33.4 km
    assert Timetable.from_gtfs(path, date=DAY, deadhead=2).deadhead[0, 1] == 67
    none = Timetable.from_gtfs(path, date=DAY, deadhead="none")
    assert none.deadhead.tolist() == [[0, NO_WAY], [NO_WAY, 0]]
    given = {("Central", "West, the end"): 40, ("West, the end", "Central"): 45}
    assert Timetable.from_gtfs(path, date=DAY, deadhead=given).deadhead.tolist() == [[0, 40], [45, 0]]
    bare = write(tmp_path / "bare", stops="stop_id\nC1\nC2\nW1\nM\n")
    assert Timetable.from_gtfs(bare, date=DAY).deadhead.max() == NO_WAY
    for wrong in (0, -1.0, "some", float("inf")):
        with pytest.raises(ValueError, match="deadhead: got"):
            Timetable.from_gtfs(path, date=DAY, deadhead=wrong)
    with pytest.raises(ValueError, match="deadhead: got 'Central' to 'Moon'"):
        Timetable.from_gtfs(path, date=DAY, deadhead={("Central", "Moon"): 5})


def test_depots_named_counted_or_chosen(tmp_path):
    path = write(tmp_path)
    named = Timetable.from_gtfs(path, date=DAY, depots=["Yard", "W1", "W"])
    assert [named.stations[d] for d in named.depots] == ["Yard", "West, the end"]
    assert duty_cost([0, 1], named, depot=named.depots[0]) is not None  # nobody calls at the yard, but it is near
    chosen = Timetable.from_gtfs(path, date=DAY)
    assert len(chosen.depots) == 1  # 34 minutes from end to end: one is enough
    apart = Timetable.from_gtfs(path, date=DAY, deadhead="none")
    assert len(apart.depots) == 2
    assert len(Timetable.from_gtfs(path, date=DAY, depots=2).depots) == 2
    for wrong in ("Central", [], 0):
        with pytest.raises(ValueError, match="depots: got .*, expected a list of names or stop ids, or how many"):
            Timetable.from_gtfs(path, date=DAY, depots=wrong)
    with pytest.raises(ValueError, match="depots: got 'Centrale', the name of 0 stations.*'Central'"):
        Timetable.from_gtfs(path, date=DAY, depots=["Centrale"])


@pytest.mark.parametrize(
    ("calendar", "dates", "runs"),
    [
        (with_calendar("1000000"), None, True),
        (with_calendar("0111111"), None, False),
        (with_calendar("1111111", end="20260301"), None, False),
        (with_calendar("1111111", start="20260302", end="20260302"), None, True),
        (with_calendar("1111111"), "service_id,date,exception_type\nS,20260302,2\n", False),
        (with_calendar("0000000"), "service_id,date,exception_type\nS,20260302,1\n", True),
        (with_calendar("0000000"), "service_id,date,exception_type\nS,20260309,1\n", False),
    ],
)
def test_weekdays_periods_and_exceptions(tmp_path, calendar, dates, runs):
    path = write(tmp_path, calendar=calendar, calendar_dates=dates)
    if runs:
        assert len(Timetable.from_gtfs(path, date=DAY)) == 3
    else:
        with pytest.raises(ValueError, match="date: got 2026-03-02, on which .* has no service; it knows days from"):
            Timetable.from_gtfs(path, date=DAY)


def test_without_service_the_nearest_days_are_named(tmp_path):
    with_dates = write(tmp_path / "dates")
    with pytest.raises(ValueError, match="2026-03-04, the nearest with service are 2026-03-02, 2026-03-03$"):
        Timetable.from_gtfs(with_dates, date="2026-03-04")
    sundays = write(tmp_path / "sundays", calendar=with_calendar("0000001"), calendar_dates=None)
    with pytest.raises(ValueError, match="service are 2026-02-15, 2026-02-22, 2026-03-01, 2026-03-08, 2026-03-15$"):
        Timetable.from_gtfs(sundays, date=DAY)
    never = "service_id,date,exception_type\nS,20260302,2\n"
    with pytest.raises(ValueError, match="it knows days from 2026-03-02 to 2026-03-02$"):
        Timetable.from_gtfs(write(tmp_path / "never", calendar_dates=never), date=DAY)


def test_trips_are_cut_at_relief_stations_and_crews_may_stay_on_board(tmp_path):
    t = Timetable.from_gtfs(write(tmp_path), date=DAY, relief=["Midway"], depots=["Central"])
    assert [t.describe(trip) for trip in range(2)] == [
        "out (1/2): Central 06:05 - Midway 06:20",
        "out (2/2): Midway 06:21 - West, the end 06:50",
    ]
    assert t.names[2:] == ("back", "late")  # "back" names no time at Midway, where nobody can take over then
    assert t.follows.tolist() == [1, -1, -1, -1]
    graph = DutyGraph.of(t)
    assert (0, 1) in zip(*graph.edge_index.tolist(), strict=True)
    assert duty_cost([0, 1, 2], t) == 480 + 30 + 130
    with pytest.raises(ValueError, match="relief: got 'Nowhere'"):
        Timetable.from_gtfs(write(tmp_path), date=DAY, relief=["Nowhere"])


def test_no_train_stands_overnight_where_it_only_passes(tmp_path):
    """Cut at Midway, where it arrives and leaves within one minute, the train is a new one for nobody."""
    path = write(tmp_path, stop_times=FEED["stop_times.txt"].replace("6:20:00,6:21:00", "6:20:00,6:20:00"))
    t = Timetable.from_gtfs(path, date=DAY, relief=["Midway"], deadhead="none")
    assert sorted(t.stations[d] for d in t.depots) == ["Central", "West, the end"]


def test_trips_longer_than_a_crew_may_work_are_cut_where_they_stop(tmp_path):
    times = "".join(f"long,{h}:00:00,{h}:02:00,S{h},{h}\n" for h in range(5, 16))
    path = write(
        tmp_path,
        stops="stop_id\n" + "".join(f"S{h}\n" for h in range(5, 16)),
        trips="route_id,service_id,trip_id\nR,S,long\n",
        stop_times="trip_id,arrival_time,departure_time,stop_id,stop_sequence\n" + times,
    )
    t = Timetable.from_gtfs(path, date=DAY)
    assert t.duration.tolist() == [238, 238, 118]
    assert t.follows.tolist() == [1, 2, -1]
    assert Timetable.from_gtfs(path, date=DAY, longest=None).duration.tolist() == [598]
    assert Timetable.from_gtfs(path, date=DAY, longest=30).duration.tolist() == [58] * 10  # no shorter than its stops


def test_a_trip_of_seconds_takes_a_minute_and_no_piece_overtakes_another(tmp_path):
    path = write(
        tmp_path,
        trips="route_id,service_id,trip_id\nR,S,hop\n",
        stop_times="""trip_id,arrival_time,departure_time,stop_id,stop_sequence
hop,8:00:00,8:00:00,C1,1
hop,8:00:20,8:00:25,M,2
hop,8:00:50,8:00:50,W1,3
""",
    )
    t = Timetable.from_gtfs(path, date=DAY, relief=["Midway"])
    assert (t.departure.tolist(), t.arrival.tolist()) == ([480, 481], [481, 482])


def test_trips_by_headway_are_repeated(tmp_path):
    rows = f"{HEADWAYS}out,6:00:00,7:00:00,1200\nbus,6:00:00,x,0\n"
    t = Timetable.from_gtfs(write(tmp_path, frequencies=rows), date=DAY)
    assert t.names == ("out #1", "out #2", "out #3", "back", "late")
    assert (t.departure[:3].tolist(), t.arrival[:3].tolist()) == ([360, 380, 400], [405, 425, 445])


def test_stations_of_the_same_name_are_told_apart(tmp_path):
    stops = "stop_id,stop_name\nC1,Village\nC2,Village\nM,Midway\nW1,Town\n"
    t = Timetable.from_gtfs(write(tmp_path, stops=stops), date=DAY, depots=["C2"])
    assert t.stations == ("Village (C1)", "Village (C2)", "Town")
    with pytest.raises(ValueError, match="depots: got 'Village', the name of 2 stations, expected one or a stop id"):
        Timetable.from_gtfs(tmp_path, date=DAY, depots=["Village"])


@pytest.mark.parametrize("stem", ["stops", "routes", "trips", "stop_times", "calendar_dates"])
def test_a_missing_file_is_named(tmp_path, stem):
    with pytest.raises(FileNotFoundError, match=f"{stem}.txt"):
        Timetable.from_gtfs(write(tmp_path, **{stem: None}), date=DAY)


HEADWAYS = "trip_id,start_time,end_time,headway_secs\n"
TIMES = "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"


def with_times(*rows: str) -> dict[str, str]:
    """Stop times of "back" and "late" as they are, of "out" as given from line 6 on."""
    keep = [row for row in FEED["stop_times.txt"].splitlines()[1:] if row.startswith(("back,7", "back,8", "late"))]
    return {"stop_times": TIMES + "\n".join([*keep, *rows]) + "\n"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (with_times("out,6:05,6:05,C1,1"), "stop_times.txt, line 6: got the time '6:05', expected H:MM:SS"),
        (with_times("out,6:65:00,6:05:00,C1,1"), "stop_times.txt, line 6: got the time '6:65:00'"),
        (with_times("out,-1:05:00,6:05:00,C1,1"), "stop_times.txt, line 6: got the time '-1:05:00'"),
        (with_times("out,6:05:00,6:05:00,X9,1"), "stop_times.txt, line 6: got the stop 'X9'"),
        (with_times("out,6:05:00,6:05:00,C1,one"), "stop_times.txt, line 6: got the stop_sequence 'one'"),
        (with_times("out,6:05:00,6:05:00,C1,1"), "stop_times.txt: got 1 stops of the trip 'out'"),
        (with_times("out,6:05:00,6:05:00,C1,1", "out,6:04:00,6:04:00,W1,2"), "stop_times.txt, line 7: got times that"),
        (with_times("out,6:05:00,6:04:00,C1,1", "out,7:04:00,7:04:00,W1,2"), "stop_times.txt, line 6: got times that"),
        (with_times("out,6:05:00,6:05:00,C1,1", "out,,,W1,2"), "stop_times.txt, line 7: got no time"),
        ({"stop_times": "trip_id,stop_id\n"}, "stop_times.txt, line 1: got no column stop_sequence"),
        ({"stop_times": ""}, "stop_times.txt, line 1: got no column trip_id"),
        ({"stop_times": TIMES}, "stop_times.txt: got 0 stops of the trip"),
        ({"routes": "route_id,route_type\nR,rail\n"}, "routes.txt, line 2: got the route_type 'rail'"),
        ({"routes": "route_id,route_type\nB,3\n"}, "trips.txt, line 2: got the route 'R', expected one of routes.txt"),
        ({"routes": "route_id,route_type\nR,109\nB,3\n"}, r"got \[2\], .* that day has 3 \(1 trips\), 109 \(3 trips\)"),
        ({"stops": "stop_id,parent_station\nC1,P\n"}, "stops.txt, line 2: got the parent_station 'P'"),
        ({"stops": "stop_id,parent_station\nA,B\nB,A\n"}, "stops.txt, line 2: got the parent_station 'A'"),
        ({"stops": "stop_id,stop_lat,stop_lon\nC1,north,5\n"}, "stops.txt, line 2: got the coordinates 'north', '5'"),
        ({"stops": "stop_id,stop_lat,stop_lon\nC1,152.0,5\n"}, "stops.txt, line 2: got the coordinates"),
        ({"calendar_dates": "service_id,date,exception_type\nS,2-3-2026,1\n"}, "line 2: got the date '2-3-2026'"),
        ({"calendar_dates": "service_id,date,exception_type\nS,20260302,3\n"}, "line 2: got the exception_type '3'"),
        ({"frequencies": f"{HEADWAYS}out,6:00:00,7:00:00,0\n"}, "line 2: got the headway_secs 0"),
        ({"frequencies": f"{HEADWAYS}out,7:00:00,6:00:00,600\n"}, "line 2: got the end_time 6:00:00, expected"),
        ({"frequencies": f"{HEADWAYS}out,7:00:00,9999:00:00,1\n"}, "line 2: got the time '9999:00:00'"),
        ({"stops": FEED["stops.txt"] + "Other,C1,,50,5,0\n"}, "stops.txt, line 9: got the stop 'C1' again"),
        ({"routes": "route_id,route_type\nR,2\nB,3\nR,3\n"}, "routes.txt, line 4: got the route 'R' again, of another"),
        (with_times("out,6:05:00,6:05:00,C1,1", "out,7:04:00,7:04:00,W1,1"), "line 7: got the stop_sequence 1 again"),
    ],
)  # fmt: skip
def test_malformed_feeds_name_file_and_line(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        Timetable.from_gtfs(write(tmp_path, **changed), date=DAY)


def test_files_that_are_no_text_and_no_zip(tmp_path):
    path = write(tmp_path / "feed")
    (path / "stops.txt").write_bytes(b"stop_id\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"stops.txt: got a file that is no UTF-8 table"):
        Timetable.from_gtfs(path, date=DAY)
    (tmp_path / "feed.zip").write_bytes(b"PK, not really")
    with pytest.raises(ValueError, match="path: got .*feed.zip, expected a folder or a zip file"):
        Timetable.from_gtfs(tmp_path / "feed.zip", date=DAY)
    with pytest.raises(FileNotFoundError, match="nothing: there is no such folder or zip file"):
        Timetable.from_gtfs(tmp_path / "nothing", date=DAY)


def test_a_zip_that_cannot_be_unpacked(tmp_path):
    path = pack(tmp_path / "feed.zip")
    content = bytearray(path.read_bytes())
    content[60:90] = b"?" * 30
    path.write_bytes(content)
    with pytest.raises(ValueError, match="feed.zip, whose stops.txt cannot be unpacked"):
        Timetable.from_gtfs(path, date=DAY)


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n \n,,\n"])
def test_other_ends_of_lines_blank_lines_and_marks(tmp_path, ends):
    expected = Timetable.from_gtfs(write(tmp_path / "plain"), date=DAY)
    for name, text in FEED.items():
        changed = "\ufeff" + text.removeprefix("\ufeff").replace("\n", ends)
        (tmp_path / name).write_bytes(changed.encode())
    assert str(Timetable.from_gtfs(tmp_path, date=DAY)) == str(expected)


@pytest.mark.parametrize(("date", "first"), [("9999-12-31", "20260101"), ("0001-01-01", "20260101")])
def test_a_day_at_the_end_of_the_calendar(tmp_path, date, first):
    path = write(tmp_path, calendar=with_calendar("1111111", first))
    with pytest.raises(ValueError, match=f"date: got {date}, on which"):
        Timetable.from_gtfs(path, date=date)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"depots": 0}, ValueError), ({"depots": -1}, ValueError), ({"depots": True}, ValueError),
        ({"depots": []}, ValueError), ({"depots": [1]}, TypeError), ({"depots": 1.5}, TypeError),
        ({"route_types": ["2"]}, TypeError), ({"route_types": None}, TypeError),
        ({"longest": 0}, ValueError), ({"longest": "a"}, ValueError), ({"deadhead": True}, ValueError),
        ({"deadhead": {("Central", "Midway"): 3}}, ValueError),
        ({"deadhead": {("Central", "West, the end"): 12.5}}, TypeError),
    ],
)  # fmt: skip
def test_arguments_of_another_kind(tmp_path, wrong, error):
    with pytest.raises(error, match=f"{next(iter(wrong))}: got"):
        Timetable.from_gtfs(write(tmp_path), date=DAY, **wrong)


@pytest.mark.parametrize(
    "name", ["../stops.txt", "/etc/stops.txt", "feed/../../stops.txt", "..\\stops.txt", "C:\\x.txt"]
)
def test_a_zip_with_paths_outside_itself_is_refused(tmp_path, name):
    path = pack(tmp_path / "feed.zip", **{name: "stop_id\n"})
    with pytest.raises(ValueError, match="expected no paths outside the zip file"):
        Timetable.from_gtfs(path, date=DAY)


@pytest.mark.parametrize("wrong", [{"route_types": 2}, {"relief": "Midway"}])
def test_one_in_place_of_a_list(tmp_path, wrong):
    with pytest.raises(TypeError, match=f"{next(iter(wrong))}: got .*, expected a list"):
        Timetable.from_gtfs(write(tmp_path), date=DAY, **wrong)


@pytest.mark.parametrize("date", ["2 March", "2026-02-30", "", None, 20260302])
def test_dates_that_are_none(tmp_path, date):
    with pytest.raises(ValueError, match="date: got .*, expected a day such as '2026-03-02'"):
        Timetable.from_gtfs(write(tmp_path), date=date)


# OR-Library


CSP = """ 4 100
 0 40
 50 90
 50 120
 125 140
 1 2 15
 1 3 12

 3 4 9
"""


def csp(folder: Path, text: str) -> Path:
    (folder / "csp4.txt").write_text(text)
    return folder / "csp4.txt"


def test_tasks_limit_and_listed_transitions(tmp_path):
    t = Timetable.from_orlib_csp(csp(tmp_path, CSP))
    assert (len(t), t.limit, t.names[0]) == (4, 100, "task 1")
    assert t.links.tolist() == [[0, 1, 15], [0, 2, 12], [2, 3, 9]]
    assert (duty_cost([0, 1], t), duty_cost([2, 3], t), duty_cost([0, 2], t), duty_cost([3], t)) == (15, 9, None, 0)
    assert DutyGraph.of(t).rules == CrewRules.orlib(100)


def test_a_file_with_a_byte_order_mark_and_a_negative_cost(tmp_path):
    t = Timetable.from_orlib_csp(csp(tmp_path, "\ufeff2 100\n0 40\n50 90\n1 2 -15\n"))
    plan = solve(t, crews=1)
    assert (plan.status, plan.cost) == ("optimal", -15.0) and "(gap 0.00%)" in plan.summary()


def test_tasks_in_any_order_keep_their_numbers(tmp_path):
    t = Timetable.from_orlib_csp(csp(tmp_path, "3 100\n50 90\n0 40\n0 30\n2 1 7\n3 1 8\n"))
    assert t.names == ("task 3", "task 2", "task 1")
    assert t.links.tolist() == [[1, 2, 7], [0, 2, 8]]


def test_a_file_cut_between_two_transitions_is_a_whole_file(tmp_path):
    lines = CSP.splitlines()
    assert len(Timetable.from_orlib_csp(csp(tmp_path, "\n".join(lines[:6]))).links) == 1
    assert len(Timetable.from_orlib_csp(csp(tmp_path, "\n".join(lines[:5]))).links) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "csp4.txt, line 1: got an empty file"),
        ("4\n", "csp4.txt, line 1: got 1 numbers, expected how many tasks there are and the time limit"),
        ("0 100\n", "csp4.txt, line 1: "),
        ("4 100\n0 40\n50 90\n", "csp4.txt: got 2 tasks, expected 4: the file is cut short"),
        ("2 100\n0 40\n50\n", "csp4.txt, line 3: got 1 numbers, expected a start and a finish"),
        ("3 100\n0 40\n50 90\n1 2 5\n", "csp4.txt, line 4: got 3 numbers, expected a start and a finish"),
        ("1 100\n40 40\n", "csp4.txt, line 2: got a task from 40 to 40"),
        (CSP + "2 4", "csp4.txt, line 10: got 2 numbers, expected two tasks and the cost"),
        (CSP + "2 5 1", "csp4.txt, line 10: got the transition 2 5, expected tasks from 1 to 4"),
        (CSP + "0 1 1", "csp4.txt, line 10: got the transition 0 1"),
        (CSP + "2 3 1", "csp4.txt, line 10: got the transition 2 3, expected one to a task that begins later"),
        (CSP + "1 2 15", "csp4.txt, line 10: got the transition 1 2 again, expected it once"),
        (CSP + "1 4 1.5", "csp4.txt, line 10: got '1 4 1.5', expected whole numbers"),
        (CSP + f"1 4 {10**20}", "csp4.txt, line 10: got .*, expected numbers up to 1,000,000,000"),
    ],
)
def test_broken_orlib_files_name_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Timetable.from_orlib_csp(csp(tmp_path, text))


def test_no_orlib_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Timetable.from_orlib_csp(tmp_path / "csp50.txt")


# Plans


def test_a_plan_as_csv(tmp_path):
    t = Timetable.from_gtfs(write(tmp_path / "feed"), date=DAY, depots=["Central"])
    duties = (Duty((0, 1), 640.0, 0), Duty((1,), 600.0, 0))
    plan = CrewPlan(duties, 1240.0, -np.inf, np.nan, (2,), "feasible", None, (), {}, t, CrewRules())
    plan.to_csv(tmp_path / "plan.csv")
    with open(tmp_path / "plan.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["duty"], row["trip"], row["crew"]) for row in rows] == [
        ("1", "out", "driver"), ("1", "back", "driver"), ("2", "back", "passenger"), ("", "late", "uncovered"),
    ]  # fmt: skip
    assert rows[0]["destination"] == "West, the end"
    assert rows[3]["arrival"] == "24:36"
