"""Runnable benchmarks: what a claim about speed rests on.

`course bench NAME`, or `python -m course_lib.bench NAME` where only torch and numpy are installed. Each bench is a
module with `run(options: Options) -> Report`; with `DATA`, the names that `--data` may have for it, where it takes real
data at all; and with `DEVICES`, where it does not run on all kinds. Results go to `bench-results/`; only `--record`
writes into the book.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from course_lib.bench import core
from course_lib.bench.core import Goal, Options, Report, Row, caption, validate

__all__ = ["BENCHES", "Goal", "Options", "Report", "Row", "caption", "latest", "run", "validate"]

BENCHES = {
    "early-exit": "course_lib.bench.early_exit",
    "budgeted": "course_lib.bench.budgeted",
    "sparse-conv": "course_lib.bench.sparse_conv",
    "lasnet": "course_lib.bench.lasnet",
    "temporal": "course_lib.bench.temporal",
    "language": "course_lib.bench.language",
    "cg-p": "course_lib.bench.crews",
}


def latest(name: str, device: str | None = None, *, data: str | None = None) -> dict[str, Any] | None:
    """The result recorded in the book for a bench: of one kind of device, or of a GPU rather than the CPU.

    `data`: the real data set it was recorded on (of a folder of images, its name), None for the bench's own data. The
    result is None where nothing is recorded (the chapter then says so); `ValueError` for an unknown bench and for a
    file that does not follow the schema.
    """
    if name not in BENCHES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(BENCHES)}")
    folder = core.checkout()
    for kind in ("cuda", "mps", "cpu") if device is None else (device,):
        if folder is not None and (path := folder / "book" / "results" / _file_name(name, data, kind)).is_file():
            return core.read(path)
    return None


def run(argv: Sequence[str] | None = None) -> int:
    """The command line (`argv` without the program's name); returns the exit code.

    0: done; 1: `--check` and a goal is missed; 2: wrong arguments (as `SystemExit`, argparse's way) or data that is
    not there; 130: interrupted, nothing written.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    given = parser.parse_args(arguments)
    kind = _device_kind(parser, given.device)
    options = Options(quick=given.quick, device=given.device, data=given.data, root=given.root)
    target = _target(parser, given, _file_name(given.name, options.label, kind))
    bench = importlib.import_module(BENCHES[given.name])
    _check_taken(parser, given, kind, bench)
    try:
        report = bench.run(options)
    except KeyboardInterrupt:
        print(f"interrupted; {target} was not written", file=sys.stderr)
        return 130
    except (FileNotFoundError, ValueError) as error:
        if given.data is None:
            raise  # nothing the user named: a fault of the bench, to be seen whole
        print(f"course bench: {error}", file=sys.stderr)
        return 2
    print(core.table(report))
    core.write(target, core.recorded(report, command=_command(given), device=given.device))
    print(f"\nwritten to {target}")
    missed = [goal.name for goal in report.goals if not goal.met]
    if given.check and missed:
        print(f"goals missed: {'; '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    import course_lib

    parser = argparse.ArgumentParser(prog="course bench", description="Measure, print a table, write a result file.")
    parser.add_argument("name", choices=list(BENCHES), metavar="NAME", help=f"one of: {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs")
    parser.add_argument("--device", default=str(course_lib.device()), help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--data", help="a real data set by name instead of the bench's own data")
    parser.add_argument("--root", metavar="DIR", help="the folder that data set lies in")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="FILE", type=Path, help="where to write (default: bench-results/NAME.DEVICE.json)"
    )
    where.add_argument("--record", action="store_true", help="write into the book: book/results/NAME.DEVICE.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    return parser


def _device_kind(parser: argparse.ArgumentParser, device: str) -> str:
    """`cpu`, `cuda`, ...: what a result is filed under; an error where this machine has no such device."""
    import torch

    try:
        torch.empty(0, device=device)
        return torch.device(device).type
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device: got {device!r}, which cannot be used here ({str(error).partition(chr(10))[0]})")


def _check_taken(parser: argparse.ArgumentParser, given: argparse.Namespace, kind: str, bench: ModuleType) -> None:
    """An error where a bench knows nothing of the data asked for, or does not run on the device."""
    data: Sequence[str] = getattr(bench, "DATA", ())
    if given.data is not None and given.data not in data:
        expected = f"one of {', '.join(data)}" if data else f"none: {given.name} draws its own data"
        parser.error(f"--data: got {given.data!r}, expected {expected}")
    devices: Sequence[str] = getattr(bench, "DEVICES", (kind,))
    if kind not in devices:
        parser.error(f"--device: got {given.device!r}, expected {' or '.join(devices)}: {given.name} is measured there")


def _target(parser: argparse.ArgumentParser, given: argparse.Namespace, file: str) -> Path:
    if given.root is not None and given.data is None:
        parser.error("--root: names the folder of a data set, expected --data as well")
    folder = core.checkout()
    if given.record:
        if given.quick:
            parser.error("--record: a --quick run is no record")
        if folder is None:
            parser.error("--record: writes into the book, expected to run in a checkout of the course")
        return folder / "book" / "results" / file
    return given.out or (folder or Path.cwd()) / "bench-results" / file


def _file_name(name: str, label: str | None, kind: str) -> str:
    """Real data has a file of its own, so that it does not replace the result on the bench's own data."""
    return f"{name}.{kind}.json" if label is None else f"{name}-{label}.{kind}.json"


def _command(given: argparse.Namespace) -> str:
    """The command to type again; folders of this machine are named by their placeholder."""
    words = ["course", "bench", given.name, "--device", given.device]
    words += ["--quick"] if given.quick else []
    words += ["--data", given.data] if given.data else []
    words += ["--root", "DIR"] if given.root else []
    words += ["--record"] if given.record else []
    return shlex.join(words)
