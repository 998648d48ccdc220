"""Checks of the chapters on what adapts beyond the survey: prompts, labels, solvers, agents."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
