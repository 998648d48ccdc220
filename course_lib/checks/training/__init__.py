"""Checks of the chapters on training dynamic networks."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
