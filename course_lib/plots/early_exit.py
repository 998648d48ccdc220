"""Figures of networks with exits: the curve, who left where, and how many rows each block really ran.

Every function returns a `Figure` and takes stored results, so that it can be drawn again at another setting at once.
Work that was skipped is pale and hatched; exits are diamonds and keep their order from top to bottom or left to right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib import decision
from course_lib.measure import CostCurve
from course_lib.plots.style import BLUE, INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, SPENT, VERMILION

__all__ = [
    "accuracy_cost_curve",
    "accuracy_curves",
    "block_calls",
    "confidence_histograms",
    "early_exit_dashboard",
    "mosaic",
    "rows_per_block",
    "share_bars",
    "who_left_where",
]

MILLION = 1e6
_SMALL = 8.5  # points; the smallest type in these figures


# Curves, shares, confidences -----------------------------------------------------------------------------------------


def accuracy_cost_curve(study: decision.ExitStudy) -> Figure:
    """Accuracy against mean cost: the mixture's curve, and the staircase of the exits taken by everybody."""
    figure, ax = plt.subplots(figsize=(7.5, 4))
    _curve(ax, study, study.sweep())
    ax.legend(loc="lower right")
    return figure


def _curve(ax: Axes, study: decision.ExitStudy, points: Sequence[decision.OperatingPoint]) -> None:
    cost, accuracy = np.array(study.costs) / MILLION, 100 * np.array(study.accuracies)
    best = np.maximum.accumulate(accuracy)
    ax.step(cost, best, where="post", color=INK, lw=1.2, ls="--", marker="", label="everybody at one exit")
    ax.plot(cost, accuracy, ls="", marker="D", color=ORANGE, markeredgecolor=INK)
    for k, (x, y) in enumerate(zip(cost, accuracy, strict=True)):
        ax.annotate(f"exit {k + 1}", (x, y), (4, -13), textcoords="offset points", fontsize=_SMALL)
    ordered = sorted(points, key=lambda point: point.cost)
    x, y = [p.cost / MILLION for p in ordered], [100 * p.accuracy for p in ordered]
    ax.plot(x, y, color=BLUE, marker=".", label="each when it is sure")
    ax.set(xlabel="mean cost per image, M multiply-adds", ylabel="test accuracy, %")
    ax.margins(x=0.1, y=0.12)


def accuracy_curves(
    panels: Mapping[str, Mapping[str, CostCurve]], *, exits: Mapping[str, Mapping[str, CostCurve]] | None = None
) -> Figure:
    """Several networks in the same axes: accuracy against what it costs, one panel a kind of cost.

    Args:
        panels: label of the cost axis (unit included) -> name of the network -> its curve, accuracies in [0, 1].
        exits: for each panel and network the exits taken by everybody, drawn as diamonds in the network's colour.
    """
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, figsize=(4.4 * len(panels) + 0.4, 3.6))
    for ax, (label, curves) in zip(axes[0], panels.items(), strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i], "ms": 4}
            ax.plot(curve.costs, 100 * np.array(curve.accuracies), label=name, **look)
            fixed = (exits or {}).get(label, {}).get(name)
            if fixed is not None:
                look = {"color": PALETTE[i], "ls": "", "marker": "D", "markeredgecolor": INK}
                ax.plot(fixed.costs, 100 * np.array(fixed.accuracies), label=f"{name}: one exit for all", **look)
        ax.set_xlabel(label)
    axes[0][0].set_ylabel("test accuracy, %")
    axes[0][-1].legend(loc="lower right")
    return figure


def share_bars(planned: Sequence[float], realised: Mapping[str, Sequence[float]]) -> Figure:
    """Shares of images that leave at each exit: planned (hollow), and what happened, one series a name."""
    figure, ax = plt.subplots(figsize=(7, 3))
    _shares(ax, planned, realised)
    ax.legend()
    return figure


def _shares(ax: Axes, planned: Sequence[float], realised: Mapping[str, Sequence[float]]) -> None:
    place = np.arange(1, len(planned) + 1)
    width = 0.8 / (1 + len(realised))
    ax.bar(place - 0.4 + width / 2, planned, width, facecolor="white", edgecolor=INK, label="planned")
    hatches = ("", "...", "xx")
    for i, (name, shares) in enumerate(realised.items(), start=1):
        at = place - 0.4 + width * (i + 0.5)
        ax.bar(at, shares, width, color=PALETTE[i - 1], edgecolor="white", hatch=hatches[(i - 1) % 3], label=name)
    ax.set(xlabel="exit", ylabel="share of the images", xticks=place)
    ax.grid(visible=False, axis="x")


def confidence_histograms(confidence: Tensor, thresholds: Sequence[float]) -> Figure:
    """For each exit the confidences of the images still there: those that leave are filled, those that stay hollow.

    Args:
        confidence: (N, K); thresholds: (K,), the last is ignored.
    """
    exits = confidence.shape[1]
    figure, axes = plt.subplots(exits, 1, sharex=True, figsize=(7, 1.1 * exits + 0.6))
    _histograms(axes, confidence, thresholds)
    return figure


def _histograms(axes: Sequence[Axes], confidence: Tensor, thresholds: Sequence[float]) -> None:
    taken = decision.choose_exit(confidence, list(thresholds))
    bins = np.linspace(0, 1, 41)
    for k, ax in enumerate(axes):
        here, leaves = taken >= k, taken == k
        staying = np.histogram(confidence[here & ~leaves, k].numpy(), bins)[0]
        leaving = np.histogram(confidence[leaves, k].numpy(), bins)[0]
        ax.stairs(leaving, bins, fill=True, color=BLUE, alpha=0.9)
        ax.stairs(staying, bins, color=INK, lw=1.0)
        last = k == len(axes) - 1
        if not last and np.isfinite(thresholds[k]):
            ax.axvline(thresholds[k], color=VERMILION, ls="--", lw=1.4)
        note = f"exit {k + 1}: " + ("the rest" if last else f"θ = {thresholds[k]:.2f}")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        ax.text(0.02, 0.9, note, transform=ax.transAxes, fontsize=_SMALL, va="top", bbox=box)
        ax.set(yticks=[], xlim=(0.1, 1.01), ylim=(0, 1.45 * max(leaving.max(), staying.max(), 1)))  # the note's room
        ax.grid(visible=False)
    axes[-1].set_xlabel("confidence (filled: leaves here)")


# Who left where ------------------------------------------------------------------------------------------------------


def mosaic(images: Tensor, exit_index: Tensor, exits: int, columns: int) -> Tensor:
    """One picture with a row an exit: the first `columns` images that left there, white where there are fewer.

    images: (N, 3, H, W) in [0, 1]; exit_index: (N,) -> (exits (H + 2), columns (W + 2), 3), a white seam of 2 pixels.
    """
    height, width = images.shape[2] + 2, images.shape[3] + 2
    canvas = torch.ones(exits * height, columns * width, 3)
    for k in range(exits):
        for column, i in enumerate((exit_index == k).nonzero().flatten()[:columns].tolist()):
            top, left = k * height, column * width
            canvas[top : top + height - 2, left : left + width - 2] = images[i].permute(1, 2, 0)
    return canvas


def who_left_where(
    images: Tensor,
    exit_index: Tensor,
    exits: int,
    known: Tensor,
    *,
    what: str = "mean difficulty",
    columns: int = 13,
) -> Figure:
    """A row of pictures for each exit, with the share that left there and the mean of something known about them.

    images: (N, 3, H, W) in [0, 1]; exit_index: (N,) int64; known: (N,), such as what makes an image hard, named `what`.
    """
    figure, ax = plt.subplots(figsize=(9, 0.43 * exits + 0.15))
    _gallery(ax, images, exit_index, exits, columns)
    height = images.shape[2] + 2
    for k in range(exits):
        left = exit_index == k
        mean = f"{float(known[left].mean()):.2f}" if left.any() else "-"
        note = f"{100 * float(left.double().mean()):.0f} %, {what} {mean}"
        ax.text(columns * (images.shape[3] + 2) + 2, (k + 0.45) * height, note, va="center", fontsize=9)
    return figure


def _gallery(ax: Axes, images: Tensor, exit_index: Tensor, exits: int, columns: int) -> None:
    height = images.shape[2] + 2
    ax.imshow(mosaic(images, exit_index, exits, columns).numpy(), interpolation="nearest")
    ax.set_yticks([(k + 0.45) * height for k in range(exits)], [f"exit {k + 1}" for k in range(exits)])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def early_exit_dashboard(
    rho: float | Sequence[float],
    *,
    study: decision.ExitStudy,
    points: Sequence[decision.OperatingPoint],
    images: Tensor,
) -> Figure:
    """What one number sets: the point on the curve, the shares, the thresholds, and who leaves where.

    One row of panels for each `rho` given, all read off stored logits: nothing is computed by a network here.

    Args:
        points: the whole curve, for the background (`study.sweep()`).
        images: (N, 3, H, W) in [0, 1], those of the study's test samples.
    """
    rhos = [rho] if isinstance(rho, (int, float)) else list(rho)
    exits, height = study.exits, 3.1
    # positions by hand: solving the layout anew would take longer than drawing
    figure = plt.figure(figsize=(9.4, height * len(rhos)), layout="none")
    for row, point in enumerate(study.sweep(rhos)):
        place = {"top": 1 - (row + 0.1) / len(rhos), "bottom": 1 - (row + 0.84) / len(rhos)}
        spans = ((0.065, 0.285), (0.345, 0.5), (0.53, 0.73), (0.79, 0.995))
        areas = [figure.add_gridspec(1, 1, left=left, right=right, **place)[0] for left, right in spans]
        _dashboard_curve(figure.add_subplot(areas[0]), study, points, point)
        bars = figure.add_subplot(areas[1])
        _shares(bars, point.planned, {"realised": point.realised})
        bars.set_title("shares: planned, realised", fontsize=9)
        bars.set(ylim=(0, 1), ylabel="")
        stack = areas[2].subgridspec(exits, 1, hspace=0.12)
        axes = [figure.add_subplot(stack[k]) for k in range(exits)]
        _histograms(axes, study.test_confidence, point.thresholds)
        for ax in axes[:-1]:
            ax.set_xticklabels([])
        gallery = figure.add_subplot(areas[3])
        _gallery(gallery, images, study.exit_index(point.thresholds), exits, 5)
        gallery.set_title("who left where", fontsize=9)
    return figure


def _dashboard_curve(
    ax: Axes, study: decision.ExitStudy, points: Sequence[decision.OperatingPoint], point: decision.OperatingPoint
) -> None:
    _curve(ax, study, points)
    ax.plot([point.cost / MILLION], [100 * point.accuracy], marker="o", ms=11, mfc="none", mew=2.2, color=VERMILION)
    ax.set_title(f"ρ = {point.rho:.2f}: {point.cost / MILLION:.2f} M, {100 * point.accuracy:.1f} %", fontsize=9)
    ax.set_xlabel("mean cost, M")
    ax.margins(x=0.2)


# What was really run -------------------------------------------------------------------------------------------------


def rows_per_block(runs: Mapping[str, Sequence[int]], images: int) -> Figure:
    """Images each block worked on, out of `images`, one panel a way of running; rows not computed are hatched."""
    figure, axes = plt.subplots(1, len(runs), sharey=True, squeeze=False, figsize=(min(9.0, 3.1 * len(runs) + 1), 2.3))
    for ax, (name, rows) in zip(axes[0], runs.items(), strict=True):
        for k, count in enumerate(rows):
            ax.barh(k, count, height=0.7, **SPENT)
            ax.barh(k, images - count, left=count, height=0.7, **SKIPPED)
            beside = count < images * 0.8  # else the number stands inside the bar
            at, ha, ink = (count + images * 0.02, "left", INK) if beside else (count * 0.97, "right", "white")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if beside else None
            ax.text(at, k, str(count), va="center", ha=ha, fontsize=9, color=ink, bbox=box)
        ax.set_title(name, fontsize=10)
        ax.set(xlim=(0, images), xlabel="rows")
        ax.grid(visible=False)
    blocks = len(next(iter(runs.values())))
    axes[0][0].set_yticks(range(blocks), [f"block {k + 1}" for k in range(blocks)])
    axes[0][0].invert_yaxis()
    return figure


def block_calls(runs: Mapping[str, Sequence[Sequence[int]]], batch_size: int) -> Figure:
    """How many rows each *call* of each block had, one column a way of running; a dashed line marks a full batch.

    runs: name -> for every block the rows of its calls, in order.
    """
    blocks = len(next(iter(runs.values())))
    longest = max(len(calls) for rows in runs.values() for calls in rows)
    figure, axes = plt.subplots(
        blocks, len(runs), sharex=True, sharey=True, squeeze=False, figsize=(8.5, 0.95 * blocks + 0.8)
    )
    for column, (name, rows) in enumerate(runs.items()):
        for k, calls in enumerate(rows):
            ax = axes[k][column]
            ax.bar(range(1, len(calls) + 1), calls, width=0.85, **SPENT)
            ax.axhline(batch_size, color=VERMILION, lw=1, ls="--", marker="")
            mean = np.mean(calls) if len(calls) else 0
            note = f"{len(calls)} calls, {mean:.0f} rows each"
            ax.text(0.995, 0.98, note, transform=ax.transAxes, ha="right", va="top", fontsize=_SMALL)
            ax.grid(visible=False)
            ax.set(xlim=(0.4, longest + 0.6), ylim=(0, batch_size * 1.6), yticks=[0, batch_size])
            if column == 0:
                ax.set_ylabel(f"block {k + 1}")
        axes[0][column].set_title(name)
        axes[-1][column].set_xlabel("call")
    return figure
