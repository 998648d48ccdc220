"""The command `course`."""

import importlib.metadata
import json
import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from course_lib import bench, checks, cli

COMMANDS = ("doctor", "bench", "train", "solve-crew", "progress")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def course(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_help_names_every_command_and_imports_nothing_heavy():
    result = course("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)
    script = "import sys, course_lib.cli; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


# --- doctor


def test_doctor_finds_what_runs_these_tests():
    result = course("doctor")
    assert result.exit_code == 0, result.output
    findings = {finding.name: finding for finding in cli.examine()}
    for name in ("python", "torch", "numpy", "convolution", "scikit-learn", "matplotlib", "progress folder"):
        assert findings[name].fine, findings[name]
        assert name in result.output
    assert findings["convolution"].found == "runs on cpu"


def without(monkeypatch, *names):
    version = importlib.metadata.version

    def pretend(name):
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", pretend)


def test_doctor_exits_1_only_where_something_indispensable_is_missing(monkeypatch):
    without(monkeypatch, "jupyterlab")
    result = course("doctor")
    assert result.exit_code == 0
    assert "jupyterlab" in result.output
    assert "not installed" in result.output
    assert "make lab" in result.output
    without(monkeypatch, "torch")
    result = course("doctor")
    assert result.exit_code == 1
    assert "Nothing runs without: torch." in result.output


def test_doctor_refuses_an_old_torch_and_a_device_that_is_not_there(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.1+cpu" if name == "torch" else version(name))
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    findings = {finding.name: finding for finding in cli.examine()}
    assert not findings["torch"].fine
    assert "2.11 or newer" in findings["torch"].needed_for
    assert not findings["convolution"].fine
    assert "COURSE_DEVICE: got 'toaster'" in findings["convolution"].found


def test_doctor_says_that_progress_cannot_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file" / "home"))
    finding = next(finding for finding in cli.examine() if finding.name == "progress folder")
    assert not finding.fine
    assert not finding.required


# --- bench


def test_bench_passes_everything_through(tmp_path, monkeypatch):
    fake = types.ModuleType("fake_bench")
    fake.run = lambda options: bench.Report("fake", [bench.Row.of("x", "s", [1.0])], [bench.Goal("g", 1.0, 2.0)])
    monkeypatch.setitem(sys.modules, "fake_bench", fake)
    monkeypatch.setattr(bench, "BENCHES", {"fake": "fake_bench"})
    out = tmp_path / "out.json"
    arguments = ("bench", "fake", "--device", "cpu", "--quick", "--out", out)
    assert course(*arguments).exit_code == 0
    assert json.loads(out.read_text())["command"] == "course bench fake --device cpu --quick"
    assert course(*arguments, "--check").exit_code == 1
    assert course("bench", "nothing").exit_code == 2
    shown = course("bench", "--help")
    assert shown.exit_code == 0
    assert "--record" in shown.output


# --- train


def test_train_prints_every_exit_and_goes_on_from_its_checkpoint(tmp_path):
    checkpoint = tmp_path / "run" / "tiny.pt"
    arguments = ("train", "msdnet", "--images", 64, "--epochs", 1, "--batch-size", 32, "--checkpoint", checkpoint)
    first = course(*arguments)
    assert first.exit_code == 0, first.output
    assert "2000 held-out images" in first.output
    assert first.output.count("%") >= 4
    assert "2 steps in" in first.output
    written = checkpoint.stat().st_mtime_ns
    second = course(*arguments)
    assert second.output.count("│") == first.output.count("│") > 0
    assert checkpoint.stat().st_mtime_ns == written
    other = course(*arguments, "--lr", 0.1)
    assert other.exit_code == 2
    assert "other settings: got lr=0.05 in the file, expected 0.1" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "x"), "expected --data as well"),
        (("--data", "cats"), "got 'cats', expected one of"),
        (("--data", "fashion_mnist", "--root", "nowhere"), "nowhere"),
        (("--precision", "fp8"), "precision: got 'fp8'"),
        (("--size", 3), "size: got 3"),
    ],
)
def test_train_names_what_is_wrong_in_a_line(arguments, message):
    result = course("train", "msdnet", "--images", 8, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_train_on_a_folder_of_pictures(tmp_path):
    from PIL import Image

    for label, shade in (("dark", 40), ("light", 200)):
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (20, 24), (shade, shade, i)).save(folder / f"{i}.png")
    result = course("train", "msdnet", "--data", "folder", "--root", tmp_path / "pictures", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "6 held-out images" in result.output


def test_an_interrupted_training_says_how_to_go_on(tmp_path, monkeypatch):
    from course_lib import train

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", interrupted)
    result = course("train", "msdnet", "--images", 8, "--checkpoint", "here.pt")
    assert result.exit_code == 130
    assert "goes on from here.pt" in result.output


# --- progress


def test_progress_lists_the_tasks_of_each_chapter(monkeypatch, tmp_path):
    tasks = [
        checks.TaskProgress("start/why_adapt", "mean_cost", "what it costs", 1, 5, "correct", 2),
        checks.TaskProgress("start/why_adapt", "first_exit", "who leaves", 2, 10, "not yet", 1),
        checks.TaskProgress("instance/msdnet", "exit_shares", "how many leave", 3, 15, "not attempted", 0),
    ]
    monkeypatch.setattr(checks, "progress", lambda: tasks)
    result = course("progress")
    assert result.exit_code == 0
    assert result.output.count("start/why_adapt") == 1
    for task in tasks:
        assert task.task in result.output
        assert task.status in result.output
    assert f"1 of 3 correct; kept in {tmp_path / 'home'}" in result.output


def test_progress_is_that_of_this_home():
    result = course("progress")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("0 of ")
