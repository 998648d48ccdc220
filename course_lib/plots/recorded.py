"""Figures of recorded benches: what `course bench NAME --record` wrote into the book, drawn as it was measured.

Every function takes the records as `bench.latest` gives them, None where nothing is recorded yet, and then says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from course_lib.plots.style import INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, SPENT, VERMILION

__all__ = ["recorded_curves", "recorded_networks", "recorded_readers", "recorded_speed", "recorded_training"]

Records = Mapping[str, Mapping[str, Any] | None]


def recorded_speed(results: Records, mac_ratio: float) -> Figure:
    """Recorded benches: how many times faster than the static network, beside what the multiply-adds promise.

    Args:
        results: for each data set the record of `course bench early-exit` that holds it (`bench.latest`), or None
            where nothing is recorded yet: then a prediction stands alone, and says so.
        mac_ratio: that prediction, multiply-adds of the static network over those of the adaptive one.
    """
    figure, axes = plt.subplots(1, len(results), figsize=(8, 3.6), sharey=True, squeeze=False)
    batches = (1, 32, 256)
    for ax, (task, result) in zip(axes[0], results.items(), strict=True):
        rows = {row["name"]: row for row in result["rows"]} if result else {}
        promised = rows.get(f"{task}: multiply-adds, static / adaptive", {"median": mac_ratio})["median"]
        for j, (contender, style) in enumerate(_CONTENDERS.items()):
            found = [(i, rows.get(f"{task}, batch {n}: {contender} / static")) for i, n in enumerate(batches)]
            bars = [(i + 0.27 * (j - 1), row) for i, row in found if row]
            for y, row in bars:
                reach = [[row["median"] - row["q25"]], [row["q75"] - row["median"]]]
                ax.barh(y, row["median"], 0.25, xerr=reach, ecolor=INK, capsize=2, label=contender, **style)
                ax.text(row["q75"] + 0.08, y, f"{row['median']:.2f}", va="center", fontsize=8.5, bbox=_PAPER)
        if not rows:
            ax.barh(1, promised, height=0.5, **SKIPPED)
            ax.text(0.1, 1, "no recorded run yet:\na prediction", va="center", fontsize=9, bbox=_PAPER)
        ax.axvline(promised, color=VERMILION, ls=LINES[1], marker="", label="promised by multiply-adds")
        ax.axvline(1, color=INK, lw=1, ls="-", marker="")
        ax.set(
            xlim=(0, promised * 1.25), title=f"{task}: multiply-adds {promised:.1f} x", xlabel="times as fast as static"
        )
        ax.set_yticks(range(len(batches)), [f"batch {n}" for n in batches])
        ax.grid(visible=False, axis="y")
    axes[0][0].invert_yaxis()
    handles = {label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure


_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind a number that a line would cross

# how each contender of the recorded bench is drawn
_CONTENDERS: dict[str, dict[str, Any]] = {
    "fixed exit": {"facecolor": "white", "edgecolor": INK, "hatch": "..", "linewidth": 0.8},
    "adaptive": SPENT,
    "queue": {"facecolor": ORANGE, "edgecolor": INK, "hatch": "xx", "linewidth": 0.8},
}


# MSDNet, RANet, L2W-DEN under one protocol ---------------------------------------------------------------------------


def recorded_networks(records: Records) -> Figure:
    """How many times as fast as MSDNet RANet was: at equal accuracy and at equal multiply-adds, with and without queue.

    Args:
        records: name of the data set -> the record of `course bench budgeted` on it, or None. A small dot is one seed,
            the large mark their median; right of the line RANet is faster.
    """
    figure, axes = plt.subplots(1, len(records), figsize=(9, 4.2), sharex=True, sharey=True, squeeze=False)
    lines = [(batch, kind, words) for batch in (1, 32, 256) for kind, words in _COMPARED.items()]
    for ax, (name, record) in zip(axes[0], records.items(), strict=True):
        rows = _rows(record)
        ax.axvline(1, color=INK, lw=1, ls="-", marker="")
        for line, (batch, kind, _) in enumerate(lines):
            for offset, queue, look in ((-0.16, "", _PLAIN), (0.16, ", queue", _QUEUED)):
                row = rows.get(f"batch {batch}: MSDNet / RANet at {kind}{queue}")
                if row is not None:
                    seeds = row["details"]["values"]
                    ax.plot(seeds, [line + offset] * len(seeds), ls="", marker=".", color=look["color"])
                    ax.plot(row["median"], line + offset, ls="", ms=8, **look)
        ax.set(title=name if rows else f"{name}: {_NOTHING}", xlabel="time of MSDNet / time of RANet")
        ax.set_yticks(range(len(lines)), [f"batch {batch}, {words}" for batch, _, words in lines])
        ax.grid(visible=False, axis="y")
        for y in (2.5, 5.5):
            ax.axhline(y, color="#D0D0D0", lw=0.8, ls="-", marker="")
    axes[0][0].invert_yaxis()
    handles = [plt.Line2D([], [], ls="", ms=8, **look) for look in (_PLAIN, _QUEUED)]
    figure.legend(handles, ["infer", "infer_stream"], loc="outside upper center", ncols=2)
    return figure


def recorded_curves(record: Mapping[str, Any] | None, networks: Sequence[str] = ("MSDNet", "RANet")) -> Figure:
    """Accuracy against multiply-adds, and the same settings against measured time, of one record of `budgeted`.

    The left panel takes the median over the seeds and shows the range as a band; the right is one seed, batch 256.
    """
    figure, (work, clock) = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    rows = _rows(record).values()
    for i, network in enumerate(networks):
        look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i], "ms": 5}
        mine = [row for row in rows if "rho" in row["details"] and row["details"]["network"] == network]
        planned, timed = ([row for row in mine if row["unit"] == unit] for unit in ("%", "images/s"))
        if planned:
            cost = [np.median(row["details"]["macs"]) / 1e6 for row in planned]
            low, high = ([f(row["details"]["values"]) for row in planned] for f in (min, max))
            work.plot(cost, [row["median"] for row in planned], label=network, **look)
            work.fill_between(cost, low, high, color=PALETTE[i], alpha=0.15, lw=0)
        speed = [1e3 / row["median"] for row in timed]
        clock.plot(speed, [row["details"]["accuracy"] for row in timed], label=network, **look)
    work.set(xlabel="mean cost per image, M multiply-adds", ylabel="test accuracy, %")
    clock.set(xlabel="time per image at batch 256, ms")
    clock.legend(loc="lower right")
    if record is None:
        work.set_title(_NOTHING)
    return figure


def recorded_training(records: Records) -> Figure:
    """What learned sample weights changed: accuracy of L2W-DEN less that of equal weights, at the shares of each rho.

    Args:
        records: name of the data set -> the record of `course bench budgeted` on it, or None. A small dot is one seed
            (both trainings from the same first weights), the large mark the median.
    """
    figure, axes = plt.subplots(1, len(records), figsize=(9, 3.2), sharey=True, squeeze=False)
    for ax, (name, record) in zip(axes[0], records.items(), strict=True):
        rows = _rows(record)
        rhos = [row["details"]["rho"] for key, row in rows.items() if key.startswith("MSDNet at rho ")]
        ax.axhline(0, color=INK, lw=1, ls="-", marker="")
        for i, rho in enumerate(rhos):
            equal, learned = (
                rows[f"{network} at rho {rho:g}"]["details"]["values"] for network in ("MSDNet", "L2W-DEN")
            )
            gains = [b - a for a, b in zip(equal, learned, strict=True)]
            ax.plot([i] * len(gains), gains, ls="", marker=".", color=_PLAIN["color"])
            ax.plot(i, np.median(gains), ls="", ms=8, **_PLAIN)
        ax.set_xticks(range(len(rhos)), [f"{rho:g}" for rho in rhos])
        ax.set(title=name if rows else f"{name}: {_NOTHING}", xlabel="ρ (small: leave early)")
        ax.grid(visible=False, axis="x")
    axes[0][0].set_ylabel("learned less equal weights,\npoints of accuracy")
    return figure


def _rows(record: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Rows by name, without the name of the data set in front."""
    found = record["rows"] if record else []
    return {row["name"].partition(", " if ", batch" in row["name"] else ": ")[2]: row for row in found}


_NOTHING = "no recorded run yet"
_COMPARED = {
    "equal accuracy": "equal accuracy",
    "a sixth of the multiply-adds": "a sixth of the work",
    "a quarter of the multiply-adds": "a quarter of the work",
}
_PLAIN: dict[str, Any] = {"color": PALETTE[0], "marker": MARKERS[0]}
_QUEUED: dict[str, Any] = {"color": PALETTE[1], "marker": MARKERS[1]}


def recorded_readers(record: Mapping[str, Any] | None) -> Figure:
    """Readers of real sentences: accuracy over the share of words read, and the spread of the seeds.

    Args:
        record: of `course bench temporal --data sentences`, or None where nothing is recorded yet.
    """
    figure, ax = plt.subplots(figsize=(7, 3.6))
    rows = {row["name"]: row for row in record["rows"]} if record else {}
    names = [name.removesuffix(": right") for name in rows if name.endswith(": right")]
    for k, name in enumerate(names):
        right, read = rows[f"{name}: right"], rows[f"{name}: read"]
        reach = [[[row["median"] - row["q25"]], [row["q75"] - row["median"]]] for row in (right, read)]
        style: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "color": PALETTE[k % len(PALETTE)], "ms": 8}
        ax.errorbar(read["median"], right["median"], reach[0], reach[1], capsize=2, ecolor=INK, label=name, **style)
    ax.set(xlabel="words read, %", ylabel="right, %", xlim=(0, 105))
    if names:
        ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        ax.text(50, 0.5, "nothing recorded yet", ha="center", va="center", bbox=_PAPER)
    return figure
