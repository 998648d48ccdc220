"""Figures of networks that look at windows: coverage, rewards, costs, the pull of a gradient, recorded runs.

Every function returns a `Figure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.adafocus import PAPER, SMALL, show_picture
from course_lib.plots.style import INK, LINES, MARKERS, ORANGE, PALETTE, SPENT, VERMILION

if TYPE_CHECKING:
    from course_lib.temporal.adafocus import FrameMacs

__all__ = [
    "cost_boxes",
    "coverage_over_time",
    "grouped_shares",
    "pull_field",
    "recorded_focus",
    "stage_curves",
    "work_order",
]

# Curves --------------------------------------------------------------------------------------------------------------


def coverage_over_time(curves: Mapping[str, Tensor]) -> Figure:
    """Share of the windows that hold the whole object, frame by frame; name -> (T,) in [0, 1]."""
    figure, ax = plt.subplots(figsize=(7.2, 3.0))
    for i, (name, share) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i]}
        ax.plot(np.arange(1, len(share) + 1), 100 * share.numpy(), label=name, **look)
    ax.set(xlabel="frame", ylabel="windows that hold\nthe whole digit, %", ylim=(0, None))
    ax.legend(loc="center right")
    return figure


def stage_curves(panels: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """What happens over the epochs of a training, one panel each.

    Args:
        panels: title -> (label of the vertical axis, name -> one number an epoch).
    """
    figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=(4.2 * len(panels) + 0.3, 2.9))
    for ax, (title, (label, curves)) in zip(axes[0], panels.items(), strict=True):
        for i, (name, values) in enumerate(curves.items()):
            look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i]}
            ax.plot(np.arange(1, len(values) + 1), values, label=name, **look)
        ax.set(title=title, xlabel="epoch", ylabel=label)
        if len(curves) > 1:
            ax.legend()
    return figure


def grouped_shares(groups: Mapping[str, Mapping[str, float]], *, ylabel: str, chance: float | None = None) -> Figure:
    """Bars in groups: group -> name -> share in [0, 1]; a line marks `chance`, the share that guessing gets right."""
    names = list(next(iter(groups.values())))
    figure, ax = plt.subplots(figsize=(8.6, 3.1))
    wide = 0.8 / len(names)
    for i, name in enumerate(names):
        at = np.arange(len(groups)) + wide * (i - (len(names) - 1) / 2)
        values = [100 * group[name] for group in groups.values()]
        hatch = ("", "...", "xx", "\\\\")[i % 4]
        ax.bar(at, values, 0.92 * wide, color=PALETTE[i], edgecolor="white", hatch=hatch, label=name)
        for x, value in zip(at, values, strict=True):
            ax.text(x, value + 1, f"{value:.0f}", ha="center", va="bottom", fontsize=SMALL)
    if chance is not None:
        ax.axhline(100 * chance, color=INK, ls=":", marker="", lw=1, label="right by guessing")
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set(ylabel=ylabel, ylim=(0, 109))
    ax.grid(visible=False, axis="x")
    handles, said = ax.get_legend_handles_labels()
    figure.legend(handles, said, loc="outside upper center", ncols=len(said))
    return figure


# Costs ---------------------------------------------------------------------------------------------------------------


def cost_boxes(rows: Mapping[str, Sequence[tuple[str, float, bool]]], *, unit: str) -> Figure:
    """Work as boxes from left to right, as wide as it is expensive.

    Args:
        rows: name -> (what, cost, sequential) in the order of execution; what runs frame by frame is dashed.
        unit: of the costs.
    """
    figure, ax = plt.subplots(figsize=(8.8, 0.95 * len(rows) + 0.75))
    widest = max(sum(cost for _, cost, _ in boxes) for boxes in rows.values())
    for y, boxes in enumerate(rows.values()):
        x, last_word = 0.0, -1.0
        heaviest = max(cost for _, cost, _ in boxes)
        for what, cost, sequential in boxes:
            look: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "ls": "--", "linewidth": 1.1}
            look = (
                look if sequential else {**SPENT, "facecolor": PALETTE[2 if cost == heaviest else 5], "edgecolor": INK}
            )
            ax.add_patch(Rectangle((x, y - 0.26), cost, 0.52, **look))
            inside = cost > 0.16 * widest
            if inside:
                words = f"{what}: {cost:.1f}"
                ax.text(x + cost / 2, y, words, ha="center", va="center", fontsize=9, bbox=PAPER)
            else:
                place = max(x + cost / 2, last_word + 0.105 * widest)
                ax.annotate(
                    f"{what}\n{cost:.2f}",
                    (x + cost / 2, y + 0.27),
                    (place, y + 0.47),
                    ha="center",
                    va="top",
                    fontsize=SMALL,
                    arrowprops={"arrowstyle": "-", "lw": 0.6, "color": INK},
                )
                last_word = place
            x += cost
        ax.text(x + 0.01 * widest, y, f"{x:.1f}", va="center", fontsize=9.5, fontweight="bold")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-0.01 * widest, 1.1 * widest), ylim=(len(rows) - 0.2, -0.45), xlabel=unit)
    ax.grid(visible=False, axis="y")
    return figure


def work_order(parts: FrameMacs, frames: int) -> Figure:
    """The same work in two orders, boxes as wide as their multiply-adds: frame by frame, and part by part.

    What carries a memory from frame to frame is white and dashed; what can be one batch is one box.
    """
    looks: dict[str, dict[str, Any]] = {
        "glance": {"facecolor": PALETTE[5], "edgecolor": INK, "linewidth": 0.8},
        "policy": {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8, "ls": "--"},
        "focus": {"facecolor": PALETTE[2], "edgecolor": INK, "linewidth": 0.8},
        "classifier": {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8, "ls": "--", "hatch": "...."},
    }
    costs = vars(parts)
    online = [(name, costs[name]) for _ in range(frames) for name in looks]
    offline = [
        step
        for name in looks
        for step in (
            [(name, costs[name])] * frames if name in ("policy", "classifier") else [(name, frames * costs[name])]
        )
    ]
    total = frames * sum(costs.values())
    figure, ax = plt.subplots(figsize=(8.8, 2.1))
    for y, row in enumerate((online, offline)):
        x = 0.0
        for name, cost in row:
            ax.add_patch(Rectangle((x / total, y - 0.3), cost / total, 0.6, **looks[name]))
            if cost > 0.4 * total:
                words = f"{frames} windows, one batch"
                ax.text((x + cost / 2) / total, y, words, ha="center", va="center", fontsize=9.5, bbox=PAPER)
            x += cost
    ax.set(xlim=(-0.005, 1.005), ylim=(1.45, -0.45), xticks=[], xlabel="multiply-adds, in the order of execution")
    ax.set_yticks([0, 1], ["online", "offline"])
    ax.grid(visible=False)
    handles = [Rectangle((0, 0), 1, 1, **look) for look in looks.values()]
    figure.legend(handles, ["glance", "policy", "window", "classifier"], loc="outside upper center", ncols=4)
    return figure


# The soft crop -------------------------------------------------------------------------------------------------------


def pull_field(
    image: Tensor, at: Tensor, pull: Tensor, loss: Tensor, box: Tensor, far: Tensor, towards: Tensor, *, patch: int
) -> Figure:
    """Where the gradient would move a window, from many places in one picture; and how well it aims in many pictures.

    Args:
        image: (3, H, W) in [0, 1], an example.
        at: (K, 2), upper left corners of K windows on a square grid, in pixels; pull: (K, 2), minus the gradient there.
        loss: (K,), of these windows.
        box: (3,), upper left corner and side of the object in the example.
        far, towards: (M,), of many windows in many pictures: distance of the middles along the farther axis in pixels,
            and the part of the pull that points at the object.
        patch: side of the windows.
    """
    top, left, side = box.tolist()
    middle, goal = at.numpy() + patch / 2 - 0.5, np.array([top, left]) + side / 2 - 0.5
    touching = np.abs(middle - goal).max(1) < (patch + side) / 2
    length = np.linalg.norm(pull.numpy(), axis=1)
    shown = pull.numpy() * (np.minimum(length / np.quantile(length, 0.9), 1.0) / np.maximum(length, 1e-12))[:, None]
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.0), width_ratios=[1, 1, 1.15])
    show_picture(axes[0], image.permute(1, 2, 0).numpy() * 0.6 + 0.4)
    colors = np.where(touching, PALETTE[0], VERMILION)
    where = (middle[:, 1], middle[:, 0], shown[:, 1], shown[:, 0])
    axes[0].quiver(*where, angles="xy", scale_units="xy", scale=0.3, color=colors, width=0.011)
    axes[0].add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=ORANGE, linewidth=1.8))
    axes[0].set(title="one picture: the pull", xticks=[], yticks=[])
    grid = round(len(at) ** 0.5)
    picture = axes[1].imshow(loss.view(grid, grid).numpy(), interpolation="nearest")
    axes[1].set(title="its loss, by place of the window", xticks=[], yticks=[])
    figure.colorbar(picture, ax=axes[1], shrink=0.8)
    for ax in axes[:2]:
        ax.grid(visible=False)
    edges = np.arange(0, float(far.max()) + 3, 3)
    bins = [towards[(far >= low) & (far < low + 3)].numpy() for low in edges[:-1]]
    filled = [(low + 1.5, part) for low, part in zip(edges[:-1], bins, strict=True) if len(part) > 5]
    error = [2 * part.std() / len(part) ** 0.5 for _, part in filled]
    axes[2].axvspan(0, (patch + side) / 2, facecolor=PALETTE[0], alpha=0.12, label="they touch")
    axes[2].legend(loc="upper right", fontsize=SMALL)
    places, means = [x for x, _ in filled], [part.mean() for _, part in filled]
    axes[2].errorbar(places, means, error, color=PALETTE[0], marker="o", markersize=4, lw=1.4, capsize=2)
    axes[2].axhline(0, color=INK, ls="-", marker="", lw=0.8)
    axes[2].set(xlabel="distance of the middles, pixels", title="many pictures: pull to the digit", xlim=(0, None))
    return figure


# Recorded ------------------------------------------------------------------------------------------------------------

_READERS = ("learned windows", "random windows", "oracle windows", "full frames")


def recorded_focus(record: Mapping[str, Any] | None, *, batch: int = 64) -> Figure:
    """The recorded bench on clips: accuracy against multiply-adds, median and range of the seeds, and against time.

    Args:
        record: of `course bench temporal`, as `bench.latest` gives it, or None where nothing is recorded yet.
        batch: of the times in the right panel, which are those of one seed.
    """
    figure, (work, clock) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    rows = {row["name"]: row for row in record["rows"]} if record else {}
    for i, reader in enumerate(_READERS):
        mine = [row for name, row in rows.items() if name.startswith(f"accuracy: {reader}, ")]
        mine.sort(key=lambda row: row["details"]["frames"])
        look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i], "ms": 4.5}
        if mine:
            macs = [row["details"]["macs"] / 1e6 for row in mine]
            values = [row["details"]["values"] for row in mine]
            work.plot(macs, [row["median"] for row in mine], label=reader, **look)
            if len(values[0]) > 1:
                work.fill_between(macs, np.min(values, 1), np.max(values, 1), color=PALETTE[i], alpha=0.15, linewidth=0)
    contenders = {"AdaFocus, ": (0, "AdaFocus"), "full frames, ": (3, "full frames"), "AdaFocus online": (4, "online")}
    for start, (i, label) in contenders.items():
        mine = [row for name, row in rows.items() if name.startswith(f"batch {batch}, seed 0: {start}")]
        mine.sort(key=lambda row: row["details"]["frames"])
        look = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i], "ms": 4.5}
        if mine:
            clock.plot([r["median"] for r in mine], [r["details"]["accuracy"] for r in mine], label=label, **look)
    work.set(xlabel="M multiply-adds a clip", ylabel="test accuracy, %")
    clock.set(xlabel=f"clips per second, batch {batch}, one thread")
    for ax in (work, clock):
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="lower right" if ax is work else "lower left")
        else:
            ax.text(0.5, 0.5, "no recorded run yet", ha="center", va="center", transform=ax.transAxes)
    return figure
