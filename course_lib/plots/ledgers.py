"""Figures of the opening chapter: what an input needs beside what a static network spends, and the two ledgers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.style import BLUE, GREEN, INK, ORANGE, SKIPPED, SKY, SPENT

_SMALL = 9
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
#: One colour and one hatch for each exit that was enough, and a frame for "none was".
_ENOUGH: tuple[dict[str, Any], ...] = (
    {"facecolor": BLUE, "edgecolor": "white"},
    {"facecolor": SKY, "edgecolor": "white", "hatch": ".."},
    {"facecolor": GREEN, "edgecolor": "white", "hatch": "\\\\"},
    {"facecolor": ORANGE, "edgecolor": "white", "hatch": "xx"},
)
_NONE: dict[str, Any] = {"facecolor": "white", "edgecolor": INK}


def needed_shares(
    needed: Sequence[int], costs: Sequence[float], tiles: Tensor, marked: Tensor
) -> tuple[float, float, float]:
    """Needed divided by spent, per sample, per position and per step; each in [0, 1].

    needed: (N,) index of the exit each picture needs; costs: (K,) cumulative cost of each exit, the last one is spent
    on every picture; tiles: bool, True where a tile is needed; marked: bool, True where a step is.

    >>> import torch
    >>> needed_shares([0, 1], [1.0, 4.0], torch.tensor([[True, False]]), torch.tensor([True, False, False, False]))
    (0.625, 0.5, 0.25)
    """
    samples = sum(costs[k] for k in needed) / (len(needed) * costs[-1])
    return samples, tiles.double().mean().item(), marked.double().mean().item()


def needed_and_spent(
    samples: tuple[Tensor, Sequence[int], Sequence[float]],
    positions: tuple[Tensor, Tensor, Tensor],
    steps: tuple[Tensor, Tensor],
) -> Figure:
    """Three kinds of waste, one a row, with the share that was needed at the right edge.

    Args:
        samples: images (N, 3, H, W) in [0, 1], easy to hard; (N,) index of the exit each of them needs; (K,) cumulative
            cost of each exit.
        positions: an image (3, H, W); the same with every needless tile replaced by background; (rows, columns) bool,
            the tiles that are needed.
        steps: (T,) the numbers of one sequence; (T,) bool, those that matter.
    """
    (images, needed, costs), (picture, covered, tiles) = samples, positions
    figure = plt.figure(figsize=(9.0, 6.2))
    rows = figure.add_gridspec(3, 3, width_ratios=(0.16, 1, 0.15), height_ratios=(1.0, 1.25, 0.75))
    names = ("per sample\n(exits)", "per position\n(tiles)", "per step\n(numbers)")
    for i, (name, share) in enumerate(zip(names, needed_shares(needed, costs, tiles, steps[1]), strict=True)):
        _write(figure.add_subplot(rows[i, 0]), name, size=10)
        _write(figure.add_subplot(rows[i, 2]), f"{100 * share:.0f} %", size=15, weight="bold")
    figure.suptitle("needed (solid) / spent (all)", x=0.99, ha="right", fontsize=11)
    cells = rows[0, 1].subgridspec(2, len(images), height_ratios=(1, 0.22), hspace=0)
    for i, (image, k) in enumerate(zip(images, needed, strict=True)):
        _show(figure.add_subplot(cells[0, i]), image)
        _exit_bar(figure.add_subplot(cells[1, i]), k, costs)
    pictures = rows[1, 1].subgridspec(1, 3)
    titles = ("all that is computed on", "tiles that matter", "the rest covered: same answer")
    for i, (image, title) in enumerate(zip((picture, picture, covered), titles, strict=True)):
        ax = figure.add_subplot(pictures[i])
        _show(ax, image)
        ax.set_xlabel(title, fontsize=_SMALL)
        if i == 1:
            _mark_tiles(ax, tiles, picture.shape[-2:])
    _stems(figure.add_subplot(rows[2, 1]), *steps)
    return figure


def _write(ax: Axes, text: str, *, size: float, weight: str = "normal") -> None:
    ax.axis("off")
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=size, fontweight=weight, transform=ax.transAxes)


def _show(ax: Axes, image: Tensor) -> None:
    ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _exit_bar(ax: Axes, needed: int, costs: Sequence[float]) -> None:
    """One segment an exit, as long as what it adds to the cost; solid as far as it was needed."""
    start = 0.0
    for k, cost in enumerate(costs):
        ax.barh(0, cost - start, left=start, height=0.7, **(SPENT if k <= needed else SKIPPED))
        start = cost
    ax.set(xlim=(0, costs[-1]), ylim=(-0.5, 0.9), xticks=[], yticks=[])
    ax.set_xlabel(f"exit {needed + 1}: {100 * costs[needed] / costs[-1]:.0f} %", fontsize=_SMALL)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _mark_tiles(ax: Axes, tiles: Tensor, size: Sequence[int]) -> None:
    height, width = size[0] / tiles.shape[0], size[1] / tiles.shape[1]
    for row, column in np.ndindex(*tiles.shape):
        corner = (column * width - 0.5, row * height - 0.5)
        if tiles[row, column]:
            ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=1.4, zorder=3))
        else:
            ax.add_patch(Rectangle(corner, width, height, alpha=0.93, **SKIPPED))


def _stems(ax: Axes, values: Tensor, marked: Tensor) -> None:
    for step, (value, matters) in enumerate(zip(values.tolist(), marked.tolist(), strict=True), start=1):
        if matters:
            ax.bar(step, value, width=0.9, **{**SPENT, "edgecolor": INK, "linewidth": 1.2})
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            ax.text(step, 1.12, f"{value:.2f}", ha="center", fontsize=_SMALL, fontweight="bold", bbox=box)
            ax.plot([step, step], [value, 1.08], color=INK, linewidth=0.8, linestyle=":", marker="")
        else:
            ax.bar(step, value, width=0.7, **SKIPPED)
    total = values[marked].sum().item()
    ax.set(xlim=(0, len(values) + 1), ylim=(0, 1.3), yticks=[])
    ax.set_xlabel(f"step; the answer is the sum of the marked numbers, {total:.2f}", fontsize=_SMALL)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)


def shares_by_difficulty(difficulty: Tensor, group: Tensor, groups: int, *, bins: int = 5) -> np.ndarray:
    """Shares (bins, groups) of each group among the images of each bin of difficulty; a bin without images is all 0.

    difficulty: (N,) in [0, 1]; group: (N,) int64 in 0..groups-1.
    """
    place = (difficulty * bins).long().clamp(0, bins - 1).cpu().numpy()
    counts = np.zeros((bins, groups))
    np.add.at(counts, (place, group.cpu().numpy()), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def needed_by_difficulty(difficulty: Tensor, enough: Tensor, exits: int, *, bins: int = 5) -> Figure:
    """Stacked shares of images, easy to hard: at which exit it would have been enough to stop.

    difficulty: (N,) in [0, 1]; enough: (N,) int64, index of the exit, or `exits` where none is right; exits: at most 4.
    """
    shares = shares_by_difficulty(difficulty, enough, exits + 1, bins=bins)
    figure, ax = plt.subplots(figsize=(8.0, 3.6))
    bottom = np.zeros(bins)
    names = [*(f"exit {k + 1}" for k in range(exits)), "none"]
    for name, heights, style in zip(names, shares.T, (*_ENOUGH[:exits], _NONE), strict=True):
        ax.bar(range(bins), heights, bottom=bottom, width=0.8, label=name, **style)
        for place, height in enumerate(heights.tolist()):
            if height > 0.08:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9}
                middle = float(bottom[place]) + height / 2
                ax.text(place, middle, f"{100 * height:.0f} %", ha="center", va="center", fontsize=_SMALL, bbox=box)
        bottom = bottom + heights
    ax.set_xticks(range(bins), [f"{a / bins:g} to {b / bins:g}" for a, b in pairwise(range(bins + 1))])
    ax.set(xlabel="difficulty of the image", ylabel="share of the images", ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.grid(visible=False)
    ax.legend(title="enough was", loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure


def in_words(value: float) -> str:
    """A number with three digits and a unit letter.

    >>> in_words(462_422_016), in_words(0.5)
    ('462 M', '0.5')
    """
    size, letter = next(((size, letter) for size, letter in _UNITS if value >= size), _UNITS[-1])
    return f"{value / size:.3g} {letter}".strip()


def against(value: float, reference: float) -> str:
    """How a value compares with the reference, as a factor.

    >>> against(2.0, 8.0), against(8.0, 2.0), against(3.0, 3.0)
    ('4 times less', '4 times more', 'the same')
    """
    factor = max(value, reference) / min(value, reference)
    shown = f"{factor:.3g}" if factor < 1000 else f"{factor:,.0f}"
    if factor < 1.005:
        return "the same"
    return f"{shown} times {'less' if value < reference else 'more'}"


def two_ledgers(ledgers: Mapping[str, tuple[float, float]]) -> Figure:
    """Multiply-adds at the left, measured time at the right; the first entry is the one the others are held against.

    ledgers: name -> (multiply-adds, seconds), both positive. The pale hatched rest of a bar is what the entry saves
    against the first one.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 1.0 + 0.48 * len(ledgers)), sharey=True)
    names = list(ledgers)
    columns = list(zip(*ledgers.values(), strict=True))
    for ax, title, values in zip(axes, ("multiply-adds", "measured time"), columns, strict=True):
        for i, value in enumerate(values):
            rest = max(values[0] - value, 0)
            ax.barh(i, value, height=0.62, **SPENT)
            ax.barh(i, rest, left=value, height=0.62, **SKIPPED)
            shown = in_words(value) if ax is axes[0] else f"{1e3 * value:.3g} ms"
            compared = f", {against(value, values[0])}" if i else ""
            ax.text(value + rest, i, f" {shown}{compared}", va="center", fontsize=_SMALL)
        # Room for the words behind the longest bar.
        ax.set(xlim=(0, 2.0 * max(values)), xticks=[], ylim=(len(names) - 0.5, -0.5))
        ax.set_title(title, loc="left")
        ax.set_yticks(range(len(names)), names)
        ax.spines["bottom"].set_visible(False)
        ax.grid(visible=False)
    return figure
