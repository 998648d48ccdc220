"""The same six shapes drawn in several visual domains, with captions: what domain adaptation is tried on.

What is drawn (class, place, size, turn) depends on the seed alone, how it is drawn on the domain: the same seed gives
the same scene as a photo, as a painting, as a sketch, so that two domains differ in style and in nothing else.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from course_lib.data.distances import bar, cross, disc, own_axes, ring, square, triangle
from course_lib.data.shapes import contrasting_colours

DOMAIN_CLASSES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "ring", "bar")
"""The class names, in the order of the labels."""

_DISTANCES = (disc, square, triangle, cross, ring, bar)
_MAX_TURN = 0.3  # radians
_CHUNK_PIXELS = 1 << 17  # pixels drawn at once: the few arrays of this length stay in the cache
_GENERAL, _PLAIN = 0.25, 0.45  # shares of captions: without a domain; with the domain's name and no more
_OWN_WORDS = 0.85  # share of captions that call the class by a word of their domain


@dataclass(frozen=True)
class _Speech:
    """How captions of a domain speak: other phrases for it, and words of its own for the classes."""

    phrases: tuple[str, ...]
    names: tuple[str, ...]


_SPEECH = {
    "photo": _Speech(
        ("a real photograph of a {}.", "a shaded snapshot of a {}."),
        ("coin", "window", "roof", "sign", "tyre", "pole"),
    ),
    "painting": _Speech(
        ("a colourful artwork of a {}.", "a flat canvas of a {}."),
        ("disc", "block", "wedge", "plus", "hoop", "stripe"),
    ),
    "sketch": _Speech(
        ("a pencil drawing of a {}.", "a thin outline of a {}."),
        ("ball", "box", "arrow", "star", "loop", "stick"),
    ),
    "blueprint": _Speech(
        ("a technical plan of a {}.", "a ruled diagram of a {}."),
        ("shaft", "plate", "gusset", "joint", "washer", "beam"),
    ),
    "xray": _Speech(
        ("a grey scan of a {}.", "a dim radiograph of a {}."),
        ("pellet", "chip", "fang", "clamp", "clasp", "rod"),
    ),
}
CAPTION_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        word
        for text in (
            *DOMAIN_CLASSES,
            *_SPEECH,
            *(" ".join((*speech.phrases, *speech.names)) for speech in _SPEECH.values()),
            "image",
        )
        for word in re.findall("[a-z]+", text)
    )
)
"""All words that captions are made of, besides full stop and comma."""


@dataclass(frozen=True)
class DomainShapes:
    """What `domain_shapes` drew.

    images: (n, 3, size, size) float32 in [0, 1]; labels: (n,) int64, indices into `DOMAIN_CLASSES`; captions: n
    sentences, such as "a photo of a ring."; center: (n, 2) float32, (row, column) in pixels; radius: (n,) float32,
    pixels; angle: (n,) float32, radians.
    """

    images: torch.Tensor
    labels: torch.Tensor
    captions: list[str]
    center: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def domain_shapes(n: int, *, domain: str, classes: int = 6, size: int = 32, seed: int = 0) -> DomainShapes:
    """Draw `n` images of one shape each in the style of one domain; the same arguments give the same bytes.

    A quarter of the captions name the class alone ("a ring."), nearly half name the domain, too ("a sketch of a
    ring."), the others vary the words ("a thin outline of a ring.", "a ring, a sketch image."). As in the world, most
    captions use the words of their trade: in 85 of 100 a ring is a tyre in a photo, a washer in a blueprint.

    Args:
        n: number of images, 0 included. Classes are shuffled, their counts differ by at most one.
        domain: one of `DOMAINS`.
        classes: 1 to 6; the first `classes` names of `DOMAIN_CLASSES`.
        size: height and width in pixels, at least 16.
        seed: a non-negative number. It fixes the scenes, whatever the domain.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> drawn = domain_shapes(2, domain="sketch", seed=1)
    >>> tuple(drawn.images.shape), len(drawn.captions)
    ((2, 3, 32, 32), 2)
    """
    n, classes, size, seed = (operator.index(value) for value in (n, classes, size, seed))
    if domain not in DOMAINS:
        raise ValueError(f"domain: got {domain!r}, expected one of {', '.join(DOMAINS)}")
    if n < 0:
        raise ValueError(f"n: got {n}, expected a number of images >= 0")
    if not 1 <= classes <= len(DOMAIN_CLASSES):
        raise ValueError(f"classes: got {classes}, expected 1 to {len(DOMAIN_CLASSES)}")
    if size < 16:
        raise ValueError(f"size: got {size}, expected at least 16 pixels")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected a number >= 0")

    scene = np.random.default_rng(seed)
    labels = scene.permutation(np.arange(n, dtype=np.int64) % classes)
    radius = (scene.uniform(0.2, 0.36, n) * size).astype(np.float32)
    freedom = np.maximum(size / 2 - 1.15 * radius, 0).astype(np.float32)
    center = np.float32(size / 2) + scene.uniform(-1, 1, (n, 2)).astype(np.float32) * freedom[:, None]
    angle = scene.uniform(-_MAX_TURN, _MAX_TURN, n).astype(np.float32)

    style = np.random.default_rng((seed, DOMAINS.index(domain)))
    captions = _captions(style, labels, domain)
    images = np.empty((n, 3, size, size), dtype=np.float32)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        part = slice(start, start + step)
        distance = _distance(labels[part], center[part], radius[part], angle[part], size)
        np.clip(_STYLES[domain](style, distance), 0, 1, out=images[part])
    drawn, truth, where, extent, turn = (torch.from_numpy(array) for array in (images, labels, center, radius, angle))
    return DomainShapes(drawn, truth, captions, where, extent, turn)


def _captions(rng: np.random.Generator, labels: np.ndarray, domain: str) -> list[str]:
    """One sentence an image."""
    speech = _SPEECH[domain]
    phrases = ("a {}, a " + domain + " image.", *speech.phrases)
    kinds, own, phrase = rng.random(len(labels)), rng.random(len(labels)), rng.integers(len(phrases), size=len(labels))
    captions = []
    for i, label in enumerate(labels):
        name = speech.names[label] if own[i] < _OWN_WORDS else DOMAIN_CLASSES[label]
        if kinds[i] < _GENERAL:
            captions.append(f"a {name}.")
        elif kinds[i] < _GENERAL + _PLAIN:
            captions.append(f"a {domain} of a {name}.")
        else:
            captions.append(phrases[phrase[i]].format(name))
    return captions


def _distance(labels: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Signed distance of every pixel to the border of its image's shape, (n, size, size)."""
    x, y = own_axes(center, angle, size)
    distance = np.empty_like(x)
    for kind, signed_distance in enumerate(_DISTANCES):
        rows = np.flatnonzero(labels == kind)
        distance[rows] = signed_distance(x[rows], y[rows], radius[rows, None, None])
    return distance


# Styles: (rng, distance (n, size, size)) -> images (n, 3, size, size), to be clipped -------------------------------


def _photo(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """A coloured thing, lit from one side, before a background that fades from one colour to another; grainy."""
    n, size = distance.shape[:2]
    colours = contrasting_colours(rng, n)
    background = colours[:, 0, :, None, None] + 0.35 * _ramp(rng, n, size)[:, None] * rng.uniform(-1, 1, (n, 3, 1, 1))
    thing = colours[:, 1, :, None, None] * (1 + 0.35 * _ramp(rng, n, size)[:, None])
    picture = _over(background, thing, _filled(distance))
    return picture + _grain(rng, picture.shape, 0.08)


def _painting(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """Flat saturated colours, the background in patches, the border drawn by an unsteady hand."""
    n, size = distance.shape[:2]
    hues = rng.random((n, 1)) + np.stack([np.zeros(n), rng.uniform(0.04, 0.14, n), rng.uniform(0.4, 0.75, n)], axis=1)
    patch = (_waves(rng, n, size, length=34.0) > 0)[:, None]
    background = np.where(patch, *(_hue(hues[:, k])[:, :, None, None] for k in (0, 1)))
    wobbly = distance + 0.4 * _waves(rng, n, size, length=9.0)
    return _over(background, _hue(hues[:, 2])[:, :, None, None], _filled(wobbly))


def _sketch(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """A thin dark outline on paper, wavering, now and then interrupted; a stray line behind."""
    n, size = distance.shape[:2]
    wavering = distance + 0.7 * _waves(rng, n, size, length=8.0)
    ink = _line(wavering, 0.65) * (_waves(rng, n, size, length=14.0) < 0.8)
    stray = _line(_ramp(rng, n, size) * size / 2 + rng.uniform(-0.3, 0.3, (n, 1, 1)) * size, 0.4)
    darkness = np.maximum(ink * rng.uniform(0.6, 0.95, (n, 1, 1)), 0.5 * stray)
    paper = 0.95 - darkness
    return np.repeat(paper[:, None], 3, axis=1) + _grain(rng, (n, 3, size, size), 0.03)


def _blueprint(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """A light line on blue, over ruled squares."""
    n, size = distance.shape[:2]
    blue = np.stack([rng.uniform(*bounds, n) for bounds in ((0.02, 0.15), (0.15, 0.4), (0.5, 0.8))], axis=1)
    spacing = rng.integers(5, 9, (n, 1, 1))
    shift = rng.integers(0, 8, (n, 2))
    rows, columns = ((np.arange(size) + shift[:, k, None])[:, :, None] for k in (0, 1))
    ruled = (rows % spacing == 0) | (columns.transpose(0, 2, 1) % spacing == 0)
    light = np.maximum(_line(distance, 0.8) * rng.uniform(0.7, 1.0, (n, 1, 1)), 0.25 * ruled)
    return _over(blue[:, :, None, None], np.float32(0.9), light) + _grain(rng, (n, 3, size, size), 0.05)


def _xray(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """A faint glow with a soft border in strong grey noise, sometimes as a negative."""
    n, size = distance.shape[:2]
    glow = 1 / (1 + np.exp(np.clip(distance / rng.uniform(0.8, 1.6, (n, 1, 1)), -30, 30)))
    grey = rng.uniform(0.25, 0.4, (n, 1, 1)) + rng.uniform(0.25, 0.4, (n, 1, 1)) * glow
    grey = np.where(rng.random((n, 1, 1)) < 0.5, 1 - grey, grey) + _grain(rng, (n, size, size), 0.2)
    return np.repeat(grey[:, None], 3, axis=1)


_STYLES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "photo": _photo,
    "painting": _painting,
    "sketch": _sketch,
    "blueprint": _blueprint,
    "xray": _xray,
}

DOMAINS: tuple[str, ...] = tuple(_STYLES)
"""The names of the domains."""


def _filled(distance: np.ndarray) -> np.ndarray:
    """How much of each pixel lies inside, in [0, 1]."""
    return np.clip(0.5 - distance, 0, 1)


def _line(distance: np.ndarray, half_width: float) -> np.ndarray:
    """How much of each pixel a line along the border covers, in [0, 1]."""
    return np.clip(0.5 + half_width - np.abs(distance), 0, 1)


def _over(below: np.ndarray, above: np.ndarray | np.float32, covered: np.ndarray) -> np.ndarray:
    """One colour over another, (n, 3, size, size), where `covered` (n, size, size) says so."""
    return below + (above - below) * covered[:, None]


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    return np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)


def _ramp(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """A slope in a random direction, (n, size, size), from about -1 to 1."""
    direction = rng.uniform(0, 2 * math.pi, n).astype(np.float32)[:, None, None]
    place = np.linspace(-1, 1, size, dtype=np.float32)
    return np.cos(direction) * place[None, None, :] + np.sin(direction) * place[None, :, None]


def _waves(rng: np.random.Generator, n: int, size: int, *, length: float) -> np.ndarray:
    """Smooth unsteadiness, (n, size, size), within [-1, 1]: two crossing waves of about `length` pixels."""
    total = np.zeros((n, size, size), dtype=np.float32)
    for _ in range(2):
        phase = rng.uniform(0, 2 * math.pi, n).astype(np.float32)[:, None, None]
        per_length = (np.float32(math.pi * size / length) * rng.uniform(0.8, 1.2, n)).astype(np.float32)[:, None, None]
        total += 0.5 * np.sin(per_length * _ramp(rng, n, size) + phase)
    return total


def _hue(hue: np.ndarray) -> np.ndarray:
    """Saturated colours, (n, 3), once round the colour circle as `hue` (n,) goes from 0 to 1."""
    apart = np.abs((hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 - 0.5)
    return np.clip(6 * apart - 1, 0, 1).astype(np.float32)
