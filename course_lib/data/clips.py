"""Procedural video clips that know where and when to look: a small digit drifts through noise among drifting strokes.

One region of one or more frames tells the class and all else is distraction, as in the videos for which AdaFocus
(arXiv 2105.03245) was made. Every clip carries the place of its digit in each frame and the frames that show it, so a
chapter can ask whether a policy looks where the digit is.
"""

from __future__ import annotations

import operator
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.data.digits import digits
from course_lib.data.real import SPLITS

SIDE = 10
"""Height and width of a digit in a clip, in pixels."""

_STROKE = (5, 2)  # height and width, or the other way round
_CHUNK_PIXELS = 1 << 20  # drawn at once: the few arrays of this length stay in the cache


@dataclass(frozen=True)
class Clips:
    """What `clips` drew, N clips of T frames. Places are (row, column) of an upper left corner, in whole pixels.

    frames: (N, T, 3, H, W) float32 in [0, 1], three equal channels (one in memory: copy before writing into it);
    labels: (N,) int64, the digit; box: (N, T, 2) float32, where the digit is, or would be were it shown;
    informative: (N, T) bool, whether the digit is shown; rival: (N,) int64, the second digit, -1 where there is none;
    rival_box: (N, T, 2) float32, where that one is, NaN where there is none.
    """

    frames: Tensor
    labels: Tensor
    box: Tensor
    informative: Tensor
    rival: Tensor
    rival_box: Tensor

    @property
    def side(self) -> int:
        """Height and width of a digit in pixels."""
        return SIDE

    def __len__(self) -> int:
        return len(self.labels)

    def covered(self, corner: Tensor, patch: int) -> Tensor:
        """Whether windows of `patch` x `patch` pixels at these upper left corners hold the whole digit.

        Args:
            corner: (N, T, 2) in pixels, (row, column).
            patch: side of the windows in pixels.

        Returns:
            (N, T) bool, False in frames that do not show the digit. Raises ValueError for another shape.
        """
        if corner.shape != self.box.shape:
            raise ValueError(f"corner: got shape {tuple(corner.shape)}, expected {tuple(self.box.shape)}")
        box = self.box.to(corner.device)
        inside = (corner <= box) & (box + self.side <= corner + patch)
        return inside.all(-1) & self.informative.to(corner.device)


def clips(
    n: int,
    *,
    frames: int = 8,
    size: int = 48,
    split: str = "train",
    noise: float = 0.25,
    strokes: int = 3,
    brightness: float = 0.6,
    speed: float = 3.0,
    visible: int | None = None,
    rival: bool = False,
    seed: int = 0,
) -> Clips:
    """Draw `n` clips of one digit each; the same arguments give the same bytes.

    A real 8x8 digit, enlarged to 10x10, and some strokes of 5x2 or 2x5 pixels start anywhere and move on straight
    lines, each at its own constant velocity, reflected at the border. Digit and strokes lie on black, the brighter one
    in front; then every pixel of every frame gets fresh Gaussian noise, so that several frames say more than one. Of
    this sum v, what lies in [-0.5, 1.5] is kept, as the frame 0.25 + v / 2 in [0, 1]: a caller who normalises by
    (x - 0.5) * 2 sees v - 0.5, noise on the dark ground included.

    The knobs leave the rest as the seed draws it: the same clip can be had faster, noisier or with a rival.

    Args:
        n: number of clips, 0 included. Classes are shuffled, their counts differ by at most one.
        frames: frames of a clip, at least 1 (a still image).
        size: height and width in pixels, at least 16.
        split: "train", "validation" or "test": the part of the bundled digits that is drawn from.
        noise: standard deviation, in units of the digits' brightness, at least 0.
        strokes: distractors of each clip, at least 0.
        brightness: of the strokes, in [0, 1.5]; the digits reach 1.
        speed: the largest velocity along each axis, in pixels a frame, at least 0.
        visible: number of frames, drawn at random, that show the digit; None for all.
        rival: put a second digit of another class, which moves likewise, into the same frames.
        seed: a non-negative number.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> batch = clips(2, frames=4, seed=1)
    >>> tuple(batch.frames.shape), tuple(batch.box.shape), int(batch.informative.sum())
    ((2, 4, 3, 48, 48), (2, 4, 2), 8)
    """
    n, frames, size, strokes, seed = (operator.index(value) for value in (n, frames, size, strokes, seed))
    visible = frames if visible is None else operator.index(visible)
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected 'train', 'validation' or 'test'")
    _require(n=(n, 0), frames=(frames, 1), size=(size, 16), seed=(seed, 0), noise=(noise, 0), strokes=(strokes, 0))
    _require(speed=(speed, 0), brightness=(brightness, 0, 1.5), visible=(visible, 0, frames))

    # One stream of numbers for each question, so that another answer to one leaves the others as they are.
    seeds = np.random.SeedSequence([seed, SPLITS.index(split)]).spawn(5)
    choose, move, scatter, second, grain = (np.random.default_rng(one) for one in seeds)
    images, classes = _enlarged(split)
    made = np.zeros((n, frames, 1, size, size), dtype=np.float32)
    _lay_strokes(made, scatter, strokes, brightness, speed)
    labels = choose.permutation(np.arange(n, dtype=np.int64) % 10)
    digit = _picked(choose, images, classes, labels)
    shown = choose.random((n, frames)).argsort(1).argsort(1) < visible
    box = _paths(move, (n,), frames, size - SIDE, speed)
    _lay(made, np.arange(n), box, digit[:, None] * shown[:, :, None, None])
    other, other_box = np.full(n, -1, dtype=np.int64), np.full((n, frames, 2), np.nan, dtype=np.float32)
    if rival:
        other = (labels + second.integers(1, 10, n)) % 10
        other_box = _paths(second, (n,), frames, size - SIDE, speed)
        _lay(made, np.arange(n), other_box, _picked(second, images, classes, other)[:, None])
    _as_seen(made, noise, grain)
    truth = (torch.from_numpy(known) for known in (labels, box, shown, other, other_box))
    return Clips(torch.from_numpy(made).expand(-1, -1, 3, -1, -1), *truth)


def _require(**limits: tuple[float, ...]) -> None:
    """Each argument as (value, least) or (value, least, most)."""
    for name, (value, least, *most) in limits.items():
        if not least <= value <= min(most, default=sys.float_info.max):  # NaN and infinity are outside, too
            expected = f"a number from {least} to {most[0]}" if most else f"a finite number >= {least}"
            raise ValueError(f"{name}: got {value}, expected {expected}")


def _enlarged(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split, (m, 10, 10), and their classes."""
    images, labels = digits(split=split)
    larger = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return larger[:, 0].numpy(), labels.numpy()


def _picked(rng: np.random.Generator, images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, 10, 10): for each label one image of its class, all equally likely."""
    by_class = classes.argsort(kind="stable")
    counts = np.bincount(classes, minlength=10)
    first = counts.cumsum() - counts
    return images[by_class[first[labels] + (rng.random(len(labels)) * counts[labels]).astype(np.int64)]]


def _paths(
    rng: np.random.Generator, many: tuple[int, ...], frames: int, room: int | np.ndarray, speed: float
) -> np.ndarray:
    """(*many, frames, 2) float32, whole pixels: constant velocities within [0, room], reflected at both ends."""
    room = np.broadcast_to(room, (*many, 2))[..., None, :]
    start = rng.random((*many, 1, 2)) * room
    velocity = rng.uniform(-1, 1, (*many, 1, 2)) * speed
    straight = start + velocity * np.arange(frames)[:, None]
    return np.rint(room - np.abs(straight % (2 * room) - room)).astype(np.float32)


def _lay_strokes(clips: np.ndarray, rng: np.random.Generator, number: int, brightness: float, speed: float) -> None:
    """Into clips (N, T, 1, size, size): the same number of drifting strokes each, standing or lying."""
    n, frames, size = *clips.shape[:2], clips.shape[-1]
    lying = rng.random((n, number)) < 0.5
    room = size - np.where(lying[..., None], _STROKE[::-1], _STROKE)
    places = _paths(rng, (n, number), frames, room, speed)
    for lies, shape in ((False, _STROKE), (True, _STROKE[::-1])):
        rows, which = np.nonzero(lying == lies)
        _lay(clips, rows, places[rows, which], np.full(shape, brightness, dtype=np.float32))


def _lay(clips: np.ndarray, rows: np.ndarray, corner: np.ndarray, ink: np.ndarray) -> None:
    """Into clips (N, T, 1, size, size), where brighter: `ink` (..., h, w) at corners (k, T, 2) of the clips `rows`."""
    frames, size = clips.shape[1], clips.shape[-1]
    height, width = ink.shape[-2:]
    row, column = np.moveaxis(corner.astype(np.int64), -1, 0)
    first = ((rows[:, None] * frames + np.arange(frames)) * size + row) * size + column
    at = first[..., None, None] + np.arange(height)[:, None] * size + np.arange(width)
    flat = clips.reshape(-1)
    flat[at] = np.maximum(flat[at], ink)


def _as_seen(clips: np.ndarray, noise: float, rng: np.random.Generator) -> None:
    """In place: fresh noise for every pixel of every frame, then the range [-0.5, 1.5] as [0, 1]."""
    step = max(1, _CHUNK_PIXELS // max(1, clips[:1].size))
    for start in range(0, len(clips), step):
        part = clips[start : start + step]
        grain = rng.standard_normal(part.shape, dtype=np.float32)
        grain *= np.float32(noise)
        part += grain
        part *= np.float32(0.5)
        part += np.float32(0.25)
        np.clip(part, 0, 1, out=part)
