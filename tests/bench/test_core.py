"""The bench machinery: schema, files, goals and the command line, with a bench that measures nothing."""

import copy
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from course_lib import bench
from course_lib.bench import Goal, Options, Report, Row, core

ROWS = (
    Row.of("last exit", "images/s", [1.0, 2.0, 4.0], batch=1),
    Row.of("adaptive", "images/s", [3.0], shares=[0.5, 0.5]),
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A registered bench whose report, or error, a test sets; and a checkout in a temporary folder."""
    module = types.ModuleType("fake_bench")
    module.report = Report("fake", ROWS, [Goal("twice as fast", 2.5, 2.0)])
    module.error = None
    module.options = None
    module.DATA = ("digits", "cats")

    def run(options):
        module.options = options
        if module.error is not None:
            raise module.error
        return module.report

    module.run = run
    monkeypatch.setitem(sys.modules, "fake_bench", module)
    monkeypatch.setattr(bench, "BENCHES", {"fake": "fake_bench"})
    monkeypatch.setattr(core, "checkout", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.fixture
def result(fake):
    return core.recorded(fake.report, command="course bench fake", device="cpu")


# --- rows, goals, schema


def test_a_row_holds_median_and_quartiles():
    row = Row.of("x", "s", [4.0, 1.0, 2.0, 3.0, 5.0], threads=1)
    assert (row.q25, row.median, row.q75, row.repeats, row.details) == (2.0, 3.0, 4.0, 5, {"threads": 1})
    with pytest.raises(ValueError, match="samples: got none for 'x'"):
        Row.of("x", "s", [])


@pytest.mark.parametrize(("value", "met"), [(2.0, True), (1.99, False), (float("nan"), False)])
def test_a_goal_is_met_from_its_bound_on(value, met):
    assert Goal("g", value, 2.0).met is met


def test_a_recorded_result_says_where_it_comes_from_and_no_host_name(result):
    assert set(result) == {"bench", "command", "date", "commit", "machine", "versions", "rows", "goals"}
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["gpu"] is None
    assert result["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    import platform

    assert platform.node() not in json.dumps(result["machine"]).split('"')
    assert bench.validate(json.loads(json.dumps(result))) is None
    line = bench.caption(result)
    assert result["machine"]["cpu"] in line
    assert result["date"][:10] in line
    assert "`course bench fake`" in line


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("bench",), "", "result.bench: got ''"),
        (("date",), "yesterday", "result.date: got 'yesterday', expected an ISO 8601"),
        (("date",), "2026-11-21", "result.date: .*time zone"),
        (("machine", "cpu"), 3, "machine.cpu: got 3, expected a text"),
        (("machine", "cores"), True, "machine.cores: got True, expected a whole number"),
        (("machine", "host"), "mine", r"machine: got \['host'\], expected no more than"),
        (("versions", "triton"), None, "versions.triton: got None"),
        (("rows",), [], "result.rows: got .., expected at least one row"),
        (("rows",), {}, "result.rows: got {}, expected a list"),
        (("rows", 0, "median"), "fast", r"rows\[0\].median: got 'fast', expected a finite number"),
        (("rows", 0, "median"), float("nan"), r"rows\[0\].median: got nan"),
        (("rows", 0, "median"), 100.0, r"rows\[0\]: got .*expected q25 <= median <= q75"),
        (("rows", 1, "repeats"), 0, r"rows\[1\].repeats: got 0"),
        (("rows", 1, "name"), "last exit", "expected names that differ"),
        (("rows", 1, "details", "shares"), [float("inf")], r"rows\[1\].details.shares: got \[inf\]"),
        (("goals", 0, "value"), None, r"goals\[0\].value: got None"),
    ],
)
def test_the_schema_refuses(result, path, value, message):
    broken = copy.deepcopy(result)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        bench.validate(broken)


@pytest.mark.parametrize("name", ["bench", "command", "date", "commit", "machine", "versions", "rows", "goals"])
def test_the_schema_misses(result, name):
    del result[name]
    with pytest.raises(ValueError, match=f"result: got .*expected also {name}"):
        bench.validate(result)


@pytest.mark.parametrize("what", [None, [], "text", 3])
def test_the_schema_wants_an_object(what):
    with pytest.raises(ValueError, match="expected an object"):
        bench.validate(what)


# --- the command line


def test_by_default_it_prints_a_table_and_writes_to_bench_results(fake, tmp_path, capsys):
    assert bench.run(["fake", "--device", "cpu", "--quick"]) == 0
    path = tmp_path / "bench-results" / "fake.cpu.json"
    written = core.read(path)
    assert [row["name"] for row in written["rows"]] == ["last exit", "adaptive"]
    assert written["command"] == "course bench fake --device cpu --quick"
    assert fake.options == Options(quick=True, device="cpu")
    printed = capsys.readouterr().out
    assert "last exit" in printed
    assert "images/s" in printed
    assert "met     twice as fast: 2.5, goal at least 2" in printed
    assert str(path) in printed
    assert not (tmp_path / "book").exists()


def test_out_and_data_go_where_they_are_told_and_folders_stay_private(fake, tmp_path):
    out = tmp_path / "deep" / "mine.json"
    assert bench.run(["fake", "--device", "cpu", "--out", str(out), "--data", "digits", "--root", "/my/data"]) == 0
    assert fake.options == Options(device="cpu", data="digits", root="/my/data")
    assert "/my" not in out.read_text()
    assert "deep" not in out.read_text()
    assert core.read(out)["command"] == "course bench fake --device cpu --data digits --root DIR"


def test_record_writes_into_the_book_one_file_per_device_kind_and_latest_reads_it(fake, tmp_path):
    assert bench.latest("fake") is None
    assert bench.run(["fake", "--device", "cpu", "--record"]) == 0
    assert bench.run(["fake", "--device", "cpu", "--record", "--data", "digits"]) == 0
    results = tmp_path / "book" / "results"
    assert {path.name for path in results.iterdir()} == {"fake.cpu.json", "fake-digits.cpu.json"}
    cpu = bench.latest("fake")
    assert cpu["command"] == "course bench fake --device cpu --record"
    assert bench.latest("fake", data="digits")["command"].endswith("--data digits --record")
    assert bench.latest("fake", "cuda") is None
    gpu = cpu | {"machine": cpu["machine"] | {"device": "cuda", "gpu": "A GPU"}}
    core.write(results / "fake.cuda.json", gpu)
    assert bench.latest("fake") == gpu
    assert bench.latest("fake", "cpu") == cpu
    assert "Recorded on A GPU on" in bench.caption(gpu)


def test_latest_names_a_file_that_is_no_result_and_a_bench_that_is_none(fake, tmp_path):
    path = tmp_path / "book" / "results" / "fake.cpu.json"
    path.parent.mkdir(parents=True)
    for content in ("{", "{}", "[1]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"fake\.cpu\.json: not a recorded result"):
            bench.latest("fake")
    with pytest.raises(ValueError, match="name: got 'fast', expected one of fake"):
        bench.latest("fast")


def test_check_exits_1_where_a_goal_is_missed_and_names_it(fake, tmp_path, capsys):
    arguments = ["fake", "--device", "cpu"]
    assert bench.run([*arguments, "--check"]) == 0
    fake.report = Report("fake", ROWS, [Goal("twice as fast", 1.9, 2.0), Goal("as exact", 1.0, 1.0)])
    assert bench.run(arguments) == 0
    assert bench.run([*arguments, "--check"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "goals missed: twice as fast\n"
    assert "MISSED  twice as fast: 1.9" in shown.out
    assert core.read(tmp_path / "bench-results" / "fake.cpu.json")["goals"][0]["value"] == 1.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fast"], "invalid choice: 'fast'"),
        ([], "NAME"),
        (["fake", "--record", "--out", "x.json"], "not allowed with"),
        (["fake", "--record", "--quick"], "a --quick run is no record"),
        (["fake", "--root", "x"], "expected --data as well"),
        (["fake", "--device", "toaster"], "--device: got 'toaster'"),
        (["fake", "--device", "cpu", "--data", "dogs"], "--data: got 'dogs', expected one of digits, cats"),
    ],
)
def test_arguments_that_conflict_or_are_unknown_exit_with_2(fake, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.run(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert fake.options is None


def test_a_bench_without_data_of_others_refuses_it(fake, capsys):
    del fake.DATA
    with pytest.raises(SystemExit):
        bench.run(["fake", "--device", "cpu", "--data", "digits", "--root", "x"])
    assert "--data: got 'digits', expected none: fake draws its own data" in capsys.readouterr().err
    assert fake.options is None


@pytest.mark.parametrize("name", ["sparse-conv", "lasnet", "cg-p"])
def test_the_benches_of_drawn_data_refuse_other_data(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.run([name, "--device", "cpu", "--data", "folder", "--root", "x"])
    assert exit_.value.code == 2
    assert f"--data: got 'folder', expected none: {name} draws its own data" in capsys.readouterr().err


def test_a_bench_of_one_kind_of_device_refuses_the_others(fake, capsys):
    fake.DEVICES = ("cuda",)
    with pytest.raises(SystemExit):
        bench.run(["fake", "--device", "cpu"])
    assert "--device: got 'cpu', expected cuda: fake is measured there" in capsys.readouterr().err
    assert fake.options is None


def test_record_needs_a_checkout(fake, monkeypatch, capsys):
    monkeypatch.setattr(core, "checkout", lambda: None)
    with pytest.raises(SystemExit):
        bench.run(["fake", "--record"])
    assert "expected to run in a checkout" in capsys.readouterr().err
    assert bench.latest("fake") is None


def test_an_interrupted_bench_leaves_the_last_good_file(fake, tmp_path, capsys):
    arguments = ["fake", "--device", "cpu", "--record"]
    bench.run(arguments)
    path = tmp_path / "book" / "results" / "fake.cpu.json"
    before = path.read_bytes()
    fake.error = KeyboardInterrupt()
    assert bench.run(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    fake.error, fake.report = None, Report("fake", [Row("x", "s", float("nan"), 0.0, 0.0, 1)])
    with pytest.raises(ValueError, match="finite"):
        bench.run(arguments)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_last_good_file(result, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    core.write(path, result)
    before = path.read_bytes()

    def killed(file_number):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        core.write(path, result | {"command": "another"})
    assert path.read_bytes() == before
    assert list(tmp_path.glob("r.json*")) == [path]


@pytest.mark.parametrize("error", [FileNotFoundError("no idx files in /data"), ValueError("name: got 'cats'")])
def test_data_that_is_not_there_is_one_line_and_other_faults_are_seen_whole(fake, error, capsys):
    fake.error = error
    assert bench.run(["fake", "--data", "cats"]) == 2
    assert capsys.readouterr().err == f"course bench: {error}\n"
    with pytest.raises(type(error)):
        bench.run(["fake"])


def test_commit_is_known_in_git_alone(monkeypatch, tmp_path):
    repository = tmp_path / "course"
    package = repository / "course_lib" / "bench"
    package.mkdir(parents=True)
    (package / "core.py").write_text("")
    monkeypatch.setattr(core, "__file__", str(package / "core.py"))
    assert core.commit() == "unknown"

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)

    git("init")
    assert core.commit() == "unknown"
    git("add", "-A")
    git("commit", "-m", "first")
    clean = core.commit()
    assert len(clean) == 40
    (package / "core.py").write_text("changed")
    assert core.commit() == f"{clean}-changed"


def test_every_bench_exists():
    for module in bench.BENCHES.values():
        path = Path(core.__file__).resolve().parents[2] / (module.replace(".", "/") + ".py")
        assert path.is_file()
        if "options.data" in (text := path.read_text()):
            assert re.search(r"^DATA = ", text, re.MULTILINE), path


def test_it_runs_where_only_torch_and_numpy_are_installed():
    forbidden = ("rich", "typer", "tqdm", "sklearn", "matplotlib", "accelerate", "torchvision", "platformdirs")
    script = f"""
import sys
for name in {forbidden!r}:
    sys.modules[name] = None
import types
from course_lib import bench, train
module = types.ModuleType("toy")
module.run = lambda options: bench.Report("toy", [bench.Row.of("x", "s", [1.0])])
sys.modules["toy"] = module
bench.BENCHES["toy"] = "toy"
import torch
train.fit(torch.nn.Linear(2, 2), (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), epochs=1)
sys.exit(bench.run(["toy", "--device", "cpu", "--out", sys.argv[1]]))
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "toy.json"
        subprocess.run([sys.executable, "-c", script, str(out)], check=True, capture_output=True)
        assert core.read(out)["bench"] == "toy"
