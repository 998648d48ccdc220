"""What flows in: procedural images of known difficulty, bundled real digits, real data sets by name and root."""

from course_lib.data.digits import digits
from course_lib.data.glyphs import Glyphs, glyphs
from course_lib.data.real import load
from course_lib.data.regions import Regions, two_regions
from course_lib.data.shapes import SHAPE_CLASSES, Shapes, shapes
from course_lib.data.vectors import Vectors, two_difficulties

__all__ = [
    "SHAPE_CLASSES",
    "Glyphs",
    "Regions",
    "Shapes",
    "Vectors",
    "digits",
    "glyphs",
    "load",
    "shapes",
    "two_difficulties",
    "two_regions",
]
