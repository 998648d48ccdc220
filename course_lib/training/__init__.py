"""How dynamic networks learn: gradients for decisions, and what else training needs (survey section 5.2)."""

from course_lib._lazy import attach

__getattr__, __dir__ = attach(__name__, __path__)
