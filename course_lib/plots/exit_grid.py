"""The picture of a multi-scale network with exits: its grid of feature maps above a ruler of cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.style import INK, ORANGE, SKIPPED, SPENT

if TYPE_CHECKING:
    from course_lib.instance.msdnet import MSDNet

__all__ = ["GridNode", "exit_grid", "grid_nodes"]

_MILLION = 1e6
_SMALL = 8.5  # points; the smallest type
_ROW = 1.05  # distance of two scales, in units of the distance of two layers


@dataclass(frozen=True)
class GridNode:
    """One feature map of a multi-scale network: layer from 0, scale from 0 (finest), side in pixels, channels there."""

    layer: int
    scale: int
    side: int
    channels: int
    needed: bool  #: for the exit that was asked about


def grid_nodes(model: MSDNet, size: int, exit_index: int) -> list[GridNode]:
    """Every node of the grid for images of `size` pixels, and whether an answer at exit `exit_index` depends on it.

    Raises:
        ValueError: there is no such exit (they count from 0 here).
    """
    if not 0 <= exit_index < model.exits:
        raise ValueError(f"exit_index: got {exit_index}, expected 0 to {model.exits - 1}")
    config = model.config
    needed = {node for k in range(exit_index + 1) for node in model.nodes(k)}
    side = size // 4 if config.large_stem else size
    nodes = [GridNode(0, s, side >> s, config.channels * f, True) for s, f in enumerate(config.factors)]
    for number, layer in enumerate(model.layers, start=1):
        for s in range(layer.first, config.scales):
            nodes.append(GridNode(number, s, side >> s, layer.channels * config.factors[s], (number, s) in needed))
    return nodes


def exit_grid(
    model: MSDNet, size: int, *, exit_index: int, pictures: Sequence[tuple[Tensor, int]] = (), width: float = 9.0
) -> Figure:
    """The network as a grid of feature maps, with what an answer at one exit needs, above a ruler of its cost.

    Layers run from left to right, scales from fine (top) to coarse; a square's side is the map's resolution, its number
    the channels. Diamonds are exits. What exit `exit_index` (from 0) does not depend on is pale and hatched.

    Args:
        size: side of the input images in pixels.
        pictures: up to three images (3, H, W) in [0, 1], with the exit each took, drawn at the left.
        width: of the figure, in inches.
    """
    nodes = grid_nodes(model, size, exit_index)
    layers, scales = sum(model.config.blocks), model.config.scales
    left = 1.1 if pictures else 0.0
    unit = (width - left) / (layers + 2.2)
    tall = unit * (scales * _ROW + 1.0)
    figure = plt.figure(figsize=(width, tall + 1.0))
    columns = figure.add_gridspec(1, 2, width_ratios=[left, width - left]) if pictures else None
    area = figure.add_gridspec(1, 1)[0] if columns is None else columns[1]
    rows = area.subgridspec(2, 1, height_ratios=[tall, 1.0])
    grid, ruler = figure.add_subplot(rows[0]), figure.add_subplot(rows[1])
    drawn = {(node.layer, node.scale): _Square(node, node.side / nodes[0].side * 0.8, unit) for node in nodes}
    _draw_arrows(grid, drawn)
    for square in drawn.values():
        _draw_square(grid, square)
    _draw_exits(grid, model, exit_index, drawn)
    grid.set(xlim=(-1.6, layers + 0.6), ylim=(-scales * _ROW - 0.45, 0.55), aspect="equal")
    grid.axis("off")
    _draw_ruler(ruler, [cost / _MILLION for cost in model.exit_costs(size, convention="lazy")], exit_index)
    if columns is not None:
        _draw_pictures(figure, columns[0], pictures)
    return figure


@dataclass(frozen=True)
class _Square:
    """A node as it is drawn: its side in units of the grid, one of which is `unit` inches."""

    node: GridNode
    side: float
    unit: float

    @property
    def centre(self) -> tuple[float, float]:
        return float(self.node.layer), -_ROW * self.node.scale

    @property
    def labelled_inside(self) -> bool:
        return self.side * self.unit > 0.28  # inches: room for three digits

    @property
    def foot(self) -> tuple[float, float]:
        """Where an arrow straight down starts: below the square, and below its label if that stands there."""
        x, y = self.centre
        return x, y - self.side / 2 - (0.0 if self.labelled_inside else 0.3)


def _draw_square(ax: Axes, square: _Square) -> None:
    node, side, (x, y) = square.node, square.side, square.centre
    look = SPENT if node.needed else SKIPPED
    ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, zorder=3, **look))
    light = square.labelled_inside and node.needed
    at = (x, y) if square.labelled_inside else (x, y - side / 2 - 0.17)
    box = None if light else {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    ink = "white" if light else INK
    ax.text(*at, str(node.channels), ha="center", va="center", color=ink, fontsize=_SMALL, zorder=4, bbox=box)
    if node.layer == 0:
        ax.text(-0.55, y, f"{node.side}x{node.side}", ha="right", va="center", fontsize=_SMALL)


def _draw_arrows(ax: Axes, squares: Mapping[tuple[int, int], _Square]) -> None:
    """Along a scale, and down to the next coarser one; never up."""
    for (layer, scale), square in squares.items():
        ends = [(layer + 1, scale), (layer + 1, scale + 1)] + ([(0, scale + 1)] if layer == 0 else [])
        for end in ends:
            if end in squares:
                _connect(ax, square, squares[end])


def _connect(ax: Axes, square: _Square, other: _Square) -> None:
    """An arrow from one square's rim to the other's."""
    (x, y), (to_x, to_y) = square.centre, other.centre
    if to_x == x:
        start, end = square.foot, (to_x, to_y + other.side / 2)
    elif to_y == y:
        start, end = (x + square.side / 2, y), (to_x - other.side / 2, to_y)
    else:
        start, end = (x + square.side / 2, y - square.side / 2), (to_x - other.side / 2, to_y + other.side / 2)
    _arrow(ax, start, end, needed=other.node.needed)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], *, needed: bool) -> None:
    look: dict[str, Any] = {"arrowstyle": "-|>,head_width=0.22,head_length=0.35", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops={**look, "color": INK if needed else "#C8C8C8"})


def _draw_exits(ax: Axes, model: MSDNet, exit_index: int, squares: Mapping[tuple[int, int], _Square]) -> None:
    coarsest = model.config.scales - 1
    y = -_ROW * coarsest - 0.95
    for k, layer in enumerate(np.cumsum(model.config.blocks).tolist()):
        reached = k <= exit_index
        _arrow(ax, squares[layer, coarsest].foot, (float(layer), y + 0.25), needed=reached)
        face = {"facecolor": ORANGE, "edgecolor": INK} if reached else SKIPPED
        ax.scatter([layer], [y], s=190, marker="D", zorder=5, **face)
        box = None if reached else {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        ax.text(layer, y - 0.01, str(k + 1), ha="center", va="center", fontsize=9, zorder=6, bbox=box)
    ax.text(-0.55, y, "exits", ha="right", va="center", fontsize=9)


def _draw_ruler(ax: Axes, costs: Sequence[float], exit_index: int) -> None:
    """Cumulative cost as a length: what is spent by the exit, and pale what is not."""
    start = 0.0
    for k, cost in enumerate(costs):
        ax.barh(0, cost - start, left=start, height=0.5, **(SPENT if k <= exit_index else SKIPPED))
        colour = ORANGE if k <= exit_index else "white"
        ax.scatter([cost], [0], marker="D", s=42, zorder=4, color=colour, edgecolor=INK)
        ax.text(cost, 0.42, f"{cost:.{2 if costs[-1] < 10 else 1}f} M", ha="center", va="bottom", fontsize=_SMALL)
        start = cost
    ax.set(xlim=(0, costs[-1] * 1.04), ylim=(-0.35, 1.0), yticks=[])
    ax.set_xlabel("cumulative multiply-adds of an image, M")
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)


def _draw_pictures(figure: Figure, area: Any, pictures: Sequence[tuple[Tensor, int]]) -> None:
    rows = area.subgridspec(len(pictures), 1)
    for row, (image, taken) in enumerate(pictures):
        ax = figure.add_subplot(rows[row])
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.set_title(f"left at exit {taken + 1}", fontsize=_SMALL, pad=2)
        ax.axis("off")
