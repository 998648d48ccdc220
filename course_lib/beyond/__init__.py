"""Beyond the survey's three classes: prompts, pseudo-labels, solvers and agents that adapt to what they meet."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
