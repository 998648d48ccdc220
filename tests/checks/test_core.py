"""The check machinery: verdicts, comparison, diagnosis, limits, hints, progress."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib import checks
from course_lib.checks import Case, Check, Raised, record
from course_lib.checks.observe import Opaque, compact, difference, plain


def scale(values: torch.Tensor, factor: float) -> torch.Tensor:
    if factor < 0:
        raise ValueError("factor: got a negative one")
    return values * factor


def make(**changes: Any) -> Check:
    parts: dict[str, Any] = {
        "chapter": "start/example",
        "title": "scale a vector",
        "level": 2,
        "minutes": 5,
        "reference": scale,
        "cases": [
            Case.of("a worked one", torch.tensor([1.0, 2.0]), 3.0),
            Case.of("nothing to do", torch.zeros(0), 2.0),
            Case.of("a negative factor", torch.ones(2), -1.0),
        ],
        "wrong_answers": {
            "adds": lambda values, factor: values + factor,
            "forgets_to_raise": lambda values, factor: values * factor,
        },
        "diagnoses": {"adds": "You added. What is twice 1?", "forgets_to_raise": "You scale by -1. May one?"},
        "accepted": [],
        "hints": ("first", "second", "third"),
        "shows": "So lengths scale.",
    }
    return Check("scale", **{**parts, **changes})


def test_a_correct_answer_is_told_what_it_shows():
    verdict = make().judge(scale)
    assert (verdict.status, verdict.diagnosis) == ("correct", "")
    assert verdict.message == "scale: correct. So lengths scale."


def test_a_correct_answer_may_come_in_lists():
    def in_lists(values: torch.Tensor, factor: float) -> list[float]:
        if factor < 0:
            raise ValueError
        return [float(value) * factor for value in values]

    assert make().judge(in_lists).status == "correct"


@pytest.mark.parametrize("mistake", ["adds", "forgets_to_raise"])
def test_a_planted_mistake_is_recognised(mistake: str):
    check = make()
    verdict = check.judge(check.wrong_answers[mistake])
    assert verdict.status == "not yet"
    assert verdict.diagnosis == check.diagnoses[mistake]
    assert verdict.diagnosis in verdict.message


def test_an_unknown_mistake_gets_the_case_but_no_diagnosis():
    verdict = make().judge(lambda values, factor: values * factor * 2)
    assert verdict.diagnosis == ""
    for part in ("a worked one", "values = [1.0, 2.0], factor = 3.0", "expected: [3.0, 6.0]", "got:      [6.0, 12.0]"):
        assert part in verdict.message


def _unfinished(values: torch.Tensor, factor: float) -> Any:
    raise NotImplementedError


def _generator_stub(values: torch.Tensor, factor: float) -> Any:
    raise NotImplementedError
    yield


@pytest.mark.parametrize(
    "answer", [Check.stub, _unfinished, _generator_stub, None, ..., lambda v, f: None, lambda v, f: ...]
)
def test_a_stub_is_not_attempted(answer: Any):
    assert make().judge(answer).status == "not attempted"


def test_a_stub_is_recognised_behind_a_case_of_its_own():
    def observe(answer: Callable[..., Any]) -> dict[str, Any]:
        return {"rows": 0, "value": answer(torch.ones(2), 1.0)}

    check = make(cases=[Case("counted", observe)])
    assert check.judge(lambda values, factor: None).status == "not attempted"
    assert check.judge(scale).status == "correct"


def test_a_half_finished_answer_is_not_yet():
    def half(values: torch.Tensor, factor: float) -> torch.Tensor:
        if not len(values):
            raise NotImplementedError
        return values * factor

    verdict = make().judge(half)
    assert verdict.status == "not yet"
    assert "still raises NotImplementedError" in verdict.message


def _divides(values: torch.Tensor, factor: float) -> float:
    return 1 / 0


def _writes(values: torch.Tensor, factor: float) -> torch.Tensor:
    if factor < 0:
        raise ValueError
    return values.mul_(factor)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (_divides, "ZeroDivisionError: division by zero\n  It stopped at:  return 1 / 0"),
        (_writes, "`values` changed"),
        (lambda values: values, "TypeError"),
        (lambda values, factor: "six", "'six'"),
        (lambda values, factor: torch.nn.Linear(1, 1), "a value of type Linear"),
        (lambda values, factor: (values * factor)[None], "The shapes differ."),
        (lambda values, factor: exit(), "SystemExit"),
        (lambda values, factor: values * (factor + 1e-4), "They differ by at most"),
        (7, "takes the function itself"),
    ],
)
def test_a_bad_answer_is_not_yet_and_says_why(answer: Any, part: str, capfd: pytest.CaptureFixture[str]):
    verdict = make().judge(answer)
    assert verdict.status == "not yet"
    assert part in verdict.message
    assert "Traceback" not in verdict.message
    assert capfd.readouterr() == ("", "")


def _stubborn(values: torch.Tensor, factor: float) -> None:
    for _ in range(3):
        with contextlib.suppress(BaseException):
            while True:
                pass


def _endless(values: torch.Tensor, factor: float) -> None:
    while True:
        pass


@pytest.mark.parametrize("answer", [_endless, _stubborn])
def test_an_endless_answer_is_stopped(answer: Any, capfd: pytest.CaptureFixture[str]):
    before = threading.active_count()
    verdict = make().judge(answer, time_limit=0.1)
    assert verdict.status == "not yet"
    assert "still running after 0.1 s" in verdict.message
    assert threading.active_count() == before, "the thread of the answer lives on"
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_waits_in_c_does_not_hold_up_the_verdict():
    verdict = make().judge(lambda values, factor: time.sleep(3), time_limit=0.1)
    assert "still running" in verdict.message


def test_prints_of_the_answer_are_not_swallowed(capsys: pytest.CaptureFixture[str]):
    def talks(values: torch.Tensor, factor: float) -> torch.Tensor:
        print("here I am")
        return scale(values, factor)

    make()(talks)
    assert "here I am" in capsys.readouterr().out


def test_global_randomness_is_left_as_it_was_and_every_case_starts_alike():
    def state() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    check = make(
        cases=[Case("draws", lambda answer: answer())], reference=lambda: torch.rand(3), wrong_answers={}, diagnoses={}
    )
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    undisturbed = state()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    verdict = check.judge(lambda: torch.rand(3))
    assert state() == undisturbed
    assert verdict.status == "correct"


def test_a_large_tensor_is_told_by_its_first_difference():
    reference = torch.zeros(8, 9)
    answer = reference.clone()
    answer[3, 4] = 2.5
    check = make(reference=lambda: reference, cases=[Case.of("large")], wrong_answers={}, diagnoses={})
    message = check.judge(lambda: answer).message
    assert "First difference at [3, 4]: expected 0.0, got 2.5." in message
    assert "shape (8, 9)" in message


def test_only_the_differing_entry_of_a_dictionary_is_shown():
    check = make(reference=lambda: {"rows": 3, "sum": 1.0}, cases=[Case.of("counts")], wrong_answers={}, diagnoses={})
    message = check.judge(lambda: {"rows": 8, "sum": 1.0}).message
    assert "expected: rows: 3" in message
    assert "got:      rows: 8" in message
    assert "sum" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"diagnoses": {"adds": "?"}},
        {"cases": []},
        {"cases": [Case.of("twice"), Case.of("twice")]},
        {"hints": ("only one",)},
        {"level": 6},
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: got"):
        make(**change)


# Comparison -----------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-9, 9, width=32)))
def test_lists_arrays_and_tensors_with_equal_values_are_equal(array: np.ndarray):
    forms = [array, array.tolist(), torch.from_numpy(array), tuple(torch.from_numpy(array))]
    for form in forms:
        assert difference(plain(array), plain(form), 1e-6) is None


@given(hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(-9, 9)), st.data())
def test_one_moved_entry_is_found(array: np.ndarray, data: st.DataObject):
    moved = array.copy()
    moved[data.draw(st.integers(0, len(array) - 1))] += 0.1
    assert difference(plain(array), plain(moved), 1e-3) is not None


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (float("nan"), torch.tensor(float("nan")), True),
        (float("inf"), 1e30, False),
        (1_000_000, 1_000_001, False),
        (1_000_000.0, 1_000_000.5, True),
        (2**70, float(2**70), True),
        (True, 1, True),
        ("a", "a", True),
        ("a", None, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([[1, 2], [3]], ((1, 2), torch.tensor([3])), True),
        ([[1, 2], [3]], [[1, 2], [4]], False),
        ([torch.zeros(2), torch.zeros(3)], [torch.zeros(2), torch.zeros(3)], True),
        ([[1, 2], [3]], [1, 2], False),
        ({3, 1}, [1, 3], True),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5], True),
        (torch.float32, "torch.float32", True),
        (Raised(LookupError), Raised(KeyError, "other text"), True),
        (Raised(KeyError), Raised(ValueError), False),
        (Raised(KeyError), 3, False),
        (iter([1, 2]), [1, 2], True),
    ],
)
def test_what_counts_as_equal(expected: Any, got: Any, same: bool):
    assert (difference(plain(expected), plain(got), 1e-6) is None) is same


def test_dataclasses_become_dictionaries_and_the_path_names_the_place():
    @dataclass(frozen=True)
    class Result:
        logits: torch.Tensor
        macs: list[int]

    found = difference(plain(Result(torch.ones(2), [1, 2])), plain(Result(torch.ones(2), [1, 3])), 1e-6)
    assert found is not None
    assert found.path == "macs"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.333"),
        (3.0, "3.0"),
        (12, "12"),
        (float("-inf"), "-inf"),
        (4e-5, "4e-05"),
        (torch.eye(2), "[[1.0, 0.0], [0.0, 1.0]]"),
        (torch.zeros(0, 3), "empty, shape (0, 3)"),
        ([True, False], "[True, False]"),
        ({"a": [1, 2]}, "{a: [1, 2]}"),
        (Raised(ValueError), "raises ValueError"),
        (Opaque("Thing"), "a value of type Thing"),
    ],
)
def test_values_are_shown_in_short(value: Any, text: str):
    assert compact(plain(value)) == text


# Hints, strictness, progress ------------------------------------------------------------------------------------------


def test_hints_come_one_by_one_and_end(capsys: pytest.CaptureFixture[str]):
    check = make()
    for _ in range(5):
        check.hint()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["Hint 1 of 3: first", "Hint 2 of 3: second", "Hint 3 of 3: third"]
    assert lines[3] == lines[4]
    assert "no more hints" in lines[3]


def test_strict_mode_raises_and_records_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    check = make()
    assert check(scale).status == "correct"
    for answer in (Check.stub, check.wrong_answers["adds"]):
        with pytest.raises(AssertionError, match="scale: not"):
            check(answer)
    assert not (checks.home() / "progress.json").exists()


def test_progress_grows_and_is_never_taken_back(capsys: pytest.CaptureFixture[str]):
    check = make()
    check(Check.stub)
    assert record.load() == {}
    statuses = []
    for answer in (check.wrong_answers["adds"], scale, check.wrong_answers["adds"]):
        check(answer)
        statuses.append(record.load()["start/example/scale"]["status"])
    assert statuses == ["not yet", "correct", "correct"]
    assert record.load()["start/example/scale"]["attempts"] == 3
    assert "1 solved in this chapter" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 9, "tasks": {}}', '{"version": 1, "tasks": {"a": 3}}', "\x00\xff"],
)
def test_an_unreadable_progress_file_is_kept_aside(content: str):
    folder = checks.home()
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / "progress.json").write_text(content, encoding="latin-1")
        make()(scale)
        assert (folder / f"progress.unreadable-{number}.json").read_text(encoding="latin-1") == content
        assert record.load()["start/example/scale"]["status"] == "correct"


def test_other_tasks_in_the_file_survive():
    record.add("beyond/unknown/task", "correct")
    make()(scale)
    assert set(record.load()) == {"beyond/unknown/task", "start/example/scale"}


def test_a_failed_write_leaves_the_old_file_and_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    record.add("a/b/c", "correct")
    before = (checks.home() / "progress.json").read_text()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert make()(scale).status == "correct"
    assert "could not be saved: No space left on device" in capsys.readouterr().out
    assert (checks.home() / "progress.json").read_text() == before
    assert [path.name for path in checks.home().iterdir()] == ["progress.json"]


def test_a_foreign_status_is_refused():
    with pytest.raises(ValueError, match="status: got 'perfect'"):
        record.add("a/b/c", "perfect")


def test_a_verdict_is_shown_once_in_a_notebook(capsys: pytest.CaptureFixture[str]):
    make()(scale)._ipython_display_()
    assert capsys.readouterr().out.count("correct") == 1
    make().judge(scale)._ipython_display_()
    assert capsys.readouterr().out.count("correct") == 1


def test_long_sentences_are_wrapped_between_words(capsys: pytest.CaptureFixture[str]):
    check = make()
    check.shows = "So " + "every length " * 20 + "scales."
    check.hints = ("Look " + "once more " * 20 + "there.", "b", "c")
    check(scale)
    check.hint()
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 88
    assert check.shows in " ".join(" ".join(lines).split())
    assert check.hints[0] in " ".join(" ".join(lines).split())
