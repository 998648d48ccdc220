"""The pictures of networks that run from coarse to fine: lanes, what an exit has cost, and who needed the fine one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Polygon
from scipy.stats import spearmanr
from torch import Tensor

from course_lib import decision
from course_lib.plots.style import BLUE, INK, ORANGE, SKIPPED, SPENT, VERMILION

if TYPE_CHECKING:
    from course_lib.spatial.ranet import RANet

__all__ = ["LaneBlock", "lane_blocks", "lanes", "lanes_dashboard", "size_and_noise"]

_MILLION = 1e6
_SMALL = 8.5  # points; the smallest type
_PITCH = 1.12  # distance of two blocks of a lane; the finest map is 1 high
_GAP = 0.52  # between two lanes: room for exits and arrows
_WIDE = 0.78  # of a block

_PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": BLUE, "linewidth": 1.4}
_FUSION: dict[str, Any] = {"facecolor": "#CFE3F2", "edgecolor": BLUE, "hatch": "|||", "linewidth": 1.4}
_HEADS: dict[str, Any] = {"facecolor": ORANGE, "edgecolor": "white", "hatch": "..", "linewidth": 0.6}
_STEM: dict[str, Any] = {"facecolor": INK, "edgecolor": "white", "linewidth": 0.6}
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


@dataclass(frozen=True)
class LaneBlock:
    """One block as it is drawn; lane, block and exit count from 0, coarsest lane first."""

    lane: int
    block: int
    side: int  #: of the map that enters, in pixels
    side_out: int
    channels: int  #: of its output
    fusion: bool
    exit_index: int | None  #: of the exit behind it


def lane_blocks(model: RANet, size: int) -> list[LaneBlock]:
    """Every block of the network in order of execution, for images of `size` pixels."""
    config = model.config
    ends = {model.blocks_before(k)[-1]: k for k in range(model.exits)}
    finest = size // 4 if config.large_stem else size
    found = []
    blocks = iter(model.blocks)
    for h, plans in enumerate(config.plan()):
        side = finest
        for _ in range(config.scales[-1] - config.scales[h]):
            side = (side + 1) // 2
        for b, plan in enumerate(plans):
            after = (side + 1) // 2 if plan.shrinks else side
            found.append(LaneBlock(h, b, side, after, next(blocks).channels, plan.fusion, ends.get((h, b))))
            side = after
    return found


def lanes(
    model: RANet, size: int, *, exit_index: int, picture: Tensor | None = None, costs: bool = True, width: float = 9.0
) -> Figure:
    """The network as lanes, coarsest on top, up to one exit; below, what an answer at each exit has cost.

    A block's height is its resolution. Striped blocks fuse the block above them; a slanted edge halves the resolution.
    Diamonds are exits. What exit `exit_index` (from 0) does not need is pale and hatched; the stem never is.

    Args:
        size: side of the input images in pixels.
        picture: (3, H, W) in [0, 1], drawn beside each lane at the lane's resolution.
        costs: whether the bars stand below.
        width: of the figure, in inches.

    Raises:
        ValueError: there is no such exit.
    """
    if not 0 <= exit_index < model.exits:
        raise ValueError(f"exit_index: got {exit_index}, expected 0 to {model.exits - 1}")
    blocks = lane_blocks(model, size)
    left, right, bottom = -1.3 - (1.15 if picture is not None else 0), _columns(blocks) * _PITCH - 0.1, _floor(blocks)
    heights = [width * (0.45 - bottom) / (right - left)] + [0.21 * model.exits + 0.75] * costs
    figure = plt.figure(figsize=(width, sum(heights)))
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    ax = figure.add_subplot(rows[0])
    _draw_lanes(ax, blocks, exit_index)
    if picture is not None:
        _draw_pictures(ax, blocks, picture)
    ax.set(xlim=(left, right), ylim=(bottom, 0.45), aspect="equal")
    if costs:
        _draw_costs(figure.add_subplot(rows[1]), model, size, exit_index)
    return figure


def _columns(blocks: Sequence[LaneBlock]) -> int:
    return max(block.block for block in blocks) + 1


def _ceilings(blocks: Sequence[LaneBlock]) -> list[tuple[float, float]]:
    """For each lane the upper edge and the height, the finest map being 1 high."""
    finest = max(block.side for block in blocks)
    sides = [block.side for block in blocks if block.block == 0]
    found, y = [], 0.0
    for side in sides:
        found.append((y, side / finest))
        y -= side / finest + _GAP
    return found


def _floor(blocks: Sequence[LaneBlock]) -> float:
    y, height = _ceilings(blocks)[-1]
    return y - height - 0.3


def _corners(blocks: Sequence[LaneBlock]) -> Iterator[tuple[LaneBlock, float, float, float, float]]:
    """Each block with its left edge, the middle of its lane, and its heights at the left and at the right."""
    finest = max(block.side for block in blocks)
    ceilings = _ceilings(blocks)
    for block in blocks:
        y, height = ceilings[block.lane]
        yield block, block.block * _PITCH, y - height / 2, block.side / finest, block.side_out / finest


def _draw_lanes(ax: Axes, blocks: Sequence[LaneBlock], exit_index: int) -> None:
    last = next(i for i, block in enumerate(blocks) if block.exit_index == exit_index)
    places = {(b.lane, b.block): (x, y, right) for b, x, y, _, right in _corners(blocks)}
    for i, (block, x, y, left, right) in enumerate(_corners(blocks)):
        ran = i <= last
        look = (_FUSION if block.fusion else _PLAIN) if ran else SKIPPED
        corners = [(x, y - left / 2), (x, y + left / 2), (x + _WIDE, y + right / 2), (x + _WIDE, y - right / 2)]
        ax.add_patch(Polygon(corners, zorder=3, **look))
        middle = x + _WIDE / 2
        ax.text(middle, y, str(block.channels), ha="center", va="center", fontsize=_SMALL, zorder=5, bbox=_PAPER)
        _arrow(ax, (x - (_PITCH - _WIDE) if block.block else -0.4, y), (x, y), ran)
        if block.fusion:
            above, at, height = places[block.lane - 1, block.block]
            start = (above + _WIDE * 0.7, at - height / 2)
            _arrow(ax, start, (x + _WIDE * 0.3, y + left / 2), ran, curve=-0.35)
        if block.exit_index is not None:
            _draw_exit(ax, x + _WIDE / 2, y + right / 2, block.exit_index, reached=block.exit_index <= exit_index)
    _draw_stem(ax, blocks)
    handed = Line2D([], [], color=VERMILION, marker=">", ls="-", lw=1.0, ms=4, label="1/4 of the channels")
    striped = Patch(**_FUSION, label="fuses the block above")
    handles = [Patch(**_PLAIN, label="dense block"), striped, handed, Patch(**SKIPPED, label="not run")]
    ax.legend(handles=handles, loc="upper right", fontsize=_SMALL, bbox_to_anchor=(1.0, 1.02))
    ax.axis("off")


def _draw_stem(ax: Axes, blocks: Sequence[LaneBlock]) -> None:
    ceilings = _ceilings(blocks)
    foot = ceilings[-1][0] - ceilings[-1][1]
    ax.add_patch(Polygon([(-0.7, foot), (-0.7, 0.1), (-0.4, 0.1), (-0.4, foot)], zorder=3, **_STEM))
    box: dict[str, Any] = {"ha": "center", "va": "center", "rotation": 90, "fontsize": 9, "zorder": 4}
    ax.text(-0.55, (foot + 0.1) / 2, "stem: for every image", color="white", **box)
    sides = [block.side for block in blocks if block.block == 0]
    for side, (y, height) in zip(sides, ceilings, strict=True):
        ax.text(-0.76, y - height / 2, f"{side}x{side}", ha="right", va="center", fontsize=_SMALL)


def _draw_exit(ax: Axes, x: float, y: float, k: int, *, reached: bool) -> None:
    face: dict[str, Any] = {"facecolor": ORANGE, "edgecolor": INK} if reached else SKIPPED
    ax.plot([x, x], [y, y + 0.12], color=INK if reached else "#C8C8C8", lw=0.9, ls="-", marker="")
    ax.scatter([x], [y + 0.23], s=150, marker="D", zorder=5, **face)
    box = None if reached else {**_PAPER, "pad": 0.2}
    ax.text(x, y + 0.222, str(k + 1), ha="center", va="center", fontsize=_SMALL, zorder=6, bbox=box)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], ran: bool, curve: float = 0.0) -> None:
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0, "lw": 1.0}
    colour = (VERMILION if curve else INK) if ran else "#C8C8C8"
    bend = f"arc3,rad={curve}"
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=bend, color=colour, zorder=4, **look))


def _draw_pictures(ax: Axes, blocks: Sequence[LaneBlock], picture: Tensor) -> None:
    for block in blocks:
        if block.block == 0:
            y, height = _ceilings(blocks)[block.lane]
            extent = (-1.3 - height, -1.3, y - height, y)
            ax.imshow(_at(picture, block.side), extent=extent, interpolation="nearest")


def _at(picture: Tensor, side: int) -> np.ndarray:
    """(3, H, W) -> (side, side, 3): the picture at a lower resolution."""
    small = F.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False, antialias=True)
    return small[0].permute(1, 2, 0).clamp(0, 1).numpy()


def _draw_costs(ax: Axes, model: RANet, size: int, exit_index: int) -> None:
    """For each exit a bar: stem, blocks, heads."""
    parts = model.cost_parts(size)
    for k in range(model.exits):
        start = 0.0
        for spent, look in zip(parts.spent(k), (_STEM, SPENT, _HEADS), strict=True):
            ax.barh(k, spent / _MILLION, left=start, height=0.72, **(look if k <= exit_index else SKIPPED))
            start += spent / _MILLION
        stem, blocks, heads = (100 * spent / _MILLION / start for spent in parts.spent(k))
        digits = 2 if size < 32 else 1
        note = f" {start:.{digits}f} M: stem {stem:.0f} %, blocks {blocks:.0f} %, heads {heads:.0f} %"
        ax.text(start, k, note, va="center", fontsize=_SMALL)
    ax.set_yticks(range(model.exits), [f"exit {k + 1}" for k in range(model.exits)])
    ax.invert_yaxis()
    ax.set(xlabel="multiply-adds of an answer there, M", xlim=(0, start * 1.5))
    ax.grid(visible=False)
    named = {"stem": _STEM, "blocks": SPENT, "heads": _HEADS}
    ax.legend(handles=[Patch(**look, label=name) for name, look in named.items()], loc="upper right", fontsize=_SMALL)


# One picture at a time -----------------------------------------------------------------------------------------------


def lanes_dashboard(
    model: RANet,
    images: Tensor,
    logits: Sequence[Tensor],
    thresholds: Tensor | Sequence[float],
    *,
    titles: Sequence[str],
) -> Figure:
    """For each image a row: the image at three resolutions, confidence at each exit, the lanes that ran, the cost.

    Args:
        images: (n, 3, H, W) in [0, 1]; titles: what to write over each of them.
        logits: K tensors (n, classes), of every exit for these images: nothing is computed by a network here.
        thresholds: (K,), the last is ignored.
    """
    confidence = torch.stack([decision.confidence(one) for one in logits], 1)
    taken = decision.choose_exit(confidence, thresholds).tolist()
    bars = [float(bar) for bar in thresholds]
    size, rows = images.shape[-1], len(images)
    costs = [cost / _MILLION for cost in model.exit_costs(size)]
    blocks = lane_blocks(model, size)
    # positions by hand: solving the layout anew would take longer than drawing
    figure = plt.figure(figsize=(9.4, 2.15 * rows + 0.1), layout="none")
    for row in range(rows):
        place = {"top": 1 - (row + 0.17) / rows, "bottom": 1 - (row + 0.8) / rows}
        spans = ((0.01, 0.29), (0.36, 0.55), (0.57, 0.8), (0.85, 0.985))
        areas = [figure.add_gridspec(1, 1, left=left, right=right, **place)[0] for left, right in spans]
        thumbs = areas[0].subgridspec(1, 3, wspace=0.08)
        for column, side in enumerate((size, size // 2, size // 4)):
            ax = figure.add_subplot(thumbs[column])
            ax.imshow(_at(images[row], side), interpolation="nearest")
            ax.set_xlabel(f"{side}x{side}", fontsize=_SMALL)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            if column == 1:
                ax.set_title(titles[row], fontsize=9)
        _dashboard_confidence(figure.add_subplot(areas[1]), confidence[row].tolist(), bars, taken[row])
        _dashboard_lanes(figure.add_subplot(areas[2]), blocks, taken[row])
        _dashboard_cost(figure.add_subplot(areas[3]), costs, taken[row])
    return figure


def _dashboard_confidence(ax: Axes, confidence: Sequence[float], thresholds: Sequence[float], taken: int) -> None:
    for k, value in enumerate(confidence):
        asked = k <= taken
        ax.barh(k, value if asked else 1, height=0.66, **(SPENT if asked else SKIPPED))
        if asked and k < len(confidence) - 1:
            ax.plot([thresholds[k]] * 2, [k - 0.42, k + 0.42], color=VERMILION, lw=2.2, ls="-", marker="")
    ax.set_yticks(range(len(confidence)), [f"exit {k + 1}" for k in range(len(confidence))], fontsize=_SMALL)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.02))
    ax.set_xlabel("confidence, bar to reach", fontsize=_SMALL)
    ax.tick_params(axis="x", labelsize=_SMALL)
    ax.grid(visible=False)
    ax.set_title(f"leaves at exit {taken + 1}", fontsize=9)


def _dashboard_lanes(ax: Axes, blocks: Sequence[LaneBlock], taken: int) -> None:
    last = next(i for i, block in enumerate(blocks) if block.exit_index == taken)
    for i, (block, x, y, left, right) in enumerate(_corners(blocks)):
        look = (_FUSION if block.fusion else _PLAIN) if i <= last else SKIPPED
        corners = [(x, y - left / 2), (x, y + left / 2), (x + _WIDE, y + right / 2), (x + _WIDE, y - right / 2)]
        ax.add_patch(Polygon(corners, **look))
        if block.exit_index == taken:
            ax.scatter([x + _WIDE / 2], [y], s=70, marker="D", color=ORANGE, edgecolor=INK, zorder=5)
    ceilings = _ceilings(blocks)
    foot = ceilings[-1][0] - ceilings[-1][1]
    ax.add_patch(Polygon([(-0.5, foot), (-0.5, 0.0), (-0.2, 0.0), (-0.2, foot)], **_STEM))
    ax.set(xlim=(-0.6, _columns(blocks) * _PITCH), ylim=(foot - 0.1, 0.1), aspect="equal")
    ax.set_title("lanes that ran", fontsize=9)
    ax.axis("off")


def _dashboard_cost(ax: Axes, costs: Sequence[float], taken: int) -> None:
    ax.bar(0, costs[taken], width=0.5, **SPENT)
    ax.bar(0, costs[-1] - costs[taken], bottom=costs[taken], width=0.5, **SKIPPED)
    ax.set(xlim=(-0.6, 0.6), xticks=[], ylim=(0, costs[-1] * 1.02))
    ax.tick_params(axis="y", labelsize=_SMALL)
    ax.grid(visible=False)
    ax.set_title(f"{costs[taken]:.2f} M of {costs[-1]:.2f} M", fontsize=9)


# Size or noise -------------------------------------------------------------------------------------------------------


def size_and_noise(radius: Tensor, noise: Tensor, exit_index: Tensor, exits: int) -> Figure:
    """Which of two things sends an image to a late exit: radius and noise by exit, and the mean exit over both.

    radius, noise: (N,), drawn independently of each other; exit_index: (N,) from 0.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), width_ratios=[1, 1, 1.25])
    for ax, name, values in ((axes[0], "radius, pixels", radius), (axes[1], "noise", noise)):
        groups = [values[exit_index == k].numpy() for k in range(exits)]
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": BLUE}
        ax.boxplot(groups, whis=(5, 95), showfliers=False, patch_artist=True, boxprops=look,
                   medianprops={"color": VERMILION, "lw": 2})  # fmt: skip
        ax.set(xlabel="exit taken", ylabel=name, ylim=(0, None))
        ax.set_title(f"rank correlation {spearmanr(values, exit_index).statistic:.2f}", fontsize=9)
    _mean_exit(axes[2], radius, noise, exit_index)
    return figure


def _mean_exit(ax: Axes, radius: Tensor, noise: Tensor, exit_index: Tensor, cells: int = 4) -> None:
    edges = [np.linspace(float(v.min()), float(v.max()), cells + 1) for v in (radius, noise)]
    where = [np.clip(np.digitize(v.numpy(), e[1:-1]), 0, cells - 1)
             for v, e in zip((radius, noise), edges, strict=True)]  # fmt: skip
    taken = exit_index.numpy() + 1
    for i in range(cells):
        for j in range(cells):
            chosen = taken[(where[0] == i) & (where[1] == j)]
            if len(chosen):
                mean = chosen.mean()
                shade = plt.get_cmap("cividis")((mean - 1) / max(taken.max() - 1, 1))
                ax.add_patch(plt.Rectangle((i, j), 1, 1, facecolor=shade, edgecolor="white"))
                ink = "white" if mean < (1 + taken.max()) / 2 else "black"
                ax.text(i + 0.5, j + 0.5, f"{mean:.1f}", ha="center", va="center", fontsize=9, color=ink)
    ticks = range(cells + 1)
    ax.set_xticks(ticks, [f"{edge:.1f}" for edge in edges[0]])
    ax.set_yticks(ticks, [f"{edge:.2f}" for edge in edges[1]])
    ax.set(xlim=(0, cells), ylim=(0, cells), xlabel="radius, pixels", ylabel="noise")
    ax.set_title("mean exit", fontsize=9)
    ax.grid(visible=False)
