"""Temporal-wise methods: some frames, words or tokens get more work than others (survey section 4, 2102.04906)."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
