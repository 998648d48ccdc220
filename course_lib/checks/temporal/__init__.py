"""Checks of the chapters on networks that adapt to frames, words and time."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
