"""Ctrl-C, held back: noted once, asked for, answered at once the second time, and as before afterwards."""

import signal
import threading

import pytest

from course_lib.beyond.cg_p.interrupts import held_back


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_noted_and_the_search_asks():
    with held_back() as ask:
        ask()
        signal.raise_signal(signal.SIGINT)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                ask()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_is_answered_at_once():
    with held_back():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_whoever_listened_before_still_hears_it():
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    with held_back() as ask:
        signal.raise_signal(signal.SIGINT)
        ask()  # they have dealt with it
    assert heard == [signal.SIGINT]


def test_the_handler_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), held_back():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_ignored_it_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back() as ask:
        signal.raise_signal(signal.SIGINT)
        ask()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_changes():
    seen = []

    def work():
        with held_back() as ask:
            ask()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
