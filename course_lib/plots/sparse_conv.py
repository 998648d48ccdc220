"""Pictures of sparse convolution: what is gathered, multiplied and scattered, and what a kernel reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from torch import Tensor

from course_lib.plots.style import BLUE, GREEN, INK, MARKERS, ORANGE, PALETTE, PURPLE, SKIPPED, SPENT

__all__ = ["cell_maps", "gather_product_scatter", "kernel_accesses", "mask_dashboard", "touched_positions"]

_SMALL = 8.5
#: Positions that are only read: dotted, beside the solid active ones and the hatched skipped ones.
_HALO: dict[str, Any] = {"facecolor": "#FBE0A8", "edgecolor": "#B87900", "hatch": "...", "linewidth": 0.6}
_PARTS: dict[str, dict[str, Any]] = {
    "index": {"facecolor": INK, "edgecolor": "white"},
    "gather": {"facecolor": ORANGE, "edgecolor": "white", "hatch": "//"},
    "product": {"facecolor": BLUE, "edgecolor": "white"},
    "scatter": {"facecolor": GREEN, "edgecolor": "white", "hatch": "\\\\"},
}


def touched_positions(mask: Tensor) -> Tensor:
    """What a 3x3 convolution with padding 1 reads for the active outputs.  (H, W) bool -> (H, W) bool."""
    near = torch.nn.functional.max_pool2d(mask[None, None].float(), 3, stride=1, padding=1)
    return near[0, 0] > 0


def gather_product_scatter(masks: Mapping[str, Tensor], seconds: Mapping[str, float] | None = None) -> Figure:
    """A masked 3x3 convolution as three steps, one row a mask; below, the measured time of the steps.

    Args:
        masks: title -> (H, W) bool, active outputs of a small map.
        seconds: time of "index", "gather", "product" and "scatter", of a larger convolution than the one drawn.
    """
    rows = len(masks)
    heights = [2.75] * rows + ([0.95] if seconds else [])
    figure, axes = plt.subplots(len(heights), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False)
    for ax, (title, mask) in zip(axes[:, 0], masks.items(), strict=False):
        _three_steps(ax, title, mask)
    if seconds:
        _time_bar(axes[-1, 0], seconds)
    handles = [
        Patch(**SPENT, label="active output"),
        Patch(**_HALO, label="only read: the halo"),
        Patch(**SKIPPED, label="neither"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _three_steps(ax: Axes, title: str, mask: Tensor) -> None:
    side, active, touched = len(mask), int(mask.sum()), touched_positions(mask)
    _map(ax, 0, 0, mask, touched)
    tall = 0.55 * active
    top = side / 2 + tall / 2
    _arrow(ax, side + 0.3, side + 2.7, side / 2, "gather")
    start = side + 3.0
    for row in range(active):
        for tap in range(9):
            look: dict[str, Any] = {"facecolor": "#CFE3F2", "edgecolor": BLUE, "linewidth": 0.7}
            ax.add_patch(Rectangle((start + 0.62 * tap, top - 0.55 * (row + 1)), 0.62, 0.55, **look))
    _under(ax, start + 2.8, top - tall, f"{active} x 9C")
    _sign(ax, start + 6.1, side / 2, "x")
    weights: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "hatch": "++", "linewidth": 0.8}
    ax.add_patch(Rectangle((start + 6.6, side / 2 - 2.4), 1.7, 4.8, **weights))
    _under(ax, start + 7.45, side / 2 - 2.4, "9C x C'")
    _sign(ax, start + 8.8, side / 2, "=")
    for row in range(active):
        ax.add_patch(Rectangle((start + 9.3, top - 0.55 * (row + 1)), 1.7, 0.55, **SPENT))
    _under(ax, start + 10.15, top - tall, f"{active} x C'")
    _arrow(ax, start + 11.3, start + 13.7, side / 2, "scatter")
    _map(ax, start + 14.0, 0, mask, torch.zeros_like(mask))
    counted = f"L = {mask.numel()}, A = {active}, touched {int(touched.sum())}"
    ax.set_title(f"{title}: {counted}", fontsize=10, loc="left")
    ax.set(xlim=(-0.3, start + 14.3 + side), ylim=(-0.9, side + 0.2), aspect="equal")
    ax.axis("off")


def _map(ax: Axes, x: float, y: float, mask: Tensor, touched: Tensor) -> None:
    """A map of positions, first row on top."""
    side = len(mask)
    for row in range(side):
        for column in range(mask.shape[1]):
            look = SPENT if mask[row, column] else _HALO if touched[row, column] else SKIPPED
            ax.add_patch(Rectangle((x + column, y + side - 1 - row), 1, 1, **look))


def _arrow(ax: Axes, start: float, end: float, y: float, text: str) -> None:
    ax.add_patch(FancyArrowPatch((start, y), (end, y), arrowstyle="-|>", mutation_scale=12, color=INK, lw=1.2))
    ax.text((start + end) / 2, y + 0.35, text, ha="center", fontsize=_SMALL)


def _under(ax: Axes, x: float, y: float, text: str) -> None:
    ax.text(x, y - 0.2, text, ha="center", va="top", fontsize=9)


def _sign(ax: Axes, x: float, y: float, text: str) -> None:
    ax.text(x, y, "×" if text == "x" else text, ha="center", va="center", fontsize=13)


def _time_bar(ax: Axes, seconds: Mapping[str, float]) -> None:
    start = 0.0
    for name, look in _PARTS.items():
        ax.barh(0, 1e3 * seconds[name], left=start, height=0.5, label=name, **look)
        start += 1e3 * seconds[name]
    ax.set(xlim=(0, start), ylim=(-0.4, 0.35), yticks=[], xlabel="measured time of such a convolution, ms")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.95), ncols=4, fontsize=_SMALL)
    ax.grid(visible=False)


def cell_maps(maps: Mapping[str, Tensor], mask: Tensor, *, note: Mapping[str, str] | None = None) -> Figure:
    """Values of several results on one small map side by side; active positions are outlined.

    Args:
        maps: title -> (H, W) numbers.
        mask: (H, W) bool.
        note: a line under each map.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(9, 2.9), squeeze=False)
    largest = max(float(values.abs().max()) for values in maps.values())
    for ax, (title, values) in zip(axes[0], maps.items(), strict=True):
        ax.imshow(values.numpy(), cmap="PuOr", vmin=-largest, vmax=largest)
        for row, column in mask.nonzero().tolist():
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.6))
        for row, column in (values == 0).nonzero().tolist():
            ax.text(column, row, "0", ha="center", va="center", fontsize=_SMALL, color="#808080")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel((note or {}).get(title, ""), fontsize=9)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    return figure


def kernel_accesses(mask: Tensor, reads: Tensor, *, tile: int) -> Figure:
    """Which input rows the programs of a kernel read: on the map, and tap by tap along the memory.

    Args:
        mask: (H, W) bool; its active positions in raster order are the kernel's rows.
        reads: (9, A) int64; for each tap and row the flat input position read, or -1 where none was.
        tile: rows of one program.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7), width_ratios=[1, 1.9])
    height, width = mask.shape
    _map(left, 0, 0, mask, touched_positions(mask))
    for number, (row, column) in enumerate(mask.nonzero().tolist()):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        at = (column + 0.5, height - 0.5 - row)
        left.text(*at, str(number), ha="center", va="center", fontsize=_SMALL, bbox=box)
    left.set(xlim=(-0.2, width + 0.2), ylim=(-0.2, height + 0.2), aspect="equal")
    left.set_title("rows of the list, numbered", fontsize=10)
    left.axis("off")
    rows = torch.arange(reads.shape[1])
    for program in range(-(-reads.shape[1] // tile)):
        mine = rows // tile == program
        taps, found = torch.arange(9)[:, None].expand(-1, int(mine.sum())), reads[:, mine]
        inside = found >= 0
        look: dict[str, Any] = {"color": PALETTE[program % 7], "marker": MARKERS[program % 7], "ls": ""}
        right.plot(found[inside], taps[inside], label=f"program {program}", ms=6, **look)
        outside = np.full(int((~inside).sum()), -3.0) - 0.9 * program
        right.plot(outside, taps[~inside], fillstyle="none", ms=6, **look)
    right.axvspan(-6, -1.5, color="#EDEDED")
    right.text(-3.7, -0.85, "outside", ha="center", va="bottom", fontsize=_SMALL)
    for start in range(0, height * width + 1, width):
        right.axvline(start - 0.5, color="#D8D8D8", lw=0.7, ls="-", marker="")
    names = [f"({i}, {j})" for i in (-1, 0, 1) for j in (-1, 0, 1)]
    right.set_yticks(range(9), names)
    right.invert_yaxis()
    right.set(xlim=(-6, height * width), ylim=(9.2, -0.7), ylabel="tap (row, column)")
    right.set_xlabel("position read, in the order of the memory; lines between rows of the map")
    right.grid(visible=False)
    right.legend(loc="lower center", bbox_to_anchor=(0.55, 1.0), ncols=4)
    return figure


def mask_dashboard(settings: Sequence[Mapping[str, Any]]) -> Figure:
    """One row a setting: the mask with its halo, the two shares, and the block's multiply-adds and times.

    Args:
        settings: each with `title`; `mask` (H, W) bool; `shares` d and d_D; `macs` and `dense_macs`; `seconds`,
            names to times, None where nothing was measured.
    """
    rows = len(settings)
    longest = max((t for one in settings for t in (one["seconds"] or {}).values()), default=1.0)
    figure = plt.figure(figsize=(9, 2.25 * rows + 0.1), layout="none")  # by hand: a solved layout is slow to redraw
    for k, setting in enumerate(settings):
        top, bottom = 1 - (k + 0.17) / rows, 1 - (k + 0.8) / rows
        places = ((0.01, 0.2), (0.29, 0.47), (0.56, 0.72), (0.83, 0.985))
        areas = [figure.add_axes((x, bottom, end - x, top - bottom)) for x, end in places]
        mask = setting["mask"]
        shown = touched_positions(mask).float() + mask.float()
        colours = ListedColormap([SKIPPED["facecolor"], _HALO["facecolor"], BLUE])
        areas[0].imshow(shown.numpy(), cmap=colours, vmin=0, vmax=2)
        if 0 < mask.sum() < mask.numel():
            areas[0].contour(mask.numpy(), levels=[0.5], colors=INK, linewidths=0.5)
        areas[0].set(xticks=[], yticks=[])
        areas[0].set_title(setting["title"], fontsize=9)
        _shares(areas[1], *setting["shares"])
        _dashboard_macs(areas[2], setting["macs"], setting["dense_macs"])
        _dashboard_times(areas[3], setting["seconds"], longest)
        for ax in areas:
            ax.grid(visible=False)
            ax.tick_params(labelsize=_SMALL)
    return figure


def _shares(ax: Axes, active: float, touched: float) -> None:
    for place, (share, look) in enumerate(((active, SPENT), (touched, _HALO))):
        ax.barh(place, 1, height=0.6, **SKIPPED)
        ax.barh(place, share, height=0.6, **look)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        ax.text(0.97, place, f"{share:.2f}", ha="right", va="center", fontsize=_SMALL, bbox=box)
    ax.set_yticks([0, 1], ["active", "touched"], fontsize=_SMALL)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1))
    ax.set_title("share of positions", fontsize=9)


def _dashboard_macs(ax: Axes, macs: float, dense: float) -> None:
    ax.bar(0, dense / 1e6, width=0.5, **SKIPPED)
    ax.bar(0, macs / 1e6, width=0.5, **SPENT)
    ax.set(xlim=(-0.6, 0.6), xticks=[], ylim=(0, 1.03 * dense / 1e6))
    ax.set_title(f"M multiply-adds: {macs / dense:.2f} of dense", fontsize=9)


def _dashboard_times(ax: Axes, seconds: Mapping[str, float] | None, longest: float) -> None:
    ax.set_title("measured, ms", fontsize=9)
    if seconds is None:
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", fontsize=9, transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    looks = (SKIPPED | {"facecolor": "white"}, SPENT, {"facecolor": PURPLE, "edgecolor": "white", "hatch": ".."})
    for place, (look, value) in enumerate(zip(looks, seconds.values(), strict=False)):
        ax.barh(place, 1e3 * value, height=0.6, **look)
        ax.text(1e3 * value, place, f" {1e3 * value:.2f}", va="center", fontsize=_SMALL)
    ax.set_yticks(range(len(seconds)), list(seconds), fontsize=_SMALL)
    ax.set(xlim=(0, 1.4e3 * longest))
    ax.invert_yaxis()
