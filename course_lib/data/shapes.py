"""Procedural images whose difficulty is known: one shape on a plain background, small and noisy where it is hard.

Every image carries the number that made it easy or hard, which no photograph does. So a chapter can ask whether the
images that leave a network early are the easy ones, and compare with the truth.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import torch

from course_lib.data.distances import cross, diamond, disc, own_axes, square, triangle

SHAPE_CLASSES: tuple[str, ...] = tuple(
    f"{fill} {shape}" for fill in ("filled", "hollow") for shape in ("disc", "square", "diamond", "triangle", "cross")
)
"""The ten class names, in the order of the labels: five filled shapes, then the same five as outlines."""

MAX_ANGLE = math.radians(10)
"""Largest rotation: a square turned by 45 degrees would be a diamond, so the two stay 25 degrees apart."""

_MIN_COLOUR_DISTANCE = 0.8
_MIN_BRIGHTNESS_DIFFERENCE = 0.32
_CHUNK_PIXELS = 1 << 17  # pixels drawn at once: the few arrays of this length stay in the cache

# Width of the outline, for disc, square, diamond, triangle, cross: the more room inside, the broader the line, so that
# small outlines are still seen and the hole in a small cross is still open.
_OUTLINES = np.array([0.34, 0.32, 0.31, 0.27, 0.19], dtype=np.float32)


@dataclass(frozen=True)
class Shapes:
    """What `shapes` drew. Positions and lengths are in pixels, pixel (0, 0) covers [0, 1] x [0, 1].

    images: (n, 3, size, size) float32 in [0, 1]; labels: (n,) int64, indices into `SHAPE_CLASSES`;
    difficulty: (n,) float32 in [0, 1]; center: (n, 2) float32, (row, column); radius: (n,) float32, that
    of a disc, and about half the extent of the other shapes; angle: (n,) float32, radians, counter-clockwise as seen;
    noise: (n,) float32, standard deviation of what was added to each channel of each pixel.
    """

    images: torch.Tensor
    labels: torch.Tensor
    difficulty: torch.Tensor
    center: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor
    noise: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def shapes(
    n: int,
    *,
    size: int = 16,
    classes: int = 10,
    seed: int = 0,
    radius: float | torch.Tensor | None = None,
    noise: float | torch.Tensor | None = None,
) -> Shapes:
    """Draw `n` images of one shape each; the same arguments give the same bytes.

    A difficulty d ~ U(0, 1) sets everything that makes an image hard: the radius (0.40 - 0.26 d) * size, the freedom
    of the centre +-(size / 2 - radius) d around the middle, the noise 0.05 + 0.15 d. Shape and background colour
    always differ by at least 0.8 in RGB distance and 0.32 in mean brightness, so colour makes no image impossible.

    With `radius` or `noise` given, the difficulty no longer sets it: drawn independently, the two can be told apart.
    All else stays as the seed draws it, but that a centre's freedom follows the radius: the same picture can be had at
    another size or under another noise.

    Args:
        n: number of images, 0 included. Classes are shuffled, their counts differ by at most one.
        size: height and width in pixels, at least 8.
        classes: 2 to 10; the first `classes` names of `SHAPE_CLASSES`.
        seed: a non-negative number.
        radius: pixels, one for all images or (n,); from 0.5 to size / 2.
        noise: standard deviation, one for all images or (n,); from 0 to 1.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> batch = shapes(4, size=16, seed=1)
    >>> tuple(batch.images.shape), batch.images.dtype
    ((4, 3, 16, 16), torch.float32)
    """
    n, size, classes, seed = (operator.index(value) for value in (n, size, classes, seed))
    if n < 0:
        raise ValueError(f"n: got {n}, expected a number of images >= 0")
    if size < 8:
        raise ValueError(f"size: got {size}, expected at least 8 pixels")
    if not 2 <= classes <= len(SHAPE_CLASSES):
        raise ValueError(f"classes: got {classes}, expected 2 to {len(SHAPE_CLASSES)}")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected a number >= 0")

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % classes)
    difficulty = rng.random(n, dtype=np.float32)
    sigma = 0.05 + 0.15 * difficulty if noise is None else _given("noise", noise, n, (0, 1))
    by_difficulty = (0.40 - 0.26 * difficulty) * np.float32(size)
    extent = by_difficulty if radius is None else _given("radius", radius, n, (0.5, size / 2))
    freedom = (size / 2 - extent) * difficulty
    center = np.float32(size / 2) + rng.uniform(-1, 1, (n, 2)).astype(np.float32) * freedom[:, None]
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE, n).astype(np.float32)
    colours = contrasting_colours(rng, n)

    images = np.empty((n, 3, size, size), dtype=np.float32)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        part = slice(start, start + step)
        coverage = _coverage(labels[part], center[part], extent[part], angle[part], size)[:, None]
        background, foreground = (colours[part, i, :, None, None] for i in (0, 1))
        picture = images[part]
        np.multiply(foreground - background, coverage, out=picture)
        picture += background
        grain = rng.standard_normal(picture.shape, dtype=np.float32)
        grain *= sigma[part, None, None, None]
        picture += grain
        np.clip(picture, 0, 1, out=picture)
    return Shapes(*(torch.from_numpy(a) for a in (images, labels, difficulty, center, extent, angle, sigma)))


def _given(name: str, value: float | torch.Tensor, n: int, bounds: tuple[float, float]) -> np.ndarray:
    """One number for all images, or one each, as (n,) float32 within bounds."""
    given = np.asarray(torch.as_tensor(value, dtype=torch.float32))
    if given.shape not in ((), (n,)):
        raise ValueError(f"{name}: got shape {given.shape}, expected one number or one for each of {n} images")
    low, high = bounds
    if not ((given >= low) & (given <= high)).all():  # NaN is outside, too
        raise ValueError(f"{name}: got {given.min():g} to {given.max():g}, expected numbers from {low:g} to {high:g}")
    return np.broadcast_to(given, n).copy()


def contrasting_colours(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two colours per image, (n, 2, 3): background and shape, redrawn together until they differ enough."""
    colours = np.empty((n, 2, 3), dtype=np.float32)
    open_rows = np.arange(n)
    while len(open_rows):
        colours[open_rows] = rng.random((len(open_rows), 2, 3), dtype=np.float32)
        difference = colours[open_rows, 1] - colours[open_rows, 0]
        distance = np.linalg.norm(difference, axis=1)
        brightness = np.abs(difference.mean(axis=1))
        open_rows = open_rows[(distance < _MIN_COLOUR_DISTANCE) | (brightness < _MIN_BRIGHTNESS_DIFFERENCE)]
    return colours


def _coverage(labels: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, (n, size, size) in [0, 1].

    The signed distance to the border, in pixels, is all that anti-aliasing needs: a pixel half a pixel inside is
    covered whole, half a pixel outside not at all. An outline is the shape less the shape shrunk by the line's width.
    """
    x, y = own_axes(center, angle, size)
    distance = np.empty_like(x)
    count = len(_DISTANCES)
    for kind, signed_distance in enumerate(_DISTANCES):
        rows = np.flatnonzero(labels % count == kind)
        distance[rows] = signed_distance(x[rows], y[rows], radius[rows, None, None])
    covered = np.clip(0.5 - distance, 0, 1)
    hollow = np.flatnonzero(labels >= count)
    line = _OUTLINES[labels[hollow] % count] * radius[hollow]
    covered[hollow] -= np.clip(0.5 - distance[hollow] - line[:, None, None], 0, 1)
    return covered


_DISTANCES = (disc, square, diamond, triangle, cross)
