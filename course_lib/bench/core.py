"""What every bench shares: results and goals, the file they are kept in, its schema, the machine they came from.

Only torch and numpy have to be installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "triton", "torchvision", "scikit-learn", "ortools", "numba", "torch_geometric")


@dataclass(frozen=True)
class Options:
    """What a bench is asked for: a run of seconds (`quick`), the device, real data by name and its folder."""

    quick: bool = False
    device: str = "cpu"
    data: str | None = None
    root: str | None = None

    @property
    def label(self) -> str | None:
        """What the real data is called in names of files and rows: a folder of images, a corpus by its own name."""
        return Path(self.root).stem if self.data in ("folder", "sentences") and self.root else self.data


@dataclass(frozen=True)
class Row:
    """One measured quantity: median and quartiles over `repeats` repetitions, in `unit`.

    `details` holds what else is to be known of it: numbers, texts, truth values, None, or lists of these.
    """

    name: str
    unit: str
    median: float
    q25: float
    q75: float
    repeats: int
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, unit: str, samples: Sequence[float], **details: Any) -> Row:
        """The row of some repetitions; `ValueError` where there are none.

        >>> row = Row.of("last exit", "images/s", [30.0, 10.0, 20.0], threads=1)
        >>> (row.median, row.q25, row.q75, row.repeats)
        (20.0, 15.0, 25.0, 3)
        """
        import numpy as np

        if not len(samples):
            raise ValueError(f"samples: got none for {name!r}, expected at least one")
        q25, median, q75 = (float(value) for value in np.quantile(np.asarray(samples, dtype=float), (0.25, 0.5, 0.75)))
        return cls(name, unit, median, q25, q75, len(samples), details)


@dataclass(frozen=True)
class Goal:
    """A figure that a bench is to reach; `value` is what it reached."""

    name: str
    value: float
    at_least: float

    @property
    def met(self) -> bool:
        """Whether it was reached; NaN reaches nothing."""
        return self.value >= self.at_least


@dataclass(frozen=True)
class Report:
    """What a bench found."""

    bench: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()


# --- the file ---------------------------------------------------------------------------------------------------

_TEXT, _NUMBER, _COUNT = "a text that is not empty", "a finite number", "a whole number of at least 1"
_FIELDS = {
    "": {"bench": _TEXT, "command": _TEXT, "date": _TEXT, "commit": _TEXT}
    | {"machine": "an object", "versions": "an object", "rows": "a list", "goals": "a list"},
    "machine": {"cpu": _TEXT, "cores": _COUNT, "threads": _COUNT, "memory_bytes": _COUNT, "system": _TEXT}
    | {"device": _TEXT, "gpu": "a text or null"},
    "versions": {"python": _TEXT, "torch": _TEXT},
    "row": {"name": _TEXT, "unit": "a text", "median": _NUMBER, "q25": _NUMBER, "q75": _NUMBER, "repeats": _COUNT}
    | {"details": "an object"},
    "goal": {"name": _TEXT, "value": _NUMBER, "at_least": _NUMBER},
}


def recorded(report: Report, *, command: str, device: str) -> dict[str, Any]:
    """The report with all that makes it repeatable, as it is written to a file; validated."""
    result = {
        "bench": report.bench,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(device),
        "versions": versions(),
        "rows": [asdict(row) for row in report.rows],
        "goals": [asdict(goal) for goal in report.goals],
    }
    validate(result)
    return result


def validate(result: Any) -> None:
    """Raise `ValueError`, naming the place, unless `result` follows the schema of recorded results.

    An object with bench, command, date (ISO 8601 with time zone), commit, machine, versions, rows (one at least, with
    name, unit, q25 <= median <= q75, repeats, details) and goals (name, value, at_least); nothing else.
    """
    _check_fields(result, "result", _FIELDS[""])
    _check_fields(result["machine"], "machine", _FIELDS["machine"])
    _check_fields(result["versions"], "versions", _FIELDS["versions"], open_ended=True)
    for package, version in result["versions"].items():
        _require(_is(version, _TEXT), f"versions.{package}", version, _TEXT)
    _require(_is_date(result["date"]), "result.date", result["date"], "an ISO 8601 date and time with its time zone")
    _require(bool(result["rows"]), "result.rows", result["rows"], "at least one row")
    for i, row in enumerate(result["rows"]):
        _check_fields(row, f"rows[{i}]", _FIELDS["row"])
        ordered = row["q25"] <= row["median"] <= row["q75"]
        _require(ordered, f"rows[{i}]", [row["q25"], row["median"], row["q75"]], "q25 <= median <= q75")
        for key, value in row["details"].items():
            plain = all(_is_plain(item) for item in (value if isinstance(value, list | tuple) else [value]))
            _require(
                plain, f"rows[{i}].details.{key}", value, "a finite number, text, truth value, null, or a list of these"
            )
    for i, goal in enumerate(result["goals"]):
        _check_fields(goal, f"goals[{i}]", _FIELDS["goal"])
    names = [row["name"] for row in result["rows"]]
    _require(len(set(names)) == len(names), "result.rows", names, "names that differ")


def write(path: Path, result: dict[str, Any]) -> None:
    """Validate and write a result; interrupted at any moment, the old file stays."""
    from course_lib.checkpoint import write_atomically

    validate(result)
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read(path: Path) -> dict[str, Any]:
    """Read a result; `ValueError`, naming the file, if it does not follow the schema."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        validate(result)
    except ValueError as error:
        raise ValueError(f"{path}: not a recorded result: {error}") from error
    return result


def _check_fields(value: Any, place: str, fields: dict[str, str], *, open_ended: bool = False) -> None:
    _require(isinstance(value, dict), place, value, "an object")
    missing, extra = fields.keys() - value.keys(), value.keys() - fields.keys()
    _require(not missing, place, sorted(value), f"also {', '.join(sorted(missing))}")
    _require(open_ended or not extra, place, sorted(map(str, extra)), f"no more than {', '.join(fields)}")
    for name, expected in fields.items():
        _require(_is(value[name], expected), f"{place}.{name}", value[name], expected)


def _require(fine: bool, place: str, got: Any, expected: str) -> None:
    if not fine:
        raise ValueError(f"{place}: got {got!r}, expected {expected}")


def _is(value: Any, expected: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return {
        _TEXT: isinstance(value, str) and value != "",
        "a text": isinstance(value, str),
        "a text or null": value is None or isinstance(value, str),
        _NUMBER: number,
        _COUNT: number and isinstance(value, int) and value >= 1,
        "an object": isinstance(value, dict),
        "a list": isinstance(value, list),
    }[expected]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is(value, _NUMBER)


def _is_date(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


# --- where it came from -----------------------------------------------------------------------------------------


def checkout() -> Path | None:
    """The folder of the course itself, with `book/`, or None where only the package is at hand."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (folder / "book").is_dir() and (folder / "pyproject.toml").is_file() and (folder / "course_lib").is_dir():
            return folder
    return None


def commit() -> str:
    """The commit the library stands at, with "-changed" where its files differ from it; "unknown" without git."""
    folder = Path(__file__).resolve().parents[2]
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel")).resolve() != folder:
            return "unknown"  # installed inside somebody else's repository
        head = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", "course_lib")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-changed" if changes else head


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that a measurement can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """Processor, cores this process may use, threads torch uses, memory, system, and the GPU if it was measured.

    No name by which the machine could be found.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.device(device).type,
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
    }


def _cpu() -> str:
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import ctypes  # Windows

    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined]
    return kilobytes.value * 1024


# --- how it is shown --------------------------------------------------------------------------------------------


def table(report: Report) -> str:
    """Rows and goals as plain text.

    >>> row = Row.of("last exit", "images/s", [10.0, 20.0, 30.0], batch=1)
    >>> print(table(Report("toy", [row], [Goal("twice", 1.5, 2)])))
    what       median  quartiles  unit      repeats  details
    last exit      20  15 .. 25   images/s        3  batch 1
    <BLANKLINE>
    MISSED  twice: 1.5, goal at least 2
    """
    lines = [("what", "median", "quartiles", "unit", "repeats", "details")]
    for row in report.rows:
        details = ", ".join(f"{name} {_short(value)}" for name, value in row.details.items())
        quartiles = f"{_short(row.q25)} .. {_short(row.q75)}"
        lines.append((row.name, _short(row.median), quartiles, row.unit, str(row.repeats), details))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    aligned = [
        "  ".join(
            text.rjust(width) if column in (1, 4) else text.ljust(width) for column, (text, width) in cells
        ).rstrip()
        for cells in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
    ]
    goals = [
        f"{'met' if goal.met else 'MISSED':6}  {goal.name}: {_short(goal.value)}, goal at least {_short(goal.at_least)}"
        for goal in report.goals
    ]
    return "\n".join(aligned + (["", *goals] if goals else []))


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def caption(result: dict[str, Any]) -> str:
    """The line beneath a drawn result: which machine, which day, which command."""
    where = result["machine"]
    cpu = f"{where['cpu']} ({where['cores']} core{'s' if where['cores'] > 1 else ''})"
    return f"Recorded on {where['gpu'] or cpu} on {result['date'][:10]} with `{result['command']}`."
