"""Instance-wise methods: each image gets its own depth, width or parameters (survey section 2, arXiv 2102.04906)."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
