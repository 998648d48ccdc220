"""The command `course solve-crew`: feeds and files written here, solved, refused, interrupted."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from typer.testing import CliRunner

from course_lib import cli, crew_command
from course_lib.beyond.cg_p import CrewRules, Timetable, duty_violations, solve
from course_lib.beyond.cg_p.orlib import draw_csp, write_csp

DAY = "2026-03-02"  # a Monday
STATIONS = ("Central", "Old Mill", "North, by the sea", "Quarry")
CROSSINGS = (22, 31, 17)  # minutes between neighbours


@pytest.fixture(autouse=True)
def _wide(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)


def course(*arguments):
    return CliRunner().invoke(cli.app, ["solve-crew", *map(str, arguments)])


def moment(minutes):
    """H:MM:SS, without a leading zero, past 24:00 too."""
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def feed_files(every=45):
    """Trains of two kinds and a bus on a line of four stations with two platforms each; a Monday and a Tuesday."""
    stops = [f'"{name}",S{k},,{52 + 0.2 * k},5.0,1' for k, name in enumerate(STATIONS)]
    stops += [f'"{STATIONS[k]} platform {p}",S{k}p{p},S{k},{52 + 0.2 * k},5.0,0' for k in range(4) for p in (1, 2)]
    trips, times = [], []
    for number, start in enumerate(range(5 * 60 + 12, 24 * 60 + 20, every)):
        there = number % 2 == 0
        calls = list(range(4)) if there else list(range(4))[::-1]
        calls = calls if number % 3 else calls[:3]
        name = f"{'there' if there else 'back'}-{number}"
        trips.append(f"{('R', 'E')[number % 4 == 3]},mon,{name}")
        now = start
        for order, stop in enumerate(calls):
            if order:
                now += CROSSINGS[min(calls[order - 1], stop)]
            leaves = now + (order not in (0, len(calls) - 1))
            times.append(f"{name},{moment(now)},{moment(leaves)},S{stop}p{1 + there},{10 * order}")
            now = leaves
    trips += ["B,mon,bus", "R,tue,tuesday"]
    times += [f"{name},7:00:00,7:00:00,S0p1,0\n{name},7:40:00,7:40:00,S1p1,1" for name in ("bus", "tuesday")]
    return {
        "stops.txt": "stop_name,stop_id,parent_station,stop_lat,stop_lon,location_type\n" + "\n".join(stops),
        "routes.txt": "route_id,route_type\nR,2\nE,106\nB,3\n",
        "trips.txt": "route_id,service_id,trip_id\n" + "\n".join(trips),
        "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n" + "\n".join(times),
        "calendar_dates.txt": "service_id,date,exception_type\nmon,20260302,1\ntue,20260303,1\n",
    }


@pytest.fixture
def feed(tmp_path):
    folder = tmp_path / "feed"
    folder.mkdir()
    for name, text in feed_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def tasks(tmp_path):
    write_csp(tmp_path / "csp40.txt", draw_csp(40, seed=2))
    return tmp_path / "csp40.txt"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- plans


@pytest.mark.parametrize("mode", ["exact", "optimal", "fast"])
def test_every_trip_of_a_feed_is_in_the_file(feed, tmp_path, mode):
    predictor = () if mode == "exact" else ("--predictor", "short-gaps")
    result = course(feed, "--date", DAY, "--mode", mode, "--out", "plan.csv", "--route-types", "2,106", *predictor)
    assert result.exit_code == 0, result.output
    assert "plan written to plan.csv" in result.stdout
    table = Timetable.from_gtfs(feed, date=DAY, route_types=(2, 106))
    assert len(table) == 26
    assert max(table.arrival) > 24 * 60
    assert f"for 26 of 26 trips ({mode} mode" in result.stdout
    written = rows(tmp_path / "plan.csv")
    assert {row["trip"] for row in written} == set(table.names)
    assert not any(row["crew"] == "uncovered" for row in written)
    duties = {number: list(group) for number, group in itertools.groupby(written, key=lambda row: row["duty"])}
    total = 0.0
    for group in duties.values():
        trips = [table.names.index(row["trip"]) for row in group]
        depot = table.stations.index(group[0]["depot"])
        assert not duty_violations(trips, table, CrewRules(), depot)
        total += float(group[0]["duty_cost"])
    assert f"{total:,.1f}" in result.stdout
    assert not list(tmp_path.glob("*.partial"))


def test_zip_and_folder_give_the_same_plan(feed, tmp_path):
    with zipfile.ZipFile(tmp_path / "feed.zip", "w") as archive:
        for file in feed.iterdir():
            archive.write(file, file.name)
    for path, out in ((feed, "a.csv"), (tmp_path / "feed.zip", "b.csv")):
        assert course(path, "--date", DAY, "--out", out).exit_code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_route_types_depots_deadheads_relief_and_rules_reach_the_solver(feed, tmp_path):
    (tmp_path / "rules.toml").write_text("max_duty = 480\nmeal_window = [660, 840]\nsame_depot = false\n")
    arguments = (
        "--depot", "North, by the sea", "--depot", "S0", "--deadhead", "1.5", "--relief", "Old Mill",
        "--rules", "rules.toml", "--out", "plan.csv", "--route-types", "106,2",
    )  # fmt: skip
    result = course(feed, "--date", DAY, *arguments)
    assert result.exit_code == 0, result.output
    table = Timetable.from_gtfs(
        feed, date=DAY, route_types=(2, 106), depots=["North, by the sea", "S0"], deadhead=1.5, relief=["Old Mill"]
    )
    rules = CrewRules(max_duty=480, meal_window=(660, 840), same_depot=False)
    plan = solve(table, rules)
    plan.to_csv("expected.csv")
    assert (tmp_path / "plan.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert crew_command.read_rules(tmp_path / "rules.toml") == rules
    alone = course(feed, "--date", DAY, "--depots", "1", "--deadhead", "none")
    assert alone.exit_code == 0
    uncovered = [line for line in alone.stdout.splitlines() if "a crew has no way" in line]
    assert 0 < len(uncovered) <= 6
    assert len(set(uncovered)) == len(uncovered)
    assert "... and" in alone.stdout
    assert "written" not in alone.stdout


def test_a_chart_beside_the_plan(feed, tmp_path):
    result = course(feed, "--date", DAY, "--chart", "plan.png", "--out", "plan.csv", "--mode", "fast")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "chart written to plan.png" in result.stdout
    assert course(feed, "--date", DAY, "--chart", "plan.svg").exit_code == 0
    assert "<svg" in (tmp_path / "plan.svg").read_text(encoding="utf-8")


def test_the_network_prunes_where_it_is_asked_to(feed, monkeypatch):
    pytest.importorskip("torch_geometric")
    pytest.importorskip("safetensors")
    assert course(feed, "--date", DAY, "--mode", "optimal", "--predictor", "network").exit_code == 0
    assert course(feed, "--date", DAY, "--mode", "fast", "--predictor", "chance", "--seed", 3).exit_code == 0


def test_without_a_package_it_says_which(feed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools", None)
    for name in [name for name in sys.modules if name.startswith("ortools.")]:
        monkeypatch.setitem(sys.modules, name, None)
    result = course(feed, "--date", DAY)
    assert result.exit_code == 2
    assert "pip install" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --- the OR-Library


def test_tasks_by_exactly_so_many_crews(tasks, tmp_path):
    result = course(tasks, "--crews", 26, "--out", "plan.csv", "--chart", "plan.pdf")
    assert result.exit_code == 0, result.output
    written = rows(tmp_path / "plan.csv")
    assert sorted(row["trip"] for row in written) == sorted(f"task {k}" for k in range(1, 41))
    assert len({row["duty"] for row in written}) == 26
    assert "optimal" in result.stdout
    assert (tmp_path / "plan.pdf").exists()


@pytest.mark.parametrize("crews", [1, 41])
def test_too_few_or_too_many_crews_have_no_plan_and_leave_the_last_good_file(tasks, tmp_path, crews):
    (tmp_path / "plan.csv").write_text("the last good one")
    result = course(tasks, "--crews", crews, "--out", "plan.csv")
    assert result.exit_code == 1
    assert "infeasible" in result.stdout
    assert "nothing was written" in result.stderr
    assert (tmp_path / "plan.csv").read_text() == "the last good one"


# --- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--date: got nothing, expected the service day for"),
        (("--date", "2026-03-09"), "the nearest with service are 2026-03-02, 2026-03-03"),
        (("--date", "Monday"), "date: got 'Monday', expected a day such as '2026-03-02'"),
        (("--date", DAY, "--route-types", "7"), "that day has 2 (20 trips), 3 (1 trips), 106 (6 trips)"),
        (("--date", DAY, "--route-types", "rail"), "--route-types: got 'rail', expected numbers"),
        (("--date", DAY, "--depot", "Centrall"), "depots: got 'Centrall', the name of 0 stations"),
        (("--date", DAY, "--depots", "0"), "--depots: got 0, expected 1 or more"),
        (("--date", DAY, "--depots", "2", "--depot", "S0"), "--depots: got how many and --depot as well"),
        (("--date", DAY, "--deadhead", "far"), "--deadhead: got 'far', expected minutes a kilometre or none"),
        (("--date", DAY, "--deadhead", "-1"), "deadhead: got -1.0, expected minutes a kilometre"),
        (("--date", DAY, "--relief", "Nowhere"), "relief: got 'Nowhere', the name of 0 stations"),
        (("--date", DAY, "--crews", "3"), "only the OR-Library form fixes the number of duties"),
        (("--date", DAY, "--time-limit", "-1"), "--time-limit: got -1, expected seconds from 0 up"),
        (("--date", DAY, "--predictor", "network"), "mode exact prunes nothing"),
        (("--date", DAY, "--seed", "-1"), "seed: got -1, expected a number from 0 up"),
        (("--date", DAY, "--mode", "slow"), "slow"),
        (("--date", DAY, "--out", "no/plan.csv"), "--out: got no/plan.csv, but there is no folder no"),
        (("--date", DAY, "--out", "feed"), "--out: got the folder feed, expected a file in it"),
        (("--date", DAY, "--chart", "plan.doc"), "expected a name that ends in .png, .svg, .pdf"),
        (("--date", DAY, "--chart", "x.png", "--out", "x.png"), "the file of --out, expected another"),
        (("--date", DAY, "--rules", "missing.toml"), "missing.toml: No such file or directory"),
    ],
)
def test_what_is_wrong_in_a_line(feed, arguments, message):
    result = course(feed, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    if "--mode" not in arguments:  # typer's own message has a frame
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("course solve-crew: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_duti = 500", "got the rule max_duti, which there is not; did you mean max_duty?"),
        ("explicit = true", "got the rule explicit, which there is not"),
        ("max_duty = 20", "max_duty: got 20, expected more than the 30 minutes"),
        ("max_duty = 9.5", "max_duty: got 9.5, expected whole minutes"),
        ("meal_window = [840, 660]", "meal_window: got (840, 660), expected its begin before its end"),
        ("max_duty", "rules.toml: "),
        ('same_depot = "no"', "same_depot: got 'no', expected True or False"),
    ],
)
def test_rules_that_are_none(feed, tmp_path, text, message):
    (tmp_path / "rules.toml").write_text(text)
    result = course(feed, "--date", DAY, "--rules", "rules.toml")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("nothing", None, (), "nothing: there is no such file or folder"),
        ("file.txt", b"hello", ("--crews", 2), "file.txt, line 1: got 'hello', expected whole numbers"),
        ("file.txt", b"hello", ("--date", DAY), "--date: belongs to GTFS, and file.txt is neither a folder nor a zip"),
        ("file.txt", b"1 100\n0 40\n", (), "--crews: got nothing, expected how many for the 1 tasks of file.txt"),
        ("file.zip", b"hello", ("--date", DAY), "file.zip, expected a folder or a zip file"),
    ],
)
def test_files_that_are_neither(tmp_path, name, content, arguments, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = course(name, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--out", "--chart"])
def test_devices_and_links_are_left_alone(feed, tmp_path, option):
    (tmp_path / "other.svg").write_text("other")
    (tmp_path / "link.svg").symlink_to("other.svg")
    for target in ("link.svg", "/dev/null" if option == "--out" else "link.svg"):
        result = course(feed, "--date", DAY, option, target)
        assert result.exit_code == 2
        assert f"{option}: got {target}, a device or a link" in result.stderr
    assert (tmp_path / "link.svg").is_symlink()


def test_a_zip_that_cannot_be_unpacked(feed, tmp_path):
    with zipfile.ZipFile("feed.zip", "w") as archive:
        for file in feed.iterdir():
            archive.write(file, file.name)
        place = archive.getinfo("stops.txt").header_offset
    content = bytearray((tmp_path / "feed.zip").read_bytes())
    content[place + 60 : place + 90] = b"?" * 30
    (tmp_path / "feed.zip").write_bytes(content)
    result = course("feed.zip", "--date", DAY)
    assert result.exit_code == 2
    assert "whose stops.txt cannot be unpacked" in result.stderr


def test_a_feed_without_a_file(feed):
    (feed / "trips.txt").unlink()
    result = course(feed, "--date", DAY)
    assert (result.exit_code, "there is no trips.txt" in result.stderr) == (2, True)


# --- cut short


def test_no_time_at_all_still_gives_a_plan(feed, tmp_path):
    result = course(feed, "--date", DAY, "--time-limit", 0, "--out", "plan.csv", "--route-types", "2,106")
    assert result.exit_code == 0, result.output
    assert "interrupted" in result.stdout
    assert len({row["trip"] for row in rows(tmp_path / "plan.csv")}) == 26


def test_ctrl_c_gives_the_best_plan_found_and_130(feed, tmp_path, monkeypatch):
    rounds = itertools.count()
    monkeypatch.setattr(
        crew_command, "describe", lambda step: signal.raise_signal(signal.SIGINT) if next(rounds) == 1 else ""
    )
    before = signal.getsignal(signal.SIGINT)
    result = course(feed, "--date", DAY, "--out", "plan.csv", "--route-types", "2,106")
    assert result.exit_code == 130
    assert "this is the best plan found" in result.stderr
    assert "plan written to plan.csv" in result.stdout
    assert len({row["trip"] for row in rows(tmp_path / "plan.csv")}) == 26
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_reading_writes_nothing(feed, tmp_path, monkeypatch):
    monkeypatch.setattr(Timetable, "from_gtfs", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    (tmp_path / "plan.csv").write_text("the last good one")
    result = course(feed, "--date", DAY, "--out", "plan.csv")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; nothing was written\n"
    assert (tmp_path / "plan.csv").read_text() == "the last good one"


def test_a_writer_that_fails_leaves_the_last_good_file(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    (tmp_path / "plan.csv").write_text("the last good one")
    with pytest.raises(OSError, match="No space left"):
        crew_command._replace(tmp_path / "plan.csv", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.csv"]
    assert (tmp_path / "plan.csv").read_text() == "the last good one"


@pytest.mark.skipif(os.name == "nt", reason="a signal sent to another process")
def test_ctrl_c_from_the_terminal(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    for name, text in feed_files(every=2).items():
        (folder / name).write_text(text, encoding="utf-8")
    arguments = [folder, "--date", DAY, "--route-types", "2,106", "--out", tmp_path / "plan.csv"]
    script = (
        "from course_lib import cli, crew_command; tell = crew_command.describe\n"
        "crew_command.describe = lambda step: (print('round', flush=True), tell(step))[1]\n"
        "cli.app()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "solve-crew", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "round\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (out, errors)
    assert "Traceback" not in errors
    assert "interrupted; this is the best plan found" in errors
    assert {row["trip"] for row in rows(tmp_path / "plan.csv")} == set(
        Timetable.from_gtfs(folder, date=DAY, route_types=(2, 106)).names
    )
