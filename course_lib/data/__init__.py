"""What flows in: procedural images of known difficulty, bundled real digits, real data sets by name and root."""

from course_lib.data.digits import digits
from course_lib.data.real import load
from course_lib.data.shapes import SHAPE_CLASSES, Shapes, shapes
from course_lib.data.vectors import Vectors, two_difficulties

__all__ = ["SHAPE_CLASSES", "Shapes", "Vectors", "digits", "load", "shapes", "two_difficulties"]
