"""Ctrl-C, held back until the search can answer it.

Compiled code and linear programs call back into Python, and a KeyboardInterrupt raised in there is turned into another
error or lost. So while a search runs Ctrl-C is only noted, and the search asks, between its steps, whether it came.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Note the first Ctrl-C instead of raising; the function given raises KeyboardInterrupt from then on.

    A second Ctrl-C is answered at once, as it would be without. Outside the main thread, where no signal arrives, and
    where Ctrl-C is ignored, nothing changes.

    >>> with held_back() as ask:
    ...     ask()  # nobody has pressed Ctrl-C
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        assert callable(before)
        if pressed:
            before(number, frame)
            return
        try:
            before(number, frame)
        except KeyboardInterrupt:
            pressed = True

    def ask() -> None:
        if pressed:
            raise KeyboardInterrupt

    installed = callable(before)
    try:
        if installed:
            signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        installed = False
    try:
        yield ask
    finally:
        if installed:
            signal.signal(signal.SIGINT, before)
