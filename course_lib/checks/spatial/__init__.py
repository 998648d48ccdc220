"""Checks of the chapters on networks that adapt to places and resolutions."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
