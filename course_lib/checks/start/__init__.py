"""Checks of the opening chapters."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
