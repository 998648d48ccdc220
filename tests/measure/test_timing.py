"""Times by a clock the tests move themselves; no assertion depends on how fast this machine is."""

import pytest
import torch

from course_lib import measure
from course_lib.measure import timing


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told: `clock[0] += seconds`."""
    now = [100.0]
    monkeypatch.setattr(timing, "_clock", lambda: now[0])
    return now


def taking(clock, durations, log=None, name=""):
    durations = iter(durations)

    def call():
        clock[0] += next(durations)
        if log is not None:
            log.append(name)

    return call


def test_latency_leaves_the_warmup_out_and_gives_quartiles(clock):
    result = measure.latency(taking(clock, [100, 50, 1, 2, 3, 4, 5]), warmup=2, repeats=5)
    assert result == measure.Timing(3.0, 2.0, 4.0, 5, "cpu", (1.0, 2.0, 3.0, 4.0, 5.0))


def test_the_device_is_that_of_the_result():
    assert measure.latency(lambda: None, warmup=0, repeats=1).device == "cpu"
    assert measure.latency(lambda: {"a": [1, torch.empty(1, device="meta")]}, repeats=1).device == "meta"


def test_throughput(clock):
    assert measure.throughput(taking(clock, [9, 0.5, 0.5, 0.5]), 32, warmup=1, repeats=3) == pytest.approx(64)


def test_compare_runs_round_by_round(clock):
    log = []
    contenders = {name: taking(clock, [1] * 4, log, name) for name in "abc"}
    result = measure.compare(contenders, rounds=3, warmup=1)
    assert log == list("abc" * 4)
    assert list(result) == list("abc")
    assert all(timing.repeats == 3 for timing in result.values())


def test_ratio_is_taken_within_each_round(clock):
    """A machine four times slower in every second round: the ratio of the two calls stays exactly 2."""
    slow = {"a": taking(clock, [2, 8, 2, 8]), "b": taking(clock, [1, 4, 1, 4])}
    result = measure.compare(slow, rounds=4, warmup=0)
    assert result["a"].samples_s == (2, 8, 2, 8)
    assert measure.ratio(result["a"], result["b"]) == 2
    assert measure.ratio(result["b"], result["a"]) == 0.5


def test_ratio_needs_the_same_rounds(clock):
    one, two = (measure.latency(taking(clock, [1] * n), warmup=0, repeats=n) for n in (1, 2))
    with pytest.raises(ValueError, match="1 and 2 samples"):
        measure.ratio(one, two)


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"warmup": -1}])
def test_bad_counts(arguments):
    with pytest.raises(ValueError, match="expected"):
        measure.latency(lambda: None, **arguments)
    with pytest.raises(ValueError, match="items: got 0"):
        measure.throughput(lambda: None, 0)


def test_no_contenders():
    assert measure.compare({}) == {}


def test_a_failing_call_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        measure.latency(lambda: 1 / 0)


def test_peak_memory_sees_what_is_held_and_what_is_temporary():
    size = 16 << 20
    fill = lambda: torch.ones(size // 4)  # noqa: E731
    measure.peak_memory(fill)
    one = measure.peak_memory(fill)
    two = measure.peak_memory(lambda: fill() + fill())  # three tensors at once
    assert one >= 0.9 * size or one == 0  # 0 only where the system does not let the mark be reset
    assert two > 2.5 * one
    assert two <= 4 * size
    assert measure.peak_memory(lambda: None) < size // 4
