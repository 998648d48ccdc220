"""Figures of time by granularity: kernels in a row, ratios by rate, break-even, predicted and measured.

Every function returns a `Figure`. Each cell size S has its own colour, marker and line in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots.style import INK, LINES, MARKERS, PALETTE, SKIPPED, SPENT, VERMILION

if TYPE_CHECKING:
    from course_lib.spatial.lasnet import HardwareSpec

__all__ = [
    "granularity_dashboard",
    "kernel_timelines",
    "last_below_one",
    "predicted_and_measured",
    "ratio_curves",
    "ratios_by_rate",
    "recorded_granularity",
]

_SMALL = 8.5  # points; the smallest type in these figures
_RATES = np.linspace(0.05, 1.0, 39)
_LOOK = {f"S = {s}": i for i, s in enumerate((1, 2, 4, 7, 8))}  # the same colour and marker in every figure

Curve = tuple[Sequence[float], Sequence[float]]  #: rates, and a ratio for each


def kernel_timelines(rows: Mapping[str, Mapping[str, float]], launch_s: float) -> Figure:
    """Kernels one after the other, a line a schedule: each a bar as long as its time, with a tick for its launch.

    Args:
        rows: name of a schedule -> name of a kernel -> seconds.
        launch_s: what of each kernel is its launch.
    """
    figure, ax = plt.subplots(figsize=(8.6, 0.85 * len(rows) + 0.7))
    _timelines(ax, rows, launch_s)
    return figure


def _timelines(ax: Axes, rows: Mapping[str, Mapping[str, float]], launch_s: float) -> None:
    longest = max(sum(kernels.values()) for kernels in rows.values())
    unit, scale = ("ms", 1e3) if longest > 3e-3 else ("µs", 1e6)
    for y, (_, kernels) in enumerate(rows.items()):
        start = 0.0
        for name, seconds in kernels.items():
            ax.barh(y, seconds * scale, left=start * scale, height=0.74, **SPENT)
            ax.barh(y, launch_s * scale, left=start * scale, height=0.74, color=VERMILION, edgecolor=VERMILION, lw=0.8)
            upright: dict[str, Any] = {"rotation": 90} if seconds < 0.075 * longest else {}
            lines = name if upright else name.replace(" + ", "+\n").replace("-", "-\n")
            at = (start + seconds / 2) * scale
            ax.text(at, y, lines, ha="center", va="center", color="white", fontsize=_SMALL, linespacing=0.95, **upright)
            start += seconds
        ax.text((start + 0.008 * longest) * scale, y, f"{start * scale:.3g} {unit}", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(
        ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.12 * longest * scale), xlabel=f"{unit}; red: the launch of a kernel"
    )
    ax.grid(visible=False, axis="y")


def ratio_curves(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Time over that of the static block against the share computed; a star marks the last share that wins.

    Args:
        panels: title -> name of a series -> (rates, ratios), rates rising.
    """
    figure, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, figsize=(4.3 * len(panels) + 0.3, 3.5))
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        _ratios(ax, curves)
        ax.set_title(title)
    axes[0][0].set_ylabel("time / time of the static block")
    axes[0][-1].legend(loc="lower right")
    return figure


def _ratios(ax: Axes, curves: Mapping[str, Curve]) -> None:
    ax.axhline(1.0, color=INK, lw=1.2, ls="--", marker="")
    for place, (name, (rates, ratios)) in enumerate(curves.items()):
        i = _LOOK.get(name, place)
        mark: dict[str, Any] = {"marker": MARKERS[i], "markevery": max(1, len(rates) // 5), "ms": 5}
        ax.plot(rates, ratios, color=PALETTE[i], ls=LINES[i], label=name, **mark)
        edge = last_below_one(rates, ratios)
        if 0 < edge < 1:
            ax.scatter([edge], [1.0], marker="*", s=150, zorder=5, color=PALETTE[i], edgecolor=INK)
    ax.set(xlabel="share of cells computed", xlim=(0, 1.02), ylim=(0, 2.5))


def last_below_one(rates: Sequence[float], ratios: Sequence[float]) -> float:
    """The largest of `rates` at which the ratio is below 1; 0 if there is none."""
    return max((rate for rate, ratio in zip(rates, ratios, strict=True) if ratio < 1), default=0.0)


def ratios_by_rate(spec: HardwareSpec, stage: int, cells: Sequence[int]) -> dict[str, Curve]:
    """Predicted time of a stage's inner block over that of the static one, for every S in `cells`."""
    from course_lib.spatial.lasnet import predict_block, stage_blocks

    block = stage_blocks(stage, 2)[-1]
    static = predict_block(spec, **block)
    rates = _RATES.tolist()
    return {
        f"S = {s}": (rates, [predict_block(spec, granularity=s, rate=r, **block) / static for r in rates])
        for s in cells
    }


def granularity_dashboard(
    settings: Sequence[tuple[str, HardwareSpec, int, float]], *, depth: Sequence[int] = (3, 4, 23, 3)
) -> Figure:
    """For each (name of a device, device, stage from 0, rate): ratios, time lines, and the granularity it chooses.

    Left: time over static against the rate, for every S, at this stage. Middle: the kernels of its block, static and
    at the best S. Right: predicted time of every stage of the network, static (pale: saved) and at the chosen S.
    """
    figure, axes = plt.subplots(len(settings), 3, squeeze=False, figsize=(9.3, 2.75 * len(settings) + 0.1))
    for row, (name, spec, stage, rate) in zip(axes, settings, strict=True):
        _dashboard_row(row, name, spec, stage, rate, depth)
    return figure


def _dashboard_row(
    axes: Sequence[Axes], name: str, spec: HardwareSpec, stage: int, rate: float, depth: Sequence[int]
) -> None:
    from course_lib.spatial import lasnet

    chosen, seconds, table = lasnet.choose_granularity(spec, depth=depth, rate=rate)
    best, block = chosen[stage], lasnet.stage_blocks(stage, 2)[-1]
    _ratios(axes[0], ratios_by_rate(spec, stage, list(table[stage])))
    axes[0].axvline(rate, color=INK, lw=1)
    axes[0].set_title(f"{name}, stage {stage + 1} ({block['size']}x{block['size']})", fontsize=9.5)
    axes[0].set_ylabel("time / static", fontsize=9)
    key = axes[0].legend(fontsize=_SMALL, loc="upper left", handlelength=1.6, labelspacing=0.25, frameon=True)
    key.get_frame().set(edgecolor="none", alpha=1.0)
    static = lasnet.block_kernels(spec, **block)
    dynamic = lasnet.block_kernels(spec, granularity=best, rate=rate, **block)
    _short_timelines(axes[1], {"static": static, f"S = {best}": dynamic}, spec.launch_s)
    axes[1].set_title(f"a block at rate {rate:.2f}", fontsize=9.5)
    times = [
        [lasnet.predict_stage(spec, k, blocks, granularity=s, rate=rate) for s in (None, chosen[k])]
        for k, blocks in enumerate(depth)
    ]
    unit, scale = ("ms", 1e3) if seconds > 3e-3 else ("µs", 1e6)
    place = np.arange(1, len(depth) + 1)
    whole, sparse = np.array(times).T * scale
    axes[2].bar(place, whole, 0.7, **SKIPPED)
    axes[2].bar(place, sparse, 0.7, **SPENT)
    for x, top, s in zip(place.tolist(), np.maximum(whole, sparse), chosen, strict=True):
        axes[2].text(x, top, f"S={s}", ha="center", va="bottom", fontsize=9)
    axes[2].set(xlabel="stage", ylabel=unit, xticks=place, ylim=(0, 1.18 * max(whole.max(), sparse.max())))
    axes[2].grid(visible=False, axis="x")
    share = seconds / lasnet.predict_network(spec, depth=depth)
    axes[2].set_title(f"{'-'.join(map(str, chosen))}: {share:.2f} of static", fontsize=9.5)


def _short_timelines(ax: Axes, rows: Mapping[str, Mapping[str, float]], launch_s: float) -> None:
    """Time lines too narrow for names inside: the kernels are numbered in order."""
    longest = max(sum(kernels.values()) for kernels in rows.values())
    unit, scale = ("ms", 1e3) if longest > 3e-3 else ("µs", 1e6)
    for y, kernels in enumerate(rows.values()):
        start = 0.0
        for seconds in kernels.values():
            ax.barh(y, seconds * scale, left=start * scale, height=0.5, **SPENT)
            ax.barh(y, launch_s * scale, left=start * scale, height=0.5, color=VERMILION, edgecolor=VERMILION, lw=0.8)
            start += seconds
        ax.text(0, y + 0.32, ", ".join(kernels), fontsize=_SMALL - 0.5, va="top", ha="left")
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9)
    ax.set(ylim=(len(rows) - 0.3, -0.5), xlim=(0, 1.04 * longest * scale), xlabel=unit)
    ax.grid(visible=False, axis="y")


def predicted_and_measured(panels: Mapping[str, Mapping[str, tuple[Curve, Curve]]]) -> Figure:
    """A hypothesis beside its test: ratios by rate, predicted as lines and measured as points.

    Args:
        panels: title -> name of a series -> (predicted (rates, ratios), measured (rates, ratios)).
    """
    figure, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, figsize=(4.3 * len(panels) + 0.3, 3.4))
    top = 1.2
    for ax, (title, series) in zip(axes[0], panels.items(), strict=True):
        ax.axhline(1.0, color=INK, lw=1.2, ls="--", marker="")
        for i, (name, (predicted, measured)) in enumerate(series.items()):
            ax.plot(*predicted, color=PALETTE[i], ls=LINES[i], marker="", label=f"{name}, predicted")
            look: dict[str, Any] = {"color": PALETTE[i], "ls": "", "marker": MARKERS[i], "markeredgecolor": INK}
            ax.plot(*measured, label=f"{name}, measured", **look)
            top = max(top, *measured[1])
        ax.set(title=title, xlabel="share of cells computed", xlim=(0, 1.04))
    axes[0][0].set(ylabel="time / time of the static block", ylim=(0, 1.08 * top))
    axes[0][-1].legend(loc="upper left", fontsize=_SMALL)
    return figure


def recorded_granularity(records: Mapping[str, Mapping[str, Any] | None], mark: float = 1 / (1 - 0.36)) -> Figure:
    """Recorded runs of whole networks: times as fast as the static one by rate, measured and predicted.

    Args:
        records: title -> the record of `course bench lasnet`, or None where nothing is recorded yet.
        mark: the published gain, drawn where a GPU was measured.
    """
    figure, axes = plt.subplots(1, len(records), squeeze=False, sharey=True, figsize=(4.3 * len(records) + 0.3, 3.6))
    for ax, (title, record) in zip(axes[0], records.items(), strict=True):
        ax.axhline(1.0, color=INK, lw=1.2, ls="--", marker="")
        for i, (name, rows) in enumerate(_recorded_networks(record).items()):
            rates, medians = [row["details"]["rate"] for row in rows], [row["median"] for row in rows]
            reach = np.abs([[row["median"] - row["q25"], row["q75"] - row["median"]] for row in rows]).T
            ax.plot(
                rates, [row["details"]["predicted"] for row in rows], color=PALETTE[i], ls=LINES[i], lw=1, marker=""
            )
            look: dict[str, Any] = {"color": PALETTE[i], "ls": "", "marker": MARKERS[i], "markeredgecolor": INK}
            ax.errorbar(np.array(rates) + 0.012 * i, medians, yerr=reach, ecolor=INK, capsize=2, label=name, **look)
        if record is not None and record["machine"]["device"] == "cuda":
            ax.axhline(mark, color=VERMILION, lw=1, ls=":", marker="")
            ax.text(0.98, mark + 0.02, "published for a V100", ha="right", va="bottom", fontsize=_SMALL)
        elif record is None:
            ax.text(0.5, 1.5, "no recorded run yet", ha="center", fontsize=9)
        ax.set(title=title, xlabel="share of cells computed", xlim=(0.15, 1.0))
    axes[0][0].set_ylabel("times as fast as the static network")
    key = next((ax for ax, record in zip(axes[0], records.values(), strict=True) if record is not None), None)
    if key is not None:
        key.legend(title="cells (points: measured,\nthin lines: predicted)", title_fontsize=_SMALL, fontsize=_SMALL)
    return figure


def _recorded_networks(record: Mapping[str, Any] | None) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each granularity, by rate; cells 4-4-2-1 under the name "4-4-2-1"."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["rows"] if record else ():
        if row["name"].startswith("network ") and "rate" in row["details"]:
            found.setdefault("-".join(map(str, row["details"]["cells"])), []).append(row)
    return {name: sorted(rows, key=lambda row: row["details"]["rate"]) for name, rows in found.items()}
