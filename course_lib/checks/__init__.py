"""Instant feedback for exercises: `course_lib.checks.<part>.<stem>.TASKS`, and what is known about all of them.

>>> from course_lib import checks
>>> check = checks.Check(
...     "double", chapter="start/example", title="twice a number", level=1, minutes=1, reference=lambda x: 2 * x,
...     cases=[checks.Case.of("a number", 3.0)], wrong_answers={"squares": lambda x: x * x},
...     diagnoses={"squares": "You multiplied the number by itself. What would 2.0 give, and what 3.0?"},
...     accepted=[lambda x: x + x], hints=("Twice.", "3 gives 6.", "Add it to itself."), shows="Two halves make one.",
... )
>>> print(check.judge(lambda x: x * x).message)
double: not yet
  case:     a number (x = 3.0)
  expected: 6.0
  got:      9.0
  You multiplied the number by itself. What would 2.0 give, and what 3.0?
  Stuck? Call .hint() on this check.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from course_lib._lazy import attach
from course_lib.checks import record
from course_lib.checks.core import Case, Check, Verdict
from course_lib.checks.observe import Raised
from course_lib.checks.record import home

PARTS = ("start", "instance", "spatial", "temporal", "training", "beyond", "outlook")

__all__ = [
    "PARTS",
    "Case",
    "Check",
    "Mistake",
    "Raised",
    "TaskProgress",
    "Verdict",
    "home",
    "mistakes",
    "modules",
    "progress",
    "tasks",
]

__getattr__, __dir__ = attach(__name__, __path__)


@dataclass(frozen=True)
class TaskProgress:
    """One task and how far the learner is with it; `attempts` counts answers that were judged."""

    chapter: str
    task: str
    title: str
    level: int
    minutes: int
    status: str
    attempts: int


@dataclass(frozen=True)
class Mistake:
    """A planted wrong answer and what a learner who makes it is told."""

    chapter: str
    task: str
    name: str
    diagnosis: str


def modules() -> list[ModuleType]:
    """The check module of every chapter that has one, part by part."""
    here = Path(__file__).parent
    return [
        importlib.import_module(f"{__name__}.{part}.{path.stem}")
        for part in PARTS
        for path in sorted((here / part).glob("[!_]*.py"))
    ]


def tasks() -> list[Check]:
    """Every task of the course."""
    return [task for module in modules() for task in module.TASKS]


def progress() -> list[TaskProgress]:
    """Every task of the course with its status: "not attempted", "not yet" or "correct"."""
    known = record.load()
    nothing = {"status": "not attempted", "attempts": 0}
    return [
        TaskProgress(task.chapter, task.name, task.title, task.level, task.minutes, entry["status"], entry["attempts"])
        for task in tasks()
        for entry in [known.get(task.key, nothing)]
    ]


def mistakes() -> list[Mistake]:
    """Every planted wrong answer of the course, for a page of mistakes."""
    return [
        Mistake(task.chapter, task.name, name, diagnosis)
        for task in tasks()
        for name, diagnosis in task.diagnoses.items()
    ]
