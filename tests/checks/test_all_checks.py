"""Every check of the course: it rejects the stub and each planted mistake by name, and accepts what is right."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from course_lib import checks
from course_lib.checks import Check

TASKS = checks.tasks()
each_task = pytest.mark.parametrize("task", TASKS, ids=[task.key for task in TASKS])


@pytest.fixture(autouse=True)
def _silence(capfd: pytest.CaptureFixture[str]):
    yield
    assert capfd.readouterr() == ("", ""), "judging prints nothing of its own, and nothing on stderr"


@each_task
def test_the_stub_is_not_attempted(task: Check):
    assert task.judge(task.stub).status == "not attempted"
    assert task.judge(None).status == "not attempted"


@each_task
def test_every_planted_mistake_gets_its_own_diagnosis(task: Check):
    assert len(task.wrong_answers) >= 3
    assert len(set(task.diagnoses.values())) == len(task.diagnoses)
    for name, mistake in task.wrong_answers.items():
        verdict = task.judge(mistake)
        assert verdict.status == "not yet", f"{name} is accepted"
        assert verdict.diagnosis == task.diagnoses[name], f"{name} is taken for another mistake"


@each_task
def test_every_pair_of_mistakes_differs_on_some_case(task: Check):
    for (one, first), (two, second) in itertools.combinations(task.wrong_answers.items(), 2):
        assert task.separates(first, second), f"{one} and {two} cannot be told apart"


@each_task
def test_correct_answers_are_accepted_however_written(task: Check):
    assert len(task.accepted) >= 2
    for answer in [task.reference, *task.accepted]:
        verdict = task.judge(answer)
        assert verdict.status == "correct", verdict.message
        assert task.shows in " ".join(verdict.message.split())


@each_task
def test_texts_are_complete(task: Check):
    assert len({hint.strip() for hint in task.hints} - {""}) == 3
    assert task.title.strip()
    assert task.shows.strip().endswith((".", "!"))
    assert task.minutes > 0
    for name, diagnosis in task.diagnoses.items():
        assert "?" in diagnosis, f"the diagnosis of {name} asks nothing"


def _raises(*_: Any, **__: Any) -> None:
    raise KeyError("none of the cases asks for this")


def _never_ends(*_: Any, **__: Any) -> None:
    while True:
        pass


@each_task
def test_useless_answers_are_judged_and_never_raise(task: Check):
    for answer in (_raises, lambda *_, **__: "a sentence", lambda *_, **__: object(), lambda: 0, "no function"):
        verdict = task.judge(answer)
        assert verdict.status == "not yet"
        assert "Traceback" not in verdict.message
    verdict = task.judge(_never_ends, time_limit=0.1)
    assert "still running" in verdict.message


def _spoil(value: Any) -> bool:
    """Write into a value if it can be written into, and say whether it is another one now."""
    before = copy.deepcopy(value) if isinstance(value, (torch.Tensor, np.ndarray, list, dict)) else None
    if isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.fill_(7)
        return not torch.equal(value, before)
    if isinstance(value, np.ndarray):
        value.fill(7)
        return not np.array_equal(value, before)
    if isinstance(value, (list, dict)):
        value.clear()
        return bool(before)
    return False


@each_task
def test_an_answer_that_writes_into_its_inputs_is_rejected_and_spoils_nothing(task: Check):
    spoiled: list[bool] = []

    def vandal(*args: Any, **kwargs: Any) -> Any:
        value = copy.deepcopy(task.reference(*args, **kwargs))
        spoiled.extend(_spoil(arg) for arg in args)
        return value

    verdict = task.judge(vandal)
    lent = any(isinstance(arg, (torch.Tensor, np.ndarray, list, dict)) for case in task.cases for arg in case.args)
    if lent and any(spoiled):
        assert verdict.status == "not yet"
    assert task.judge(task.accepted[0]).status == "correct", "a case must hand out copies of its inputs"


def test_every_check_module_is_found_and_knows_its_chapter():
    folder = Path(checks.__file__).parent
    files = {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/[!_]*.py")}
    modules = checks.modules()
    assert {"/".join(module.__name__.split(".")[-2:]) for module in modules} == files
    for module in modules:
        assert 3 <= len(module.TASKS) <= 5
        for task in module.TASKS:
            assert getattr(module, task.name) is task
            assert task.chapter == "/".join(module.__name__.split(".")[-2:])
    assert len({task.key for task in TASKS}) == len(TASKS)


def test_progress_lists_every_task_and_mistakes_every_diagnosis():
    entries = checks.progress()
    assert [f"{entry.chapter}/{entry.task}" for entry in entries] == [task.key for task in TASKS]
    assert {(entry.status, entry.attempts) for entry in entries} <= {("not attempted", 0)}
    assert len(checks.mistakes()) == sum(len(task.wrong_answers) for task in TASKS)
