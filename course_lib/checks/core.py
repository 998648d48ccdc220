"""The exercise check: cases, a reference, planted mistakes with a diagnosis each, hints, and a kind verdict."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import functools
import inspect
import linecache
import os
import random
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_lib import seed_everything
from course_lib.checks import record
from course_lib.checks.observe import Difference, Raised, compact, difference, plain

TIME_LIMIT_S = 10.0
NOT_ATTEMPTED, NOT_YET, CORRECT = "not attempted", "not yet", "correct"

_HERE = str(Path(__file__).parent)


class InputChangedError(Exception):
    """The answer wrote into an argument it was only lent."""


class _Stopped(BaseException):
    """Ends the thread of an answer that does not end; no Exception, so that `except Exception` lets it through."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: `status` is "not attempted", "not yet" or "correct"; `diagnosis` is "" or a known mistake."""

    status: str
    message: str
    diagnosis: str = ""
    printed: bool = field(default=False, repr=False, compare=False)

    def _ipython_display_(self) -> None:
        # The last expression of a notebook cell is displayed; a verdict already printed is not shown twice.
        if not self.printed:
            print(self.message)


@dataclass(frozen=True)
class Case:
    """One thing a check tries.

    Args:
        name: what is tried, in the learner's words, such as "nobody leaves early".
        run: gives the observation for an answer: numbers, tensors, strings, or tuples and dicts of them. An exception
            is an observation, too. It is called with a fixed global seed.
        show: how the input is described to the learner; by default the arguments in short.
        args: the arguments, where `Case.of` made the case.
    """

    name: str
    run: Callable[[Callable[..., Any]], Any]
    show: str = ""
    args: tuple[Any, ...] = ()

    @classmethod
    def of(cls, name: str, *args: Any, show: str = "") -> Case:
        """The common case: what the answer returns for copies of `args`, which it must not change, is observed."""
        return cls(name, functools.partial(_call_with_copies, args), show, args)


def _call_with_copies(args: tuple[Any, ...], answer: Callable[..., Any]) -> Any:
    lent = copy.deepcopy(args)
    value = plain(answer(*lent))
    for i, (before, after) in enumerate(zip(args, lent, strict=True)):
        if difference(plain(before), plain(after), 0.0):
            raise InputChangedError(f"argument {i + 1}")
    return value


@dataclass(frozen=True)
class _Outcome:
    value: Any
    silent: bool  # every call returned None or ..., or raised NotImplementedError


class Check:
    """Judges an answer to one exercise.

    Args:
        name: the task, also the name of the function the learner writes.
        chapter: such as "instance/msdnet".
        title: the task in a few words.
        level: 1 (a formula in one line) to 5 (a gradient, a kernel, a proof).
        minutes: how long it takes.
        reference: a correct answer, written independently of the solution.
        cases: what is tried, the most telling first; names are unique.
        wrong_answers: three or more planted mistakes by name.
        diagnoses: for each of them what the answer did, then a question.
        accepted: two or more correct answers, written differently.
        hints: where to look, a worked row, nearly the code.
        shows: one sentence of consequence, printed when the answer is correct.
        tolerance: absolute and relative, for numbers that are not whole.

    Raises:
        ValueError: the parts do not fit together.
    """

    def __init__(
        self,
        name: str,
        *,
        chapter: str,
        title: str,
        level: int,
        minutes: int,
        reference: Callable[..., Any],
        cases: Sequence[Case],
        wrong_answers: Mapping[str, Callable[..., Any]],
        diagnoses: Mapping[str, str],
        accepted: Sequence[Callable[..., Any]],
        hints: tuple[str, str, str],
        shows: str,
        tolerance: float = 1e-5,
    ) -> None:
        if set(wrong_answers) != set(diagnoses):
            raise ValueError(f"diagnoses: got {sorted(diagnoses)}, expected one for each of {sorted(wrong_answers)}")
        if not cases or len({case.name for case in cases}) != len(cases):
            raise ValueError(f"cases: got names {[case.name for case in cases]}, expected at least one, all different")
        if len(hints) != 3:
            raise ValueError(f"hints: got {len(hints)}, expected 3")
        if level not in range(1, 6):
            raise ValueError(f"level: got {level}, expected 1 to 5")
        self.name, self.chapter, self.title, self.level, self.minutes = name, chapter, title, level, minutes
        self.reference, self.cases, self.tolerance = reference, tuple(cases), tolerance
        self.wrong_answers, self.diagnoses = dict(wrong_answers), dict(diagnoses)
        self.accepted, self.hints, self.shows = list(accepted), tuple(hints), shows
        self._hints_given = 0
        self._known: dict[Callable[..., Any], list[_Outcome]] = {}

    def __repr__(self) -> str:
        return f"Check({self.key})"

    @property
    def key(self) -> str:
        """The task's name in the progress file: chapter/name."""
        return f"{self.chapter}/{self.name}"

    @staticmethod
    def stub(*args: Any, **kwargs: Any) -> Any:
        """What stands in an exercise before anybody has worked on it."""
        raise NotImplementedError

    def __call__(self, answer: Any) -> Verdict:
        """Judge, print and record. With `COURSE_STRICT=1` record nothing and raise AssertionError unless correct."""
        verdict = self.judge(answer)
        print(verdict.message, flush=True)
        if os.environ.get("COURSE_STRICT") == "1":
            if verdict.status != CORRECT:
                raise AssertionError(verdict.message)
        elif verdict.status != NOT_ATTEMPTED:
            self._record(verdict.status)
        return Verdict(verdict.status, verdict.message, verdict.diagnosis, printed=True)

    def _record(self, status: str) -> None:
        try:
            tasks = record.add(self.key, status)
        except OSError as error:
            print(f"  (Your progress could not be saved: {error.strerror or error}.)")
            return
        if status == CORRECT:
            done = sum(k.startswith(f"{self.chapter}/") and v["status"] == CORRECT for k, v in tasks.items())
            print(f"  Progress: {done} solved in this chapter.")

    def hint(self) -> None:
        """Print the next of three hints."""
        if self._hints_given == len(self.hints):
            print("There are no more hints. Work the first case by hand, on paper, and compare it with your code.")
            return
        self._hints_given += 1
        print(_wrapped(f"Hint {self._hints_given} of {len(self.hints)}: {self.hints[self._hints_given - 1]}"))

    def judge(self, answer: Any, *, time_limit: float = TIME_LIMIT_S) -> Verdict:
        """Judge without printing or recording. `time_limit` is in seconds, for all cases together."""
        if answer is None or answer is Ellipsis:
            return self._not_attempted()
        if not callable(answer):
            came = compact(plain(answer))
            text = f"A check takes the function itself: {self.name}, without a call. What came was {came}."
            return Verdict(NOT_YET, f"{self.name}: {NOT_YET}\n  {text}")
        expected = self._outcomes(self.reference)
        got_all = _run_with_limit(answer, self.cases, time_limit)
        if all(got.silent and not want.silent for want, got in zip(expected, got_all, strict=False)):
            returned = not isinstance(got_all[0].value, Raised)
            return self._not_attempted("It returned None every time: is a return missing?" if returned else "")
        for case, want, got in zip(self.cases, expected, got_all, strict=False):
            if found := difference(want.value, got.value, self.tolerance):
                diagnosis = self._diagnose(got_all)
                return Verdict(NOT_YET, self._explain(case, found, diagnosis, time_limit, answer), diagnosis)
        return Verdict(CORRECT, _wrapped(f"{self.name}: {CORRECT}. {self.shows}"))

    def _not_attempted(self, remark: str = "") -> Verdict:
        text = f"{self.name}: {NOT_ATTEMPTED} (level {self.level} of 5, about {self.minutes} minutes)"
        return Verdict(NOT_ATTEMPTED, f"{text}\n  {remark}" if remark else text)

    def _outcomes(self, known: Callable[..., Any]) -> list[_Outcome]:
        """What one of the check's own answers gives on every case, computed once."""
        if known not in self._known:
            outcomes: list[_Outcome] = []
            with _same_randomness_afterwards():
                _run(known, self.cases, outcomes)
            self._known[known] = outcomes
        return self._known[known]

    def _agree(self, outcomes: Sequence[_Outcome], others: Sequence[_Outcome]) -> bool:
        pairs = zip(outcomes, others, strict=False)
        same = all(difference(a.value, b.value, self.tolerance) is None for a, b in pairs)
        return same and len(outcomes) == len(others)

    def separates(self, answer: Callable[..., Any], other: Callable[..., Any]) -> bool:
        """Whether some case tells two answers apart; the course's tests ask this of every pair of mistakes."""
        return not self._agree(self._outcomes(answer), self._outcomes(other))

    def _diagnose(self, outcomes: Sequence[_Outcome]) -> str:
        known = (name for name, mistake in self.wrong_answers.items() if self._agree(self._outcomes(mistake), outcomes))
        return self.diagnoses.get(next(known, ""), "")

    def _explain(self, case: Case, found: Difference, diagnosis: str, time_limit: float, answer: Any) -> str:
        shown = case.show or _describe(case.args, self.reference)
        at = f"{found.path}: " if found.path else ""
        lines = [f"{self.name}: {NOT_YET}", f"  case:     {case.name}" + (f" ({shown})" if shown else "")]
        lines.append(f"  expected: {at}{compact(found.expected)}")
        if isinstance(found.got, Raised):
            lines += _explain_raised(found.got, time_limit, answer)
        else:
            lines.append(f"  got:      {at}{compact(found.got)}")
        lines += [_wrapped(f"  {text}") for text in (found.reason, diagnosis) if text]
        lines.append("  Stuck? Call .hint() on this check.")
        return "\n".join(lines)


def _wrapped(text: str) -> str:
    """Lines that a notebook shows whole; it would break longer ones in the middle of a word."""
    return textwrap.fill(text, 88, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _explain_raised(got: Raised, time_limit: float, answer: Any) -> list[str]:
    if issubclass(got.kind, TimeoutError) and got.line == "limit":
        return ["  got:      no answer", f"  It was still running after {time_limit:g} s. Which loop does not end?"]
    if issubclass(got.kind, InputChangedError):
        number = int(got.text.split()[-1]) - 1
        names = _parameter_names(answer)
        which = f"`{names[number]}`" if number < len(names) else got.text
        return [f"  got:      {which} changed", "  The caller still needs it. Where does your code write into it?"]
    if issubclass(got.kind, NotImplementedError):
        return ["  got:      nothing: here your code still raises NotImplementedError"]
    where = [f"  It stopped at:  {got.line}"] if got.line else []
    return [f"  got:      {compact(got)}", *where]


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _describe(args: tuple[Any, ...], reference: Callable[..., Any]) -> str:
    names = _parameter_names(reference)
    named = [f"{names[i]} = " if i < len(names) else "" for i in range(len(args))]
    return ", ".join(f"{name}{compact(plain(arg))}" for name, arg in zip(named, args, strict=True))


@contextlib.contextmanager
def _same_randomness_afterwards() -> Iterator[None]:
    """Leave the global random generators as they were found, so that a check changes no later cell."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)


def _run(answer: Callable[..., Any], cases: Sequence[Case], outcomes: list[_Outcome]) -> None:
    """Append the outcome of each case; nothing the answer raises gets out."""
    for case in cases:
        said: list[bool] = []
        watched = _watch(answer, said)
        seed_everything(0)
        try:
            value = plain(case.run(watched))
        except _Stopped:
            return
        except BaseException as error:  # the learner sees a verdict, never a traceback, not even for exit()
            value = _raised(error)
        blank = isinstance(value, Raised) and issubclass(value.kind, NotImplementedError)
        outcomes.append(_Outcome(value, blank or (bool(said) and not any(said))))


def _watch(answer: Callable[..., Any], said: list[bool]) -> Callable[..., Any]:
    """The same function, noting of each call whether it returned anything."""
    if not inspect.isroutine(answer):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        value = answer(*args, **kwargs)
        said.append(value is not None and value is not Ellipsis)
        return value

    return watched


def _raised(error: BaseException) -> Raised:
    text = str(error).strip().splitlines()
    frames = traceback.extract_tb(error.__traceback__, limit=200)
    outside = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    own = [frame for frame in outside if frame.filename == outside[0].filename]
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip() if own else ""
    return Raised(type(error), text[0][:200] if text else "", line)


def _run_with_limit(answer: Callable[..., Any], cases: Sequence[Case], time_limit: float) -> list[_Outcome]:
    """Run in a thread of its own, which works on every platform; outcomes end with a `TimeoutError` if time ran out."""
    outcomes: list[_Outcome] = []
    # The context carries which notebook cell the answer's own prints belong to.
    context = contextvars.copy_context()
    worker = threading.Thread(target=context.run, args=(_run, answer, cases, outcomes), daemon=True)
    with _same_randomness_afterwards():
        end = time.monotonic() + time_limit
        worker.start()
        try:
            while worker.is_alive() and time.monotonic() < end:
                worker.join(0.05)
        finally:
            finished = list(outcomes)
            if worker.is_alive():
                _stop(worker)
    if len(finished) < len(cases):
        finished.append(_Outcome(Raised(TimeoutError, line="limit"), silent=False))
    return finished


def _stop(worker: threading.Thread) -> None:
    """Throw an exception into the thread, repeatedly, as its code may catch it; one blocked in C is left behind."""
    for _ in range(20):
        if not worker.is_alive() or worker.ident is None:
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(_Stopped))
        worker.join(0.05)
