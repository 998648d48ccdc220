"""Figures of networks that choose patches: what a masker decides, what it costs, and how it comes to that.

Every function returns a `Figure`. Work that was skipped is pale and hatched; the halo is hatched and not pale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.style import INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, SPENT

if TYPE_CHECKING:
    from course_lib.spatial.lasnet import BlockMacs

__all__ = ["block_rates", "mask_gallery", "masked_block", "patch_decision"]

_SMALL = 8.5  # points; the smallest type in these figures
_HALO: dict[str, Any] = {"facecolor": "#F6D9A8", "edgecolor": ORANGE, "hatch": "....", "linewidth": 0.6}


# Deciding ------------------------------------------------------------------------------------------------------------


def patch_decision(image: Tensor, logits: Tensor, halo: Tensor, granularity: int) -> Figure:
    """What one masker does for one image, from left to right: logits, hard mask, every position, the halo.

    Args:
        image: (1, H, W) in [0, 1].
        logits: (rows, columns) of "compute" minus "skip", one a cell; 0 counts as compute.
        halo: (rows * S, columns * S) bool, the positions that the first convolution must compute.
        granularity: S.
    """
    rows, columns = logits.shape
    active = logits >= 0
    whole = active.repeat_interleave(granularity, 0).repeat_interleave(granularity, 1)
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.75))
    axes[0].imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0))
    _grid(axes[0], rows, columns, "white")
    for r in range(rows):
        for c in range(columns):
            value, box = float(logits[r, c]), {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
            axes[0].text(c + 0.5, r + 0.5, f"{value:+.2f}", ha="center", va="center", fontsize=_SMALL, bbox=box)
            _square(axes[1], r, c, SPENT if active[r, c] else SKIPPED)
            ink = "white" if active[r, c] else INK
            axes[1].text(c + 0.5, r + 0.5, str(int(active[r, c])), ha="center", va="center", color=ink, fontsize=10)
    for r in range(whole.shape[0]):
        for c in range(whole.shape[1]):
            thin = {"linewidth": 0.3}
            _square(axes[2], r, c, {**(SPENT if whole[r, c] else SKIPPED), **thin})
            look = SPENT if whole[r, c] else _HALO if halo[r, c] else SKIPPED
            _square(axes[3], r, c, {**look, **thin})
    titles = (
        "1. a logit a cell",
        f"2. mask: {int(active.sum())} of {rows * columns} cells",
        f"3. conv 2 and 3: {int(whole.sum())} positions",
        f"4. conv 1, with halo: {int(halo.sum())}",
    )
    extents = [(rows, columns)] * 2 + [tuple(whole.shape)] * 2
    for ax, title, (height, width) in zip(axes, titles, extents, strict=True):
        ax.set_title(title, fontsize=9.5)
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def _square(ax: Axes, row: int, column: int, look: Mapping[str, Any]) -> None:
    ax.add_patch(Rectangle((column, row), 1, 1, **look))


def _grid(ax: Axes, rows: int, columns: int, color: str) -> None:
    for r in range(1, rows):
        ax.axhline(r, color=color, lw=0.8)
    for c in range(1, columns):
        ax.axvline(c, color=color, lw=0.8)


def masked_block(bill: BlockMacs, width_share: float, rate: float, dilated_rate: float) -> Figure:
    """A block as it is run: three convolutions filled to the share that is computed, the mask, the shortcut.

    Args:
        bill: multiply-adds of the block.
        width_share: how much of `bill.conv2_conv3` the second convolution takes.
        rate, dilated_rate: shares of active positions, and of those with their halo.
    """
    second = width_share * bill.conv2_conv3
    convs = (
        ("conv 1\n1x1", bill.conv1, dilated_rate, "$a_D$"),
        ("conv 2\n3x3", second, rate, "$a$"),
        ("conv 3\n1x1", bill.conv2_conv3 - second, rate, "$a$"),
    )
    figure, ax = plt.subplots(figsize=(8.5, 2.9))
    total, x = sum(macs for _, macs, _, _ in convs), 1.2
    unit, scale = ("M", 1e6) if total > 1e7 else ("thousand", 1e3)
    places = []
    for label, macs, share, symbol in convs:
        wide = 0.7 + 4.0 * macs / total
        ax.add_patch(Rectangle((x, 0), wide, 1, **SKIPPED))
        ax.add_patch(Rectangle((x, 0), wide, share, **SPENT))
        ax.text(x + wide / 2, 1.08, label, ha="center", va="bottom", fontsize=9)
        ax.text(x + wide / 2, -0.09, f"{symbol} = {share:.2f}", ha="center", va="top", fontsize=9)
        text = f"{share * macs / scale:.1f} of {macs / scale:.1f} {unit}"
        ax.text(x + wide / 2, -0.27, text, ha="center", va="top", fontsize=_SMALL)
        places.append((x, x + wide))
        x += wide + 0.55
    times, plus, end = x + 0.05, x + 0.95, x + 2.1
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    stops = [0.35, *[side for place in places for side in place], times - 0.2, times + 0.2, plus - 0.2, plus + 0.2, end]
    for left, right in zip(stops[::2], stops[1::2], strict=True):
        ax.annotate("", (right, 0.5), (left, 0.5), arrowprops=arrow)
    for at, sign in ((times, "×"), (plus, "+")):
        ax.text(at, 0.485, sign, ha="center", va="center", fontsize=14, zorder=6)
        ax.scatter([at], [0.5], s=330, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=5)
    ax.text(0.2, 0.5, "x", ha="center", va="center", fontsize=12, style="italic")
    ax.text(end + 0.08, 0.5, "ReLU", ha="left", va="center", fontsize=9)
    _elbow(ax, 0.35, 1.75, times, "masker: mask M", above=True)
    _elbow(ax, 0.35, -0.75, plus, "shortcut, always dense", above=False)
    ax.set(xlim=(0, end + 0.9), ylim=(-1.0, 2.0))
    ax.axis("off")
    return figure


def _elbow(ax: Axes, start: float, height: float, end: float, text: str, *, above: bool) -> None:
    """A line from x, along `height`, into the sign at `end`."""
    ax.plot([start, start, end], [0.5, height, height], color=INK, lw=1.1, ls="-", marker="")
    edge = 0.7 if above else 0.3
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (end, edge), (end, height), arrowprops=arrow)
    ax.text(start + 0.15, height + 0.05, text, ha="left", va="bottom", fontsize=9)


def mask_gallery(images: Tensor, masks: Mapping[str, Tensor], *, labels: Sequence[str] = ()) -> Figure:
    """Images with the cells each block skips pale and hatched, one row a block.

    Args:
        images: (n, 1, H, W) in [0, 1].
        masks: name of a block -> (n, rows, columns) of 0 and 1.
        labels: a title for each image.
    """
    number = len(images)
    figure, axes = plt.subplots(
        len(masks), number, squeeze=False, figsize=(1.12 * number + 0.6, 1.2 * len(masks) + 0.2)
    )
    for row, (name, chosen) in zip(axes, masks.items(), strict=True):
        for i, ax in enumerate(row):
            height, width = chosen.shape[1:]
            ax.imshow(images[i, 0].numpy(), cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
            for r in range(height):
                for c in range(width):
                    if not chosen[i, r, c]:
                        _square(ax, r, c, {**SKIPPED, "alpha": 0.8})
            ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
            ax.grid(visible=False)
            for spine in ax.spines.values():
                spine.set_visible(False)
        row[0].set_ylabel(f"{name}\n{float(chosen.float().mean()):.0%} on", fontsize=_SMALL + 0.5)
    for ax, label in zip(axes[0], labels, strict=False):
        ax.set_title(label, fontsize=_SMALL + 0.5)
    return figure


def block_rates(runs: Mapping[str, tuple[Tensor, float]], limits: Sequence[tuple[float, float]] = ()) -> Figure:
    """How each block's share of its multiply-adds moves while training, one panel a run.

    Args:
        runs: name -> (shares (steps, L), target); the target is dashed.
        limits: (upper, lower) bound at every step of the first run; what they forbid is hatched.
    """
    figure, axes = plt.subplots(1, len(runs), squeeze=False, sharey=True, figsize=(4.3 * len(runs) + 0.2, 3.1))
    for i, (ax, (name, (rates, target))) in enumerate(zip(axes[0], runs.items(), strict=True)):
        steps = np.arange(len(rates))
        if limits and not i:
            upper, lower = np.array(limits).T
            ax.fill_between(steps, upper, 1.03, **{**SKIPPED, "linewidth": 0})
            ax.fill_between(steps, lower, -0.03, **{**SKIPPED, "linewidth": 0})
        for k, series in enumerate(rates.T.numpy()):
            smooth = np.convolve(np.pad(series, 4, mode="edge"), np.ones(9) / 9, "valid")
            mark: dict[str, Any] = {"marker": MARKERS[k], "markevery": max(1, len(rates) // 8), "ms": 5}
            ax.plot(steps, smooth, color=PALETTE[k], ls=LINES[k], label=f"block {k + 1}", **mark)
        ax.axhline(target, color=INK, lw=1, ls=(0, (4, 3)), marker="")
        ax.text(len(rates), target - 0.02, "target", ha="right", va="top", fontsize=_SMALL)
        ax.set(title=name, xlabel="step", ylim=(-0.03, 1.03))
        ax.legend(loc=(0.62, 0.13) if rates.shape[1] > 2 else "upper right")
    axes[0][0].set_ylabel("share of the block's\nmultiply-adds")
    return figure
