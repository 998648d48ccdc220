"""Signed distances to the borders of simple shapes, in pixels: negative inside, positive outside.

Each takes x and y in the shape's own axes (to its right, and up) and its radius r, arrays that broadcast together.
Half a pixel inside the border a pixel is covered whole, half a pixel outside not at all: this is all that drawing
without jagged edges needs. Extents are shares of the radius, chosen so that the shapes look equally large.
"""

from __future__ import annotations

import math

import numpy as np

_SQUARE = 0.88
_DIAMOND = 1.14
_TRIANGLE = 1.14
_ARM_LENGTH, _ARM_WIDTH = 1.04, 0.35
_RING = 0.34
_BAR_LENGTH, _BAR_WIDTH = 1.12, 0.36


def own_axes(center: np.ndarray, angle: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels' middles in the axes of each image's shape: x and y, each (n, size, size).

    center: (n, 2) float32, (row, column) in pixels; angle: (n,) float32, radians, counter-clockwise as seen.
    """
    middle = np.arange(size, dtype=np.float32) + np.float32(0.5)
    down = middle[None, :, None] - center[:, 0, None, None]
    right = middle[None, None, :] - center[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return right * cos - down * sin, -right * sin - down * cos


def disc(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A disc of radius r."""
    return np.sqrt(x * x + y * y) - r


def square(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A square, its sides along the axes."""
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(_SQUARE) * r


def diamond(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A square standing on a corner."""
    return (np.abs(x) + np.abs(y) - np.float32(_DIAMOND) * r) * np.float32(math.sqrt(0.5))


def triangle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """An equilateral triangle: half as far to a side as to a corner."""
    sides = np.float32(math.sqrt(0.75)) * np.abs(x) + np.float32(0.5) * y
    return np.maximum(sides, -y) - np.float32(0.5 * _TRIANGLE) * r


def cross(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A cross of four arms."""
    x, y = np.abs(x), np.abs(y)
    long, short = np.maximum(x, y), np.minimum(x, y)
    # Along the longer direction lies the arm's end, across it the arm's side. In the notch between two arms this is
    # the exact distance, and so is the outline's inner border, except at the four inner corners.
    return np.maximum(long - np.float32(_ARM_LENGTH) * r, short - np.float32(_ARM_WIDTH) * r)


def ring(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A disc with a round hole."""
    half = np.float32(0.5 * _RING) * r
    return np.abs(disc(x, y, r) + half) - half


def bar(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A bar that lies along x."""
    return np.maximum(np.abs(x) - np.float32(_BAR_LENGTH) * r, np.abs(y) - np.float32(_BAR_WIDTH) * r)
