"""What flows in: procedural images and clips, bundled real digits, real data sets by name and root, video files."""

from course_lib.data.clips import Clips, clips
from course_lib.data.digits import digits
from course_lib.data.domains import DOMAIN_CLASSES, DOMAINS, DomainShapes, domain_shapes
from course_lib.data.glyphs import Glyphs, glyphs
from course_lib.data.real import load, load_domains
from course_lib.data.regions import Regions, two_regions
from course_lib.data.sequences import ADDING_VARIANCE, Sequences, adding
from course_lib.data.shapes import SHAPE_CLASSES, Shapes, shapes
from course_lib.data.text import Sentences, Vocabulary, keyword_sentences, sentences, tokenise
from course_lib.data.vectors import Vectors, two_difficulties
from course_lib.data.video import frames_of, read_clip, write_clip, write_overlay

__all__ = [
    "ADDING_VARIANCE",
    "DOMAINS",
    "DOMAIN_CLASSES",
    "SHAPE_CLASSES",
    "Clips",
    "DomainShapes",
    "Glyphs",
    "Regions",
    "Sentences",
    "Sequences",
    "Shapes",
    "Vectors",
    "Vocabulary",
    "adding",
    "clips",
    "digits",
    "domain_shapes",
    "frames_of",
    "glyphs",
    "keyword_sentences",
    "load",
    "load_domains",
    "read_clip",
    "sentences",
    "shapes",
    "tokenise",
    "two_difficulties",
    "two_regions",
    "write_clip",
    "write_overlay",
]
