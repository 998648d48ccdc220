"""Figures of how fast skipping is: halo, speed-up over density, break-even, waves of tiles, recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots.style import INK, LINES, MARKERS, PALETTE, VERMILION

__all__ = ["break_even_lines", "halo_shares", "recorded_skipping", "speedup_over_density", "wave_staircase", "waves"]

Curve = Sequence[tuple[float, float]]
_ORDER = ("pixels", "cells", "disc")


def halo_shares(curves: Mapping[str, Curve], *, mark: float = 0.25) -> Figure:
    """The share of positions touched against the share active, one line a kind of mask; the diagonal is no halo."""
    figure, ax = plt.subplots(figsize=(7.4, 3.8))
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls="-", marker="")
    ax.text(0.8, 0.75, "no halo", rotation=24, fontsize=8.5)
    for k, (name, curve) in enumerate(curves.items()):
        x, y = zip(*curve, strict=True)
        ax.plot(x, y, color=PALETTE[k], marker=MARKERS[k], ls=LINES[k], ms=5, label=name)
    ax.axvline(mark, color=VERMILION, lw=1, ls=":", marker="")
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="share of outputs active", ylabel="share of inputs touched")
    ax.legend(loc="lower right", title="masks made of")
    return figure


def speedup_over_density(
    curves: Mapping[str, Curve],
    *,
    floors: Mapping[str, Curve] | None = None,
    break_evens: Mapping[str, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """How many times as fast as dense, over the share of active positions, with the promise 1/d above it.

    Args:
        curves: kind of mask -> (density, speed-up) points.
        floors: kind of mask -> the best that multiply-adds and bytes allow, drawn thin.
        break_evens: kind of mask -> the density at which its curve crosses 1, marked there.
    """
    if ax is None:
        figure, ax = plt.subplots(figsize=(7.4, 4))
    else:
        figure = ax.figure  # type: ignore[assignment]
    highest = max(y for curve in curves.values() for _, y in curve)
    d = np.linspace(0.02, 1, 200)
    ax.plot(d, 1 / d, color=INK, lw=1.2, ls="-", marker="", label="1/d, the promise")
    ax.axhline(1, color=INK, lw=0.8, ls="-", marker="")
    for k, (name, curve) in enumerate(curves.items()):
        x, y = zip(*curve, strict=True)
        ax.plot(x, y, color=PALETTE[k], marker=MARKERS[k], ls=LINES[k], ms=5, label=name)
        if floors and name in floors:
            x, y = zip(*floors[name], strict=True)
            label = "floor: multiply-adds and bytes" if k == 0 else None
            ax.plot(x, y, color=PALETTE[k], lw=0.8, ls=LINES[k], marker="", alpha=0.7, label=label)
        if break_evens and name in break_evens:
            at = break_evens[name]
            ax.plot([at], [1], color=PALETTE[k], marker=MARKERS[k], ms=11, fillstyle="none", ls="", clip_on=False)
    if break_evens:
        ax.plot([], [], color=INK, marker="o", ms=11, fillstyle="none", ls="", label="break-even")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.25 * highest), title=title)
    ax.set(xlabel="share of positions active, d", ylabel="times as fast as dense")
    ax.legend(loc="upper right", fontsize=8.5)
    return figure


def break_even_lines(
    points: Curve, *, dense_s: float, fixed_s: float, full_s: float, unit: float = 1e-3, name: str = "ms"
) -> Figure:
    """Time over density: the straight line through two timings, the others beside it, and where dense is crossed.

    Args:
        points: (density, seconds), measured.
        dense_s, fixed_s, full_s: seconds of dense, of skipping with nothing active, with everything active.
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.6))
    ax.axhline(dense_s / unit, color=INK, ls="-", marker="", label="dense")
    ax.plot([0, 1], [fixed_s / unit, full_s / unit], color=PALETTE[1], ls=LINES[1], marker="", label="from two timings")
    ax.plot([0, 1], [fixed_s / unit, full_s / unit], color=PALETTE[1], ls="", marker=MARKERS[1], ms=8)
    x, y = zip(*points, strict=True)
    ax.plot(x, [value / unit for value in y], color=PALETTE[0], ls="", marker=MARKERS[0], label="the others, measured")
    at = (dense_s - fixed_s) / (full_s - fixed_s) if full_s > fixed_s else 1.0
    if 0 <= at <= 1:
        ax.plot([at, at], [0, dense_s / unit], color=PALETTE[1], lw=1, ls=":", marker="")
        ax.text(at - 0.01, 0.05 * dense_s / unit, f"predicted {at:.2f}", ha="right", fontsize=9)
    ax.set(xlim=(0, 1.03), ylim=(0, None), xlabel="share of positions active, d", ylabel=f"time of a block, {name}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)
    return figure


def waves(
    density: float, positions: int, channels: int, *, tile: tuple[int, int] = (128, 128), processors: int = 132
) -> tuple[int, int]:
    """Tiles of a masked convolution, and how many rounds the processors need for them.

    >>> waves(0.25, 25088, 256), waves(0.34, 25088, 256)
    ((98, 1), (134, 2))
    """
    tiles = -(-round(density * positions) // tile[0]) * -(-channels // tile[1])
    return tiles, -(-tiles // processors)


def wave_staircase(
    positions: int,
    channels: int,
    *,
    marks: Sequence[float] = (),
    tile: tuple[int, int] = (128, 128),
    processors: int = 132,
) -> Figure:
    """Computed, not measured: rounds of tiles over the density, beside the straight line of the multiply-adds.

    Args:
        positions, channels: of the output.
        marks: densities to point at.
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.6))
    d = np.linspace(0.002, 1, 1500)
    steps = [waves(float(x), positions, channels, tile=tile, processors=processors) for x in d]
    ax.plot(d, [count for _, count in steps], color=PALETTE[0], ls="-", marker="", label="rounds of tiles (computed)")
    ideal = [tiles / processors for tiles, _ in steps]
    ax.plot(d, ideal, color=PALETTE[1], ls=LINES[1], marker="", label="work, in rounds")
    for k, x in enumerate(marks):
        tiles, count = waves(x, positions, channels, tile=tile, processors=processors)
        ax.plot([x], [count], color=VERMILION, marker=MARKERS[k], ls="", ms=8)
        where = (x + 0.06, count - 0.45) if k % 2 else (x - 0.2, count + 0.28 + 0.1 * k)
        ax.annotate(f"d = {x:g}: {tiles} tiles", (x, count), where, fontsize=9, arrowprops={"arrowstyle": "-"})
    ax.set(xlim=(0, 1), ylim=(0, None), xlabel="share of positions active, d")
    ax.set(ylabel=f"rounds of {processors} processors")
    ax.legend(loc="lower right")
    return figure


def recorded_skipping(record: Mapping[str, Any] | None, blocks: Sequence[str]) -> Figure:
    """Recorded runs of `course bench sparse-conv`: speed-up over density, one panel a block.

    Args:
        record: what `bench.latest("sparse-conv", ...)` gave, or None.
        blocks: names of the blocks as in the rows, "block 512-128 at 28, N=1".
    """
    figure, axes = plt.subplots(1, len(blocks), figsize=(9, 3.8 if record else 1.2), sharey=True, squeeze=False)
    for ax, block in zip(axes[0], blocks, strict=True):
        rows = [row for row in (record["rows"] if record else []) if row["name"].startswith(f"{block}: ")]
        curves, floors, crossings = _recorded_curves(rows)
        if not curves:
            ax.text(0.5, 0.5, "no recorded run yet", ha="center", va="center", transform=ax.transAxes)
            ax.set(title=block, xticks=[], yticks=[])
            continue
        speedup_over_density(curves, floors=floors, break_evens=crossings, title=block, ax=ax)
        ax.title.set_fontsize(10)
    return figure


def _recorded_curves(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Points, floors and break-evens by kind of mask."""
    curves: dict[str, list[tuple[float, float]]] = {}
    floors: dict[str, list[tuple[float, float]]] = {}
    crossings: dict[str, float] = {}
    for kind in _ORDER:
        mine = [row for row in rows if row["details"].get("kind") == kind]
        for row in mine:
            details = row["details"]
            if details["way"] == "skip":
                curves.setdefault(kind, []).append((details["density"], row["median"]))
                floors.setdefault(kind, []).append((details["density"], details["floor"]))
            elif details["way"] == "break-even":
                crossings[kind] = row["median"]
    return curves, floors, crossings
